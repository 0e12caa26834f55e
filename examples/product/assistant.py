"""Answer a question about one product from its drawn sheet and from its text, each cited, the value marked.

    python -m examples.product.assistant WORK "What is the power of the motor TR-530?" --product TR-530
    python -m examples.product.assistant WORK --serve              the same as a page

Draws the corpus into WORK and ingests it first (a minute, once). The sheets and the texts are asked apart, so
that both are cited and a value in which they differ is seen. `--list` names the products, a question each.
With the packaged tiny-llava ask in its way, as above: another wording may get a fluent, wrong answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI

from examples import page
from examples.product import data
from pipelines import KnowledgeBase, UsageError, load_settings

MOST = 20
"""So many products an error names."""
TITLES = {"sheet": ("The drawn sheet says", "图纸上写的"), "text": ("The text says", "文字资料写的")}
TOLD_APART = (
    "The sheet and the text were asked apart: compare the two.",
    "图纸与文字资料分别作答：请对照。",
)


def opened(work: Path, assignments: list[str] | None = None) -> KnowledgeBase:
    """The knowledge base, brought up to date: nothing is done where it is."""
    kb = KnowledgeBase(work / "index", load_settings(None, assignments or []))
    kb.ingest([data.write(work / "data")])
    return kb


def answer(kb: KnowledgeBase, question: str, product_id: str) -> page.Reply:
    """Raises UsageError for an empty question, and where there is no such product."""
    if not question.strip():
        raise UsageError("the question is empty: ask for a value, such as the voltage")
    chinese = page.is_chinese(question)
    blocks = []
    for form, titles in TITLES.items():
        # Values, not an expression: a product id with a quote in it stays a product id.
        said = kb.ask(question, where={"product_id": product_id, "form": form})
        if said.hits:
            blocks.append(page.block_of(kb, titles[chinese], said))
    if not blocks:
        raise UsageError(f"there is no product {product_id[:60]!r}: there are {_known()}")
    return page.Reply(tuple(blocks), TOLD_APART[chinese])


def _known() -> str:
    ids = [product.id for product in data.products()]
    return ", ".join(ids[:MOST]) + (" …" if len(ids) > MOST else "")


def api(kb: KnowledgeBase) -> FastAPI:
    def asked(fields: Mapping[str, str], picture: bytes | None) -> page.Reply:
        return answer(kb, fields.get("question", ""), fields.get("product_id", ""))

    return page.app(Path(__file__).with_name("page.html"), asked)


def main() -> None:
    parser = page.options(__doc__ or "")
    parser.add_argument("question", nargs="?", default="")
    parser.add_argument("--product", default="", metavar="ID", help="the product that is asked about")
    parser.add_argument("--list", action="store_true", help="the products, and a question of each")
    args = parser.parse_args()
    if args.list:
        for product in data.products():
            print(f"{product.id}  {product.question(product.values[0])}")
        return
    with opened(args.work, args.set) as kb:
        if args.serve:
            page.serve(api(kb), args.port)
        else:
            page.tell(answer(kb, args.question, args.product), args.pictures)


if __name__ == "__main__":
    page.run(main)
