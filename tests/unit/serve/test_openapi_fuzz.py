"""The OpenAPI document holds: whatever it allows, and much that it does not, is answered as it says."""

from __future__ import annotations

import schemathesis
from gateway_fakes import ScriptedBackend, app_of
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
DOCUMENT = schemathesis.openapi.from_asgi(
    "/openapi.json", app_of(ScriptedBackend()), config=SchemathesisConfig(), headers={"Host": "localhost"}
)


@DOCUMENT.parametrize()
@settings(max_examples=50, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_request_gets_an_answer_that_the_document_names(case: schemathesis.Case) -> None:
    response = case.call(headers={"Host": "localhost"})
    streamed = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
    # Events of a stream are described in words: the document has no schema of them.
    case.validate_response(response, checks=CHECKS if streamed else [*CHECKS, response_schema_conformance])
