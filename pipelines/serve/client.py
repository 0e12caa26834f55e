"""Ask a running server, with its refusals as our own errors; or start one, as a process of its own.

Knows neither Ray nor what an index holds.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from pipelines.core.errors import GeneratorUnavailable, MmragError, UsageError
from pipelines.core.files import replace_file
from pipelines.core.processes import Process

SERVED = "serve.json"
"""In the index directory while it is served: the address, and the server's process by pid and start."""

_MMRAG = "from pipelines.cli import main; main()"
_TIMEOUT_S = 120
_HEALTH_S = 30
_START_S, _END_S = 600, 120
_LATER = (408, 429)  # no fault of what was asked: the same will be answered
# Of the environment's proxy ImportError, where its package is missing; OSError of its certificates.
_NO_ANSWER = (
    *(httpx.HTTPError, httpx.InvalidURL, ImportError, OSError),
    *(ValueError, LookupError, TypeError),  # of a reply
)


@contextmanager
def served(index: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """The address of `mmrag serve` of the index at a free port, ready; it ends with the context.

    Its words go to stderr. Raises MmragError where it does not become ready.
    """
    words = ["serve", "--index", str(index), "--port", "0", *options]
    process = subprocess.Popen([sys.executable, "-c", _MMRAG, *words], stdout=sys.stderr)
    try:
        deadline = time.monotonic() + _START_S
        while (told := announced(index)) is None or told.process.pid != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                raise MmragError("the server did not start; its last words above say why")
            time.sleep(0.2)
        yield told.address
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        finally:
            process.kill()


class Announced(NamedTuple):
    """Where an index is served, by which process of this machine, and by which settings
    (`Settings.answers_by`; "" of an earlier version's server)."""

    address: str
    process: Process
    settings: str = ""


def announce(index: Path, address: str, settings: str = "", server: Process | None = None) -> None:
    """Tell whoever has the index that the server, or else this process, serves it there. Raises OSError."""
    body = {"address": address, "settings": settings} | asdict(server or Process.current())
    replace_file(index / SERVED, json.dumps(body) + "\n")  # at once: whoever waits for it reads it whole


def announced(index: Path) -> Announced | None:
    """What was told last; None where that process lives no more: after a kill another index may be served
    there."""
    try:
        told = json.loads((index / SERVED).read_bytes())
        process = Process(int(told["pid"]), float(told["started"]))
        found = Announced(str(told["address"]), process, str(told.get("settings", "")))
        return found if process.alive else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def withdraw(index: Path, before: Announced | None) -> None:
    """Take back what this process announced: a server that was announced `before` it and lives is so again.
    What another server has announced since stays."""
    told = announced(index)
    if told is None or told.process.pid != os.getpid():
        return
    if before and before.process.alive:
        announce(index, before.address, before.settings, before.process)
    else:
        (index / SERVED).unlink(missing_ok=True)


def answers(address: str) -> bool:
    """Whether the server of this machine at this address can be asked."""
    try:
        return httpx.get(f"{address}/healthz", timeout=_HEALTH_S, trust_env=False).is_success
    except (ValueError, httpx.HTTPError, httpx.InvalidURL):
        return False


def elsewhere(url: str) -> str:
    """The address of a server that a person names. Raises UsageError for one that can be none."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of brackets, or a port
        named = False
    if not named or "@" in parts.netloc or parts.query or parts.fragment:
        # What was written is not repeated: it may hold a password.
        raise UsageError("--server: write http://HOST:PORT and no more; the key is MMRAG_API_KEY's")
    return url.rstrip("/")


def ask(
    address: str,
    body: dict[str, Any],
    image: bytes | None = None,
    api_key: str = "",
    *,
    proxied: bool = False,
) -> dict[str, Any]:
    """What `POST /v1/answer` gives. `proxied`: by the proxy that the environment names, if it does.

    Raises UsageError for a question that the server refuses, and GeneratorUnavailable where it does not
    answer, cannot, or is no mmrag.
    """
    if image is not None:
        # Pictures are known by their bytes: the type that is named does not matter.
        body = body | {"image": "data:image/png;base64," + base64.b64encode(image).decode()}
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        response = httpx.post(
            f"{address}/v1/answer",
            json=body,
            headers=headers,
            timeout=_TIMEOUT_S,
            trust_env=proxied,
            verify=httpx.create_ssl_context(),  # with the environment's certificates in any case
        )
        found = dict(response.json())
        said = "" if response.is_success else str(found["error"]["message"])
        if response.is_success and "answer" not in found:
            raise ValueError("its reply is no answer")
    except _NO_ANSWER as exc:
        raise GeneratorUnavailable(
            f"{address} does not answer as mmrag does ({exc}); is the server still up?"
        ) from exc
    if not response.is_success:
        is_wrong = response.status_code < 500 and response.status_code not in _LATER
        raise (UsageError if is_wrong else GeneratorUnavailable)(said)
    return found
