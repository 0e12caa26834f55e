"""Exact match, token F1 and ROUGE-L, by hand."""

from __future__ import annotations

import pytest

from pipelines.evaluate.overlap import exact_match, rouge_l, token_f1


@pytest.mark.parametrize(
    ("answer", "references", "expected"),
    [
        ("The red rose.", ["red rose"], 1),
        ("a red rose", ["rose", "Red  Rose!"], 1),
        ("90 mm", ["90.5 mm"], 0),
        ("3.5", ["35"], 0),
        ("-5", ["5"], 0),
        ("九十毫米。", ["九十毫米"], 1),
        ("A", ["B"], 0),
        ("A", ["a"], 1),
        ("", ["x"], 0),
        ("1/2", ["12"], 0),
        ("10-20 mm", ["1020 mm"], 0),
        ("10–20 mm", ["10-20 mm"], 1),
        ("3:4", ["34"], 0),
        ("<5", [">5"], 0),
        ("2^3", ["23"], 0),
        ("3,5", ["35"], 0),
        ("1,000", ["1000"], 1),
        ("-", ["+"], 0),
        ("+", ["+."], 0),
        ("+", [" + "], 1),
    ],
)
def test_exact_match(answer: str, references: list[str], expected: float) -> None:
    assert exact_match(answer, references) == expected


def test_f1_is_the_harmonic_mean_of_shared_tokens() -> None:
    # said: hole spacing is 90 mm (5), wanted: 90 mm (2), shared 2: P 2/5, R 1
    assert token_f1("The hole spacing is 90 mm", ["90 mm"]) == pytest.approx(2 * (2 / 5) / (2 / 5 + 1))
    assert token_f1("red red rose", ["red rose rose"]) == pytest.approx(2 / 3)  # each as often as it stands
    assert token_f1("孔距90", ["孔距为90"]) == pytest.approx(2 * 3 / 7)
    assert token_f1("blue", ["red"]) == 0
    assert token_f1("...", ["red"]) == 0
    assert token_f1("-", ["+"]) == 0
    assert token_f1("1/2 inch", ["12 inch"]) == pytest.approx(1 / 2)
    assert token_f1("red", ["blue", "red rose", "red"]) == 1  # the best reference


def test_rouge_l_is_of_the_longest_common_subsequence() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" against its two candidates, with beta 1.
    reference = ["police killed the gunman"]
    assert rouge_l("police kill the gunman", reference) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference) == pytest.approx(2 / 4)
    assert rouge_l("a b", ["b a b c"]) == pytest.approx(2 * 2 / 6)
    assert rouge_l("", ["x"]) == 0
