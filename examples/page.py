"""What the assistants share: the form of a reply, a page on 127.0.0.1, options. Answers nothing itself."""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipelines import Answer, BadImage, Hit, KnowledgeBase, MmragError, UsageError

MAX_PICTURE_BYTES = 10_000_000
_HERE = Path(__file__).parent
_HAN = re.compile("[\u4e00-\u9fff]")
_HEADERS = {
    # Nothing from elsewhere, and of the page's own files these kinds alone.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Source:
    """What a block stands on. `n` is its number in the text; `picture` a data URI, or empty."""

    n: int
    id: str
    text: str
    cited: bool
    picture: str = ""


@dataclass(frozen=True)
class Block:
    """A part of a reply. `picture` (a data URI) is the question's own with the answer's boxes, if any."""

    title: str
    text: str = ""
    steps: tuple[str, ...] = ()
    picture: str = ""
    sources: tuple[Source, ...] = ()


@dataclass(frozen=True)
class Reply:
    blocks: tuple[Block, ...]
    notice: str = ""

    def __str__(self) -> str:
        lines = [self.notice] if self.notice else []
        for block in self.blocks:
            lines += ["", f"== {block.title}", *([block.text] if block.text else [])]
            lines += [f"  {number}. {step}" for number, step in enumerate(block.steps, start=1)]
            lines += [f"  [{s.n}]{'*' if s.cited else ''} {s.id}: {s.text}" for s in block.sources]
        return "\n".join(lines)


def is_chinese(text: str) -> bool:
    return _HAN.search(text) is not None


def data_uri(picture: Image.Image | bytes | None) -> str:
    """Of a picture, or of the bytes of a JPEG; empty where there is none."""
    if isinstance(picture, Image.Image):
        picture.save(out := io.BytesIO(), "JPEG", quality=88)
        picture = out.getvalue()
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode() if picture else ""


def source(kb: KnowledgeBase, hit: Hit, text: str, *, cited: bool) -> Source:
    return Source(hit.citation_id, hit.id, text, cited, data_uri(kb.picture(hit)))


def block_of(kb: KnowledgeBase, title: str, answer: Answer, picture: bytes | None = None) -> Block:
    """An answer with its evidence; the boxes are drawn on the pictures. `picture` is the question's own."""
    marked = {which: data_uri(image) for which, image in kb.marked(answer, picture).items()}
    cited = {citation.n for citation in answer.citations}
    sources = tuple(
        Source(
            hit.citation_id,
            hit.id,
            hit.text,
            hit.citation_id in cited,
            marked.get(hit.citation_id) or data_uri(kb.picture(hit)),
        )
        for hit in answer.hits
    )
    return Block(title, answer.answer, picture=marked.get("query", ""), sources=sources)


def app(page: Path, answer: Callable[[Mapping[str, str], bytes | None], Reply]) -> FastAPI:
    """The page, and POST /ask: the fields in the query string, a picture as the body.

    What the asker can mend is a 4xx with one sentence in `error`. One question is answered at a time.
    """
    api = FastAPI(openapi_url=None)
    # Another site's page could else reach this one by a name that it points at 127.0.0.1.
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    turn = asyncio.Lock()

    @api.get("/")
    async def index() -> Response:
        return FileResponse(page, headers=_HEADERS)

    @api.get("/page.{kind}")
    async def asset(kind: str) -> Response:
        return FileResponse(_HERE / f"page.{kind}") if kind in ("css", "js") else Response(status_code=404)

    @api.post("/ask")
    async def ask(request: Request) -> Response:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_PICTURE_BYTES:
                return _error(
                    413, f"the picture is larger than {MAX_PICTURE_BYTES // 10**6} MB: send a smaller one"
                )
        try:
            async with turn:
                reply = await asyncio.to_thread(answer, dict(request.query_params), bytes(body) or None)
        except BadImage as exc:
            return _error(400, f"the picture cannot be used: {exc}")
        except UsageError as exc:
            return _error(400, str(exc))
        except MmragError as exc:
            return _error(503, str(exc))
        return JSONResponse(asdict(reply))

    return api


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def options(about: str) -> argparse.ArgumentParser:
    """Those that every assistant has; `about` is its module's docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder for the drawn data and the index")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="a setting of mmrag's")
    parser.add_argument("--pictures", type=Path, help="save the reply's pictures, with boxes, in this folder")
    parser.add_argument("--serve", action="store_true", help="a page on 127.0.0.1 instead of one answer")
    parser.add_argument("--port", type=int, default=8010)
    return parser


def serve(api: FastAPI, port: int) -> None:
    print(f"http://127.0.0.1:{port}  (Ctrl-C ends it)", flush=True)
    uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning")


def tell(reply: Reply, folder: Path | None) -> None:
    """On the terminal; what the page would show of pictures as JPEG files in `folder`."""
    print(reply)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    shown = [
        picture for block in reply.blocks for picture in (block.picture, *(s.picture for s in block.sources))
    ]
    for number, picture in enumerate(filter(None, shown), start=1):
        file = folder / f"{number}.jpg"
        file.write_bytes(base64.b64decode(picture.partition(",")[2]))
        print(file)


def run(main: Callable[[], None]) -> None:
    """What is wrong is one line on stderr, and the exit status as `mmrag`'s."""
    try:
        main()
    except (MmragError, OSError) as exc:
        print(f"{'the picture cannot be used: ' if isinstance(exc, BadImage) else ''}{exc}", file=sys.stderr)
        sys.exit(2 if isinstance(exc, UsageError | BadImage | OSError) else 1)
