"""`schemathesis` over the OpenAPI document: whatever it makes up, nothing of ours breaks.

The only 5xx is 501 of `load` and `unload`, which is documented. Bounded by examples, not by time,
so that a failure comes again; it needs some seconds.
"""

from __future__ import annotations

from typing import Any

import schemathesis
import structlog
from hypothesis import HealthCheck
from schemathesis.core.transport import Response

from penstock.gateway.http.settings import HttpSettings
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, app_of
from tests.unit.gateway.http.scoring.test_scoring import FRAME, score

SERVICE = FakeInference()
SERVICE.models["frame"] = FakeModel(FRAME, score)
APP = app_of(SERVICE, HttpSettings())
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
MODELS = ("double", "texts", "frame")

NOT_OFFERED = ("/load", "/unload")


def no_fault_of_ours(response: Response, path: str) -> None:
    if path.endswith(NOT_OFFERED) and response.status_code == 501:
        return
    assert response.status_code < 500, (path, response.status_code, response.content[:500])
    if response.status_code >= 400 and "json" in str(response.headers.get("content-type")):
        assert set(response.json()) in ({"error"}, {"error_code", "message"}, {"name", "ready"})


@SCHEMA.parametrize()
@examples(
    12,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_made_up_breaks_anything(case: schemathesis.Case[Any]) -> None:
    with structlog.testing.capture_logs():
        for model in (None, MODELS[len(str(case.body)) % len(MODELS)]):
            if model is not None and "model" in case.path_parameters:
                case.path_parameters["model"] = model  # invented names find nothing
            no_fault_of_ours(case.call(), case.path)
