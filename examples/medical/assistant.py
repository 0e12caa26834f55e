"""Describe a picture by the most similar cases, with a box on it, or abstain where none is similar enough.

    python -m examples.medical.assistant WORK picture.png
    python -m examples.medical.assistant WORK picture.png --language zh
    python -m examples.medical.assistant WORK --serve              the same as a page

A demonstration on phantoms, which are drawings, and no medical device: not a diagnosis, as each reply says.
Draws the cases into WORK and ingests them first (a minute, once). The description is the stored caption of
the similar cases, cited; the box is the generator's, which is asked where the mark is that the first case
has. It says what that case shows, and not that the picture shows it.

--least is the cosine of picture and nearest case under which nothing is said. Its default lies midway between
what `measure.py` gave with seed 1: 0.852 or more for 18 phantoms that are in no corpus, 0.623 or less for 24
other pictures. With seed 2 these were 0.809 and 0.683, and it told all of them apart. Pictures of any other
kind need a measurement of their own.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI

from examples import page
from examples.medical import data
from pipelines import KnowledgeBase, UsageError, load_settings

LEAST = 0.74
MOST = 3
NOTICE = """This is not a diagnosis. It compares drawings; ask a physician.
这不是诊断。本程序只比较绘图；请咨询医生。"""
# In the words that the packaged tiny-llava knows.
_WHERE = {
    "circle": ("Where is the black circle?", "黑色圆形在哪里？"),
    "rectangle": ("Where is the black rectangle?", "黑色矩形在哪里？"),
}
_ABSTAINS = (
    "No case is similar enough: the nearest has a similarity of {similarity:.2f}; {least:.2f} is needed.",
    "没有足够相似的病例：最高相似度为 {similarity:.2f}，需要 {least:.2f}。",
)
_CASES = ("Similar cases", "相似病例")
_DESCRIBED = (
    "The most similar case [1] (similarity {similarity:.2f}) is described so: {caption}",
    "最相似的病例 [1]（相似度 {similarity:.2f}）的描述：{caption}",
)
_BOX = ("What the case has, marked on your picture", "在您的图上标出该病例所示之处")


def opened(work: Path, assignments: list[str] | None = None) -> KnowledgeBase:
    """The knowledge base, brought up to date: nothing is done where it is."""
    kb = KnowledgeBase(work / "index", load_settings(None, assignments or []))
    kb.ingest([data.write(work / "data")])
    return kb


def answer(
    kb: KnowledgeBase,
    picture: bytes | None,
    question: str = "",
    *,
    chinese: bool = False,
    least: float = LEAST,
) -> page.Reply:
    """`question` replaces the one that the generator is asked of the picture. Raises UsageError without a
    picture, and BadImage. Without a case there is nothing to describe, whatever `least` is."""
    if picture is None:
        raise UsageError("there is no picture: give the one to compare with the cases")
    hits = kb.search(image=picture, mode="visually_similar", k=MOST).hits
    similarity = hits[0].scores["image_to_image"] if hits else 0.0
    if not hits or not similarity >= least:  # nor of a `least` that is no number
        said = _ABSTAINS[chinese].format(similarity=similarity, least=least)
        return page.Reply((page.Block(_CASES[chinese], said),), NOTICE)
    captions = [str(hit.metadata["zh" if chinese else "en"]) for hit in hits]
    sources = tuple(
        page.source(kb, hit, caption, cited=hit is hits[0])
        for hit, caption in zip(hits, captions, strict=True)
    )
    described = _DESCRIBED[chinese].format(similarity=similarity, caption=captions[0])
    blocks = [page.Block(_CASES[chinese], described, sources=sources)]
    mark = _WHERE.get(str(hits[0].metadata["mark"]))
    if ask := question.strip() or (mark[chinese] if mark else ""):
        seen = kb.ask(ask, picture, mode="image", k=1)
        blocks.append(page.block_of(kb, _BOX[chinese] if not question.strip() else ask, seen, picture))
    return page.Reply(tuple(blocks), NOTICE)


def api(kb: KnowledgeBase, least: float = LEAST) -> FastAPI:
    def asked(fields: Mapping[str, str], picture: bytes | None) -> page.Reply:
        chinese = fields.get("language") == "zh"
        return answer(kb, picture, fields.get("question", ""), chinese=chinese, least=least)

    return page.app(Path(__file__).with_name("page.html"), asked)


def _threshold(text: str) -> float:
    """Raises argparse's error for what is none from 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: wanted a number from 0 to 1")
    return found


def main() -> None:
    parser = page.options(__doc__ or "")
    parser.add_argument("picture", nargs="?", type=Path)
    parser.add_argument("--question", default="", help="asked of the picture instead of where the mark is")
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument(
        "--least", type=_threshold, default=LEAST, help="similarity needed (default: %(default)s)"
    )
    args = parser.parse_args()
    with opened(args.work, args.set) as kb:
        if args.serve:
            page.serve(api(kb, args.least), args.port)
        else:
            picture = args.picture.read_bytes() if args.picture else None
            chinese = args.language == "zh"
            page.tell(answer(kb, picture, args.question, chinese=chinese, least=args.least), args.pictures)


if __name__ == "__main__":
    page.run(main)
