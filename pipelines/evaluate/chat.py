"""One question to a model behind an API of OpenAI's form: the request, retries, errors. Knows no rubric."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self

import httpx

from pipelines.core.errors import JudgeUnavailable, UsageError
from pipelines.evaluate.config import JudgeConfig

TOO_MANY: Final = 429
_FIRST_WAIT_S: Final = 0.5
_KEY: Final = "MMRAG_EVALUATE__JUDGE__API_KEY"
_SHOWN: Final = 300

Part = dict[str, Any]


def words(text: str) -> Part:
    return {"type": "text", "text": text}


def picture(jpeg: bytes) -> Part:
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": uri}}


class Chat:
    """Safe to ask from several threads. Close it after use."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._key = config.api_key.get_secret_value() if config.api_key else ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(timeout=config.timeout_s, headers=headers)

    def reply(self, system: str, parts: Sequence[Part]) -> str:
        """The words of the reply; "" where it has none. Raises JudgeUnavailable, and UsageError for a request
        that the server refuses."""
        body = {
            "model": self._config.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": list(parts)}],
            "max_tokens": self._config.max_tokens,
            "temperature": 0,
        }
        for attempt in range(self._config.retries + 1):
            wait_s = min(_FIRST_WAIT_S * 2**attempt, self._config.max_wait_s)
            try:
                response = self._client.post(f"{self._config.url}/chat/completions", json=body)
            except httpx.HTTPError as exc:
                problem = f"does not answer ({type(exc).__name__}: {exc})"
            else:
                if response.is_success:
                    return self._content(response)
                problem = f"answers {response.status_code}: {self._said(response)}"
                if response.status_code < 500 and response.status_code != TOO_MANY:
                    raise UsageError(self._told(problem, response.status_code))
                wait_s = min(
                    retry_after_s(response.headers.get("Retry-After"), wait_s), self._config.max_wait_s
                )
            if attempt < self._config.retries:
                time.sleep(wait_s)
        raise JudgeUnavailable(self._told(problem))

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _content(self, response: httpx.Response) -> str:
        try:
            content = response.json()["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as exc:
            raise JudgeUnavailable(
                self._told("answers, but with no chat completion; is that its URL?")
            ) from exc
        return content if isinstance(content, str) else ""

    def _said(self, response: httpx.Response) -> str:
        """The server's words for it, in one line. One that repeats the key does not make us print it."""
        try:
            said = response.json()["error"]["message"]
        except (ValueError, LookupError, TypeError):
            said = response.text
        line = " ".join(str(said).split())
        return (line.replace(self._key, "***") if self._key else line)[:_SHOWN]

    def _told(self, problem: str, status: int = 0) -> str:
        hint = f"; set its key as {_KEY}" if status in (401, 403) else ""
        return f"the judge at {self._config.url} {problem}{hint}"


def retry_after_s(header: str | None, otherwise: float) -> float:
    """Seconds of a `Retry-After` header: a number of them, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return otherwise
    if header.strip().isdecimal():
        return float(header)
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return otherwise
    return max(0.0, (then.astimezone(UTC) - datetime.now(UTC)).total_seconds())
