"""Whether there are traces, and what a trace context is."""

from __future__ import annotations

import sys

import pytest

from penstock.shared.process import otel
from penstock.shared.process.tracing import (
    asked_for,
    is_sampled,
    join_context,
    make_tracer,
    split_context,
)

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", **ENDPOINT}, False),
        ({"OTEL_SDK_DISABLED": "false", **ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", **ENDPOINT}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], wanted: bool) -> None:
    assert asked_for(environment) == (wanted, "")


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", **ENDPOINT}, "grpc"),
        ({"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", **ENDPOINT}, "grpc"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(environment: dict[str, str], named: str) -> None:
    wanted, refusal = asked_for(environment)
    assert not wanted
    assert named in refusal


def test_off_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "penstock.shared.process.otel", None)
    assert make_tracer("s", "i", {}) is None


def test_without_the_extra_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "penstock.shared.process.otel", None)
    assert make_tracer("s", "i", ENDPOINT) is None
    said = "".join(capsys.readouterr())
    assert "penstock[otel]" in said
    assert "not installed" in said


@pytest.mark.parametrize("state", ["", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"])
def test_a_context_holds_its_two_parts(state: str) -> None:
    assert split_context(join_context(PARENT, state)) == (PARENT, state)
    assert is_sampled(join_context(PARENT, state))


def test_a_state_without_a_parent_is_nothing() -> None:
    assert join_context("", "congo=1") == ""


@pytest.mark.parametrize(
    "context",
    ["", "x", PARENT[:-1] + "0", PARENT[:-1], PARENT + "x", PARENT.replace("-", "_"), "-" * 55],
)
def test_what_is_not_sampled_or_no_context_is_told(context: str) -> None:
    assert not is_sampled(context)


def test_a_context_survives_opentelemetry() -> None:
    it = otel.span_context(f"{PARENT} congo=t61")
    assert f"{it.trace_id:032x}" == PARENT[3:35]
    assert f"{it.span_id:016x}" == PARENT[36:52]
    assert it.trace_flags.sampled
    assert it.trace_state.to_header() == "congo=t61"


@pytest.mark.parametrize(
    ("variable", "value", "service"),
    [
        ("UNRELATED", "x", "penstock-gateway"),
        ("OTEL_SERVICE_NAME", "mine", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=ours,k=v", "ours"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k=v", "penstock-gateway"),
    ],
)
def test_the_services_name_can_be_given(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, service: str
) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv(variable, value)
    resource = otel.resource_of("penstock-gateway", "gateway-0")
    assert resource.attributes["service.name"] == service
    assert resource.attributes["service.instance.id"] == "gateway-0"
