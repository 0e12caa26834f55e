"""One question to a model behind an API of OpenAI's form: the request, retries, errors. Knows no prompt."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx

from pipelines.core.addresses import is_here
from pipelines.core.chat_config import ChatConfig
from pipelines.core.errors import ModelUnavailable, NoReply, RequestRefused, UsageError

TOO_MANY: Final = 429
_BUSY: Final = frozenset({TOO_MANY, 502, 503})  # the server as a whole; another 5xx may be the request's own
_NOT_THIS: Final = frozenset({400, 413, 415, 422})
_NO_ENTRY: Final = frozenset({401, 403})
_TOO_LATE: Final = (httpx.ReadTimeout, httpx.WriteTimeout, httpx.DecodingError)
_FIRST_WAIT_S: Final = 0.5
_MAX_REPLY_BYTES: Final = 2**20
_SHOWN: Final = 300

Part = dict[str, Any]


def words(text: str) -> Part:
    return {"type": "text", "text": text}


def picture(jpeg: bytes) -> Part:
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Chat:
    """Safe to ask from several threads. Close it after use."""

    def __init__(self, config: ChatConfig) -> None:
        self._config = config
        key = config.api_key.get_secret_value() if config.api_key else ""
        extra = {name: value.get_secret_value() for name, value in config.extra_headers.items()}
        self._secrets = [secret for secret in (key, *extra.values()) if secret]
        headers = ({"Authorization": f"Bearer {key}"} if key else {}) | extra
        try:
            self._client = httpx.Client(
                timeout=config.timeout_s,
                headers=headers,
                trust_env=not is_here(config.url),  # the environment's proxies, and
                verify=httpx.create_ssl_context(),  # its certificates in any case
            )
        except (ImportError, OSError, ValueError) as exc:
            raise UsageError(f"the environment's proxy or certificates cannot be used: {exc}") from exc

    def reply(self, system: str, parts: Sequence[Part]) -> str:
        """The words of the reply; "" where it has none. An empty `system` is not sent.

        Raises ModelUnavailable (NoReply where the server is there), and UsageError for what the server
        refuses (RequestRefused where it is for this request's contents).
        """
        said = [{"role": "system", "content": system}] if system else []
        sampling = {"max_tokens": self._config.max_tokens, "temperature": 0, **self._config.extra_body}
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [*said, {"role": "user", "content": list(parts)}],
            **{name: value for name, value in sampling.items() if value is not None},
        }
        failed: type[ModelUnavailable]
        for attempt in range(self._config.retries + 1):
            wait_s = min(_FIRST_WAIT_S * 2**attempt, self._config.max_wait_s)
            try:
                response = self._ask("POST", "/chat/completions", body)
            except httpx.HTTPError as exc:
                problem = f"does not answer ({type(exc).__name__}: {exc})"
                failed = NoReply if isinstance(exc, _TOO_LATE) else ModelUnavailable
            else:
                if response.is_success:
                    return self._content(response)
                problem = f"answers {response.status}: {self._said(response)}"
                if response.status < 500 and response.status != TOO_MANY:
                    refused = RequestRefused if response.status in _NOT_THIS else UsageError
                    raise refused(self._told(problem, response.status))
                failed = ModelUnavailable if response.status in _BUSY else NoReply
                wait_s = min(
                    retry_after_s(response.headers.get("Retry-After"), wait_s), self._config.max_wait_s
                )
            if attempt < self._config.retries:
                time.sleep(wait_s)
        raise failed(self._told(problem))

    def owners(self) -> frozenset[str]:
        """Whose the models are that the server lists; none where it lists none.

        Raises ModelUnavailable where no server answers, and UsageError where it does not take the key.
        """
        try:
            response = self._ask("GET", "/models")
        except httpx.HTTPError as exc:
            raise ModelUnavailable(self._told(f"does not answer ({type(exc).__name__}: {exc})")) from exc
        if response.status in _NO_ENTRY:
            problem = f"answers {response.status}: {self._said(response)}"
            raise UsageError(self._told(problem, response.status))
        try:
            return frozenset(str(model["owned_by"]) for model in json.loads(response.body)["data"])
        except (ValueError, LookupError, TypeError, RecursionError):
            return frozenset()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: Part | None = None) -> _Response:
        """The response, within bounds of size and time, which httpx has for each read alone."""
        end = time.monotonic() + self._config.timeout_s
        base, mark, query = self._config.url.partition("?")
        with self._client.stream(method, base + path + mark + query, json=body) as response:
            content = bytearray()
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _MAX_REPLY_BYTES:
                    raise NoReply(self._told(f"answers with more than {_MAX_REPLY_BYTES:,} bytes"))
                if time.monotonic() > end:
                    raise httpx.ReadTimeout("its answer has no end")
            return _Response(response.status_code, response.headers, bytes(content))

    def _content(self, response: _Response) -> str:
        try:
            content = json.loads(response.body)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as exc:
            raise NoReply(self._told("answers, but with no chat completion; is that its URL?")) from exc
        return content if isinstance(content, str) else ""

    def _said(self, response: _Response) -> str:
        """The server's words for it, in one line. One that repeats a secret does not make us print it."""
        try:
            said = json.loads(response.body)["error"]["message"]
        except (ValueError, LookupError, TypeError, RecursionError):
            said = response.body.decode(errors="replace")
        line = "".join(filter(str.isprintable, " ".join(str(said).split())))
        for secret in sorted(self._secrets, key=len, reverse=True):  # one may begin with another
            line = line.replace(secret, "***")
        return line[:_SHOWN]

    def _told(self, problem: str, status: int = 0) -> str:
        hint = f"; set its key as {self._config.key_variable}" if status in _NO_ENTRY else ""
        return f"{self._config.who} at {self._config.url} {problem}{hint}"


def retry_after_s(header: str | None, otherwise: float) -> float:
    """Seconds of a `Retry-After` header: a number of them, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return otherwise
    if header.strip().isdecimal():
        return float(header)
    try:
        then = parsedate_to_datetime(header).astimezone(UTC)
    except (ValueError, OverflowError):  # no date, or none of UTC's
        return otherwise
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
