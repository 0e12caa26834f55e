"""What went wrong, as an HTTP answer: `{"error": {"message", "type"}}`. The one place that
knows the statuses.

A caller is told what it can do. Addresses and paths of this machine stay in the log.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from pipelines.core.errors import (
    BadPart,
    GeneratorUnavailable,
    IndexLocked,
    MissingDependency,
    MmragError,
    OtherIndex,
    SourceError,
    SpaceMismatch,
    StoreUnavailable,
    UsageError,
)

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'<>,;]*[^\s\"'<>,;:.]|(?<![\w/.])/[^\s\"'<>:;,]+")
_DETAIL = re.compile(r" \([^;]*")
_LONGEST: Final = 400


class Refusal(MmragError):
    """A request that is not answered, for a reason that lies in HTTP."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unauthorized(Refusal):
    status, type = 401, "authentication_error"


class NotFound(Refusal):
    status, type = 404, "not_found_error"


class UploadTooSlow(Refusal):
    status, type = 408, "timeout_error"


class TooLarge(Refusal):
    status, type = 413, "request_too_large"


class Misdirected(Refusal):
    # RFC 9110, 15.5.20: the request is sound, but this server does not answer for the host that it names.
    status, type = 421, "misdirected_request"


class TooManyRequests(Refusal):
    status, type = 429, "rate_limit_error"


class ClientGone(Refusal):
    """Nobody reads this answer; the status is for the log."""

    status, type = 499, "client_gone"


class Overloaded(Refusal):
    status, type = 503, "overloaded_error"


class DeadlinePassed(Refusal):
    status, type = 503, "timeout_error"


@dataclass(frozen=True, slots=True)
class Fault:
    status: int
    type: str
    message: str
    retry_after_s: float | None = None

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type}}


INTERNAL: Final = Fault(500, "server_error", "the server failed at this; its log says more")

# The index was rebuilt under the server: asking again does not help. The log has the spaces, which differ.
_RESTART: Final = Fault(
    503, "unavailable_error", "the index was made with other models: the server must be restarted with them"
)
_OURS = (MissingDependency, OtherIndex, SourceError)  # wrong settings, not a wrong request
_RETRY = (StoreUnavailable, GeneratorUnavailable, IndexLocked)


class Json(JSONResponse):
    """JSON whatever the corpus holds: half a surrogate pair becomes a question mark."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode("utf-8", "replace")


def to_json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def fault(exc: Exception, retry_after_s: float) -> Fault:
    """What a caller is told. `INTERNAL` for what is no fault of the caller's, nor of its time."""
    if isinstance(exc, Refusal):
        return Fault(exc.status, exc.type, str(exc), exc.retry_after_s)
    if isinstance(exc, _RETRY):
        return Fault(503, "unavailable_error", public(str(exc)), retry_after_s)
    if isinstance(exc, SpaceMismatch):
        return _RESTART
    if isinstance(exc, UsageError | BadPart) and not isinstance(exc, _OURS):
        return Fault(400, "invalid_request_error", _line(str(exc)))
    if isinstance(exc, RequestValidationError):
        return Fault(400, "invalid_request_error", _line(_sentence(exc.errors())))
    if isinstance(exc, HTTPException) and exc.status_code < 500:
        kind = "not_found_error" if exc.status_code == 404 else "invalid_request_error"
        return Fault(exc.status_code, kind, _line(str(exc.detail)))
    return INTERNAL


def response(found: Fault) -> Json:
    headers = {}
    if found.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(found.retry_after_s)))
    if found.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(found.body, found.status, headers)


def public(text: str) -> str:
    """A store's complaint without the addresses, paths and vendors' details that it names."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return _line(_DETAIL.sub("", _ADDRESS.sub("…", line)))


def _sentence(errors: Sequence[Any]) -> str:
    """Of a union's errors, the one that got furthest."""
    error = max(errors, key=lambda found: len(found["loc"]))
    if error["type"] == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    place = ".".join(str(step) for step in error["loc"][1:])
    if not place:
        return "the body must be a JSON object, sent with Content-Type: application/json"
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no such field"
    return f"{place}: {error['msg'].removeprefix('Value error, ')}"


def _line(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
