"""The FastAPI app of `mmrag serve` over a `Backend`: routes, errors, OpenAPI document, page. No Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi import Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from prometheus_client.metrics_core import Metric
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from pipelines import __version__
from pipelines.core.errors import MmragError
from pipelines.core.generator import GeneratorConfig, Sampling
from pipelines.serve import api, chat, faults
from pipelines.serve.asking import Asking
from pipelines.serve.backend import Backend, Event, Health
from pipelines.serve.config import ServeConfig
from pipelines.serve.endpoints import Endpoints, Measured
from pipelines.serve.faults import Refusal
from pipelines.serve.metrics import Metrics
from pipelines.serve.monitor import Monitor
from pipelines.serve.protection import Admission, Hosts
from pipelines.serve.shell import Addressed, Guarded, Observed, caller_of

__all__ = ["Backend", "Event", "Health", "create_app"]

log = logging.getLogger(__name__)

PAGE: Final = Path(__file__).parent / "page"
_EXPOSED: Final = ("X-Request-Id", "Retry-After", "X-Original-Width", "X-Original-Height")
_WHY: Final = {
    400: "The request is wrong; the message says what to change",
    401: "The API key is missing or unknown",
    404: "There is no such thing here",
    408: "The body did not arrive in time",
    413: "The body or its picture is too large",
    421: "The request's Host is no name of this server",
    429: "Too many questions a minute; Retry-After says when to ask again",
    503: "Busy, out of time, or a part does not answer; Retry-After says when to ask again",
}
_ASKING: Final = (400, 408, 413, 429, 503)


def create_app(
    backend: Backend,
    config: ServeConfig,
    sampling: Sampling | None = None,
    measured: Measured | None = None,
    adds_id: bool = True,
) -> FastAPI:
    """`sampling`: the generator's own; None: the default configuration's.

    `measured` gathers what all replicas counted; None: this app is alone. Its own is `app.state.metrics`;
    `app.state.admission` ends it.
    `adds_id`: X-Request-Id goes into responses here; Ray Serve's proxy does it by itself.
    """
    admission = Admission(config.max_concurrent, config.max_queued, config.retry_after_s)
    metrics = Metrics(admission)

    async def own() -> Mapping[str, Sequence[Metric]]:
        return {"": metrics.families()}

    monitor = Monitor(config.monitor, metrics)
    asking = Asking(backend, config, sampling or GeneratorConfig().sampling, admission, metrics, monitor)
    app = FastAPI(
        title="mmrag",
        version=__version__,
        description="Ask with words, a picture, or both: answers cite their evidence and mark the pictures.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.metrics, app.state.admission = metrics, admission
    hosts = Hosts(config)
    everywhere = (421,) if hosts.bounded else ()
    endpoints = Endpoints(backend, asking, monitor, measured or own)
    _add_routes(app, endpoints, everywhere, keyed=bool(config.api_keys))
    if config.page:
        _add_page(app)
    _add_errors(app, asking)
    app.add_middleware(Guarded, config=config, metrics=metrics)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "X-Request-Id"),
            expose_headers=_EXPOSED,
        )
    if hosts.bounded:
        app.add_middleware(Addressed, hosts=hosts)
    app.add_middleware(Observed, metrics=metrics, adds_id=adds_id)
    _without_422(app)
    return app


def _add_routes(app: FastAPI, endpoints: Endpoints, everywhere: Sequence[int], *, keyed: bool) -> None:
    """`everywhere`: the refusals that any request may meet."""
    met_by_all = _refusals(*everywhere)
    # Every route asks who is let in, so that none answers whom the guard has not seen.
    key = [Security(HTTPBearer(auto_error=False, description="an API key"))] if keyed else []
    seen = [Depends(_seen), *key]

    def v1(path: str, endpoint: Any, model: Any, *statuses: int, **options: Any) -> None:
        refusals = _refusals(*statuses, *((401,) if keyed else ()))
        responses = met_by_all | refusals | options.pop("responses", {})
        app.add_api_route(
            f"/v1/{path}", endpoint, response_model=model, responses=responses, dependencies=seen, **options
        )

    post = {"methods": ["POST"]}
    v1("search", endpoints.search, api.SearchResponse, *_ASKING, **post)
    v1("answer", endpoints.answer, api.AnswerResponse, *_ASKING, **post)
    spoken = {
        "text/event-stream": {"schema": {"type": "string"}, "example": "data: {...}\n\ndata: [DONE]\n\n"}
    }
    v1(
        "chat/completions",
        endpoints.complete,
        chat.ChatResponse,
        *_ASKING,
        404,
        responses={200: {"description": "Whole, or with `stream` as events", "content": spoken}},
        **post,
    )
    noted = {204: {"description": "The rating is recorded"}}
    v1("feedback", endpoints.feedback, None, 400, 408, 413, 429, status_code=204, responses=noted, **post)
    v1("models", endpoints.models, chat.ModelsBody, 503)
    jpeg = {200: {"description": "JPEG", "content": {"image/jpeg": {}}}}
    v1("images/{content}", endpoints.image, None, 400, 404, 503, responses=jpeg, response_class=Response)
    unready: dict[int | str, dict[str, Any]] = {
        503: {"model": api.HealthBody, "description": "Questions cannot be answered"}
    }
    app.add_api_route(
        "/healthz", endpoints.health, response_model=api.HealthBody, responses=met_by_all | unready
    )
    plain: dict[int | str, dict[str, Any]] = {200: {"description": "Metrics", "content": {"text/plain": {}}}}
    app.add_api_route("/metrics", endpoints.metrics, response_class=Response, responses=met_by_all | plain)


async def _seen(request: Request) -> None:
    caller_of(request.scope)


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": api.ErrorBody, "description": _WHY[status]} for status in statuses}


def _add_page(app: FastAPI) -> None:
    files = StaticFiles(directory=PAGE, check_dir=False)

    async def page(request: Request, file: str = "index.html") -> Response:
        response = await files.get_response(file, request.scope)
        response.headers["Cache-Control"] = "no-cache"
        return response

    for path in ("/", "/{file}"):  # each file beside the page: it names them relative to itself
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)


def _add_errors(app: FastAPI, asking: Asking) -> None:
    async def told(request: Request, exc: Exception) -> Response:
        found = asking.fault(exc)
        if found is faults.INTERNAL:
            log.error("request %s failed", request.state.request_id, exc_info=exc)
        elif found.status >= 500 and not isinstance(exc, Refusal):
            log.warning("request %s: %s", request.state.request_id, exc)
        response = faults.response(found)
        response.headers.update(getattr(exc, "headers", None) or {})
        return response

    for kind in (MmragError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, told)


def _without_422(app: FastAPI) -> None:
    """What FastAPI documents of its own: here a request that does not validate is a 400."""
    original = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = original()
            for operations in found["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for unused in ("HTTPValidationError", "ValidationError"):
                found["components"]["schemas"].pop(unused, None)
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
