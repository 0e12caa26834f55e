"""Find the stored problems that are most like a photographed one, and show the solution of the first.

    python -m examples.maths.assistant WORK photo.jpg
    python -m examples.maths.assistant WORK --serve                the same as a page

Draws the corpus into WORK and ingests it first, with OCR (the extra `ocr`; a minute, once). A problem is
searched by the text that OCR reads in it and, with less weight, by its looks. The steps shown are those of
the problem that was found, with its citation. Only where both it and the photograph have an equation
ax + b = c are the steps done anew with the photograph's numbers, by plain arithmetic. No model solves
anything here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI

from examples import page
from examples.maths import data
from pipelines import Hit, KnowledgeBase, UsageError, load_settings

# By default looks weigh 0.9. Photographs of problems look much alike, and the text in them tells them apart.
SETTINGS = ("ingest.ocr.kind=rapidocr", "search.alpha_similar=0.2")
MOST = 3
# OCR writes the minus and the x in several ways, and leaves out spaces.
_LINEAR = re.compile(r"(-?\d{0,4})[x×X]([+-]\d{1,6})=(-?\d{1,6})(?!\d)")
_WORDS = {
    "read": ("Read in your photograph", "照片中的文字"),
    "nothing": ("No text was found in it: searched by its looks alone.", "未读出文字：仅按外观查找。"),
    "found": ("Solution of the most similar problem", "最相似题目的解答"),
    "honest": (
        "This solves problem [1], which is the most similar one; yours may differ from it.",
        "这是最相似的题目 [1] 的解答，可能与您的题目不同。",
    ),
    "anew": ("The same steps with your numbers", "用您的数字按同样的步骤计算"),
    "as": ("As it was read: {equation}. Check this first.", "读出的方程：{equation}。请先核对。"),
    "others": ("Other similar problems", "其他相似题目"),
}


def opened(work: Path, assignments: list[str] | None = None) -> KnowledgeBase:
    """The knowledge base, brought up to date: nothing is done where it is."""
    kb = KnowledgeBase(work / "index", load_settings(None, [*SETTINGS, *(assignments or [])]))
    kb.ingest([data.write(work / "data")])
    return kb


def answer(kb: KnowledgeBase, picture: bytes | None) -> page.Reply:
    """Raises UsageError without a picture and where the index is empty, and BadImage."""
    if picture is None:
        raise UsageError("there is no picture: give a photograph of the problem")
    text = " ".join(line.text for line in kb.read(picture))
    hits = kb.search(text or None, picture, mode="visually_similar", k=MOST).hits
    if not hits:
        raise UsageError("there is no problem to compare with: the index is empty; ingest some first")
    first, *others = hits
    zh = page.is_chinese(text)
    words = {name: pair[zh] for name, pair in _WORDS.items()}
    found = page.Block(
        words["found"],
        words["honest"],
        steps=tuple(str(first.metadata["solution"]).split("\n")),
        sources=(_source(kb, first, cited=True),),
    )
    more = page.Block(words["others"], sources=tuple(_source(kb, hit, cited=False) for hit in others))
    blocks = [page.Block(words["read"], text or words["nothing"]), found, more]
    numbers = linear(text)
    if numbers and first.metadata["topic"] == "linear":
        steps = data.linear_steps(*numbers, chinese=zh)
        said = words["as"].format(equation=data.equation(*numbers))
        blocks.insert(2, page.Block(words["anew"], said, steps))
    return page.Reply(tuple(blocks))


def linear(text: str) -> tuple[int, int, int] | None:
    """a, b and c of the first ax + b = c in the text, a other than 0; None where there is none."""
    plain = re.sub(r"\s", "", text).translate(str.maketrans("−–—＋＝", "---+="))
    if (match := _LINEAR.search(plain)) is None:
        return None
    a = {"": 1, "-": -1}.get(match[1]) or int(match[1])
    return (a, int(match[2]), int(match[3])) if a else None


def _source(kb: KnowledgeBase, hit: Hit, *, cited: bool) -> page.Source:
    text = " ".join(line.text for line in hit.lines) or hit.text
    return replace(page.source(kb, hit, text, cited=cited), id=hit.document_id)


def api(kb: KnowledgeBase) -> FastAPI:
    def asked(fields: Mapping[str, str], picture: bytes | None) -> page.Reply:
        return answer(kb, picture)

    return page.app(Path(__file__).with_name("page.html"), asked)


def main() -> None:
    parser = page.options(__doc__ or "")
    parser.add_argument("picture", nargs="?", type=Path, help="a photograph of the problem")
    args = parser.parse_args()
    with opened(args.work, args.set) as kb:
        if args.serve:
            page.serve(api(kb), args.port)
        else:
            page.tell(answer(kb, args.picture.read_bytes() if args.picture else None), args.pictures)


if __name__ == "__main__":
    page.run(main)
