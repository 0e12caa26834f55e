"""An answer's statements, whether words support them, and ALCE's recall and precision, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pipelines.core.entailment import Lexical, Piece, Verdict
from pipelines.core.statements import Statement, statements, without_marks
from pipelines.core.support import support


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It is 90 mm [1]. It is steel [2][3].", [("It is 90 mm.", (1,)), ("It is steel.", (2, 3))]),
        ("It is 90 mm. [1] It is steel.[2]", [("It is 90 mm.", (1,)), ("It is steel.", (2,))]),
        ("孔距是90 mm [1]。材料为钢[1, 2]。", [("孔距是90 mm。", (1,)), ("材料为钢。", (1, 2))]),
        ("It is 3.5 mm, see Fig. 2 [1]", [("It is 3.5 mm, see Fig. 2", (1,))]),
        ("Made by J. Smith e.g. in May [1]. Yes!", [("Made by J. Smith e.g. in May.", (1,)), ("Yes!", ())]),
        ("It needs 230 V. It is red.", [("It needs 230 V.", ()), ("It is red.", ())]),
        ("No. It takes 5 min. Then it ends.", [("No.", ()), ("It takes 5 min.", ()), ("Then it ends.", ())]),
        ("See No. 5, max. 3 A.", [("See No. 5, max. 3 A.", ())]),
        ("One [1]\n- two [2]\n[3]", [("One", (1,)), ("- two", (2, 3))]),
        ("[1] It is red.", [("It is red.", (1,))]),
        ("[2]. It is red [1].", [("It is red.", (2, 1))]),
        ("A [1] and b [1].", [("A and b.", (1,))]),
        ("孔距是90 mm【1】。材料为钢［1，2］。", [("孔距是90 mm。", (1,)), ("材料为钢。", (1, 2))]),
        ("It is 90 mm.【1】 It is steel. ［2］", [("It is 90 mm.", (1,)), ("It is steel.", (2,))]),
        ("3.【1】", [("3.", (1,))]),
        ("【注意】高温【1]。", [("【注意】高温【1]。", ())]),
        ("1. Open it [1].\n2. Close it [1].", [("Open it.", (1,)), ("Close it.", (1,))]),
        (
            "Do so.\n  1) Open it [1].\n  (2) Close it [2].",
            [("Do so.", ()), ("Open it.", (1,)), ("Close it.", (2,))],
        ),
        ("1、打开[1]。\n2.关闭[2]。", [("打开。", (1,)), ("关闭。", (2,))]),
        ("第一步：打开[1]。\n第 2 步：\n关闭[2]。", [("打开。", (1,)), ("关闭。", (2,))]),
        ("**Step 1:** Open it [1].\n② Close it [2].", [("Open it.", (1,)), ("Close it.", (2,))]),
        ("3. [1]", [("3.", (1,))]),  # the answer itself
        ("3.5 mm [1].\n2020. It is old.", [("3.5 mm.", (1,)), ("2020.", ()), ("It is old.", ())]),
        ("1、2号是红色的[1]。", [("1、2号是红色的。", (1,))]),
        ("It has 4. 5) is not a list [1].", [("It has 4.", ()), ("5) is not a list.", (1,))]),
        ("...", []),
        ("", []),
    ],
)
def test_an_answers_statements(answer: str, expected: list[tuple[str, tuple[int, ...]]]) -> None:
    assert [(one.text, one.cited) for one in statements(answer)] == expected


def test_a_lists_numbers_are_not_asked_of_the_evidence() -> None:
    found = support(
        statements("1. Open the valve [1].\n2) Close it [1]."),
        {1: text("open the valve, close it")},
        Lexical(),
    )
    assert (found.recall, found.precision) == (1, 1)


def test_marks_are_not_read_aloud() -> None:
    assert without_marks("90 mm [1][ 2 , 3 ].") == "90 mm."
    assert without_marks("90 mm【1】［ 2 , 3 ］。") == "90 mm。"
    assert without_marks("the matrix [a]") == "the matrix [a]"


def text(words: str) -> Piece:
    return Piece("doc#txt-0", words)


PICTURE = Piece("doc#img-0", "", has_picture=True)


@pytest.mark.parametrize(
    ("statement", "evidence", "expected"),
    [
        ("The hole spacing is 90 mm.", [text("hole spacing: 90 mm")], "supported"),
        ("The hole spacing is 90mm.", [text("hole spacing: 90 mm")], "supported"),
        ("The hole spacing is 95 mm.", [text("hole spacing: 90 mm")], "unsupported"),  # its number
        ("The spacing is 90.0 mm.", [text("spacing 90 mm")], "unsupported"),  # 2 of 3 words
        ("It is -5 °C", [text("5 °C")], "unsupported"),
        ("The bolt is 12 mm.", [text("bolt 1/2 mm")], "unsupported"),
        ("The bolt is 10-20 mm.", [text("bolt: 10–20 mm")], "supported"),
        ("The hole spacing", [text("hole spacing"), PICTURE], "supported"),
        ("The blue cat sat", [text("a blue cat"), text("that sat")], "supported"),  # together
        ("安装孔距是90毫米", [text("安装孔距90毫米")], "supported"),
        ("安装孔距是95毫米", [text("安装孔距90毫米")], "unsupported"),
        ("It is red.", [PICTURE], "unseen"),
        ("It is red.", [text("it is blue"), PICTURE], "unseen"),
        ("It is red.", [text("")], "unseen"),  # its words are not at hand
        ("It is.", [text("it is")], "unsupported"),  # stop words say nothing
        ("It is red.", [], "unsupported"),
    ],
)
def test_words_that_support(statement: str, evidence: list[Piece], expected: Verdict) -> None:
    assert Lexical(0.75)(statement, evidence) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The power is 265 W", "Power 265W"),
        ("水泵 KD-47的电压是120 V", "水泵KD-47 电压120V"),
        ("The voltage is 120 V", "voltage:120V"),
        ("The voltage is 120 V", "|Voltage|120V|"),
        ("The voltage is 120 V", "voltage：120V，"),
        ("The area is 90 mm²", "area=90mm²"),
        ("It is at -5 °C", "at:-5°C"),
        ("The rated current is 5 A", "rated current 5A"),
        ("The pump KD 47", "pump KD-47"),
        ("The scale is 3:4", "scale:3:4"),
    ],
)
def test_a_unit_is_the_same_beside_its_number_and_apart(one: str, other: str) -> None:
    assert Lexical(0.75)(one, [text(other)]) == "supported"
    assert Lexical(0.75)(other, [text(one)]) == "supported"


@pytest.mark.parametrize(
    ("statement", "evidence"),
    [
        ("The power is 265 W", "power 2650W"),
        ("The power is 26 W", "power 265W"),
        ("The power is 65 W", "power 265W"),
        ("It weighs 7 kg", "KD-47 weighs 12kg"),
        ("It weighs 47 kg", "KD-47 weighs 12kg"),
        ("The rated current is 5 A", "rated current 5.5A"),
        ("The voltage is 5 V", "voltage:12V, current:5A"),
        ("The scale is 3", "scale:4:3"),
    ],
)
def test_a_part_of_a_number_or_of_a_name_and_another_unit_are_no_support(
    statement: str, evidence: str
) -> None:
    assert Lexical(0.75)(statement, [text(evidence)]) == "unsupported"


def test_the_coverage_is_a_share_of_the_words() -> None:
    evidence = [text("red green blue")]
    assert Lexical(0.75)("red green blue black", evidence) == "supported"
    assert Lexical(0.76)("red green blue black", evidence) == "unsupported"


class Table:
    """An entailment judge that knows what each set of pieces supports."""

    def __init__(self, **verdicts: Verdict) -> None:
        self._verdicts = verdicts

    def __call__(self, statement: str, evidence: Sequence[Piece]) -> Verdict:
        return self._verdicts.get("".join(piece.id for piece in evidence), "unsupported")


EVIDENCE = {1: Piece("a", ""), 2: Piece("b", ""), 3: Piece("c", "")}


def claim(*cited: int) -> Statement:
    return Statement("it is so", cited)


@pytest.mark.parametrize(
    ("cited", "verdicts", "recall", "precision"),
    [
        ((1,), {"a": "supported"}, 1, 1),
        ((1,), {}, 0, 0),
        ((), {}, 0, 0),
        # b adds nothing: it does not support alone, and without it the rest does.
        ((1, 2), {"ab": "supported", "a": "supported"}, 1, 1 / 2),
        # Only together: neither alone, and without either the support is gone.
        ((1, 2), {"ab": "supported"}, 1, 1),
        # Both alone: ALCE does not ask for a minimal set.
        ((1, 2), {"ab": "supported", "a": "supported", "b": "supported"}, 1, 1),
        # Alone it would do, but together they are not judged to: precision counts only with recall.
        ((1, 2), {"a": "supported"}, 0, 0),
        # A number that there is no evidence for is a citation that is not relevant.
        ((1, 9), {"a": "supported"}, 1, 1 / 2),
        ((9,), {}, 0, 0),
        # Three, of which c is not needed.
        ((1, 2, 3), {"abc": "supported", "ab": "supported"}, 1, 2 / 3),
        # What was not seen is neither.
        ((1,), {"a": "unseen"}, None, None),
        ((1, 9), {"a": "unseen"}, None, 0),
        ((1, 2), {"ab": "supported", "a": "supported", "b": "unseen"}, 1, 1),
    ],
)
def test_recall_and_precision_of_one_statement(
    cited: tuple[int, ...], verdicts: dict[str, Verdict], recall: float | None, precision: float | None
) -> None:
    found = support([claim(*cited)], EVIDENCE, Table(**verdicts))
    assert (found.recall, found.precision) == (recall, precision)


def test_several_statements_share_recall_and_their_citations_precision() -> None:
    entails = Table(a="supported", b="unseen", c="unparsable")
    found = support([claim(1), claim(), claim(2), claim(3)], EVIDENCE, entails)
    assert found.verdicts == {"supported": 1, "unsupported": 1, "unseen": 1, "unparsable": 1}
    assert found.recall == 1 / 2  # of the two that were decided
    assert found.precision == 1
    assert found.undecided == 2


def test_an_answer_that_cites_only_what_is_not_seen_has_no_precision() -> None:
    found = support([claim(), claim(2)], EVIDENCE, Table(b="unseen"))
    assert found.recall == 0
    assert found.precision is None


def test_what_was_asked_of_the_judge_is_not_asked_again() -> None:
    asked: list[str] = []

    def entails(statement: str, evidence: Sequence[Piece]) -> Verdict:
        asked.append("".join(piece.id for piece in evidence))
        return "supported" if len(evidence) == 2 else "unsupported"

    assert support([claim(1, 2)], EVIDENCE, entails).precision == 1
    assert asked == ["ab", "a", "b"]


def test_an_answer_without_statements_has_neither() -> None:
    found = support([], EVIDENCE, Table())
    assert (found.recall, found.precision) == (None, None)
