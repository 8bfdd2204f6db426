"""A load of a model that an earlier one found something out about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.worker.control.messages import Start
from penstock.worker.replica.loading import Loaded, NotLoaded, load
from tests.support import mlflow_models as models
from tests.support.models import affine

pytestmark = pytest.mark.costly


def start_of(folder: Path, finding: Finding | None) -> Start:
    route = VersionRoute(version="1", revision="m/1")
    return Start(
        key="m/1@w#0",
        replica="r",
        worker="w",
        model="m",
        version="1",
        revision="m/1",
        model_path=str(folder),
        settings=ReplicaSettings(threads=1),
        device="cpu",
        finding=finding,
        gateways=(),
        route=ModelRoute(model="m", generation=1, versions=(route,)),
    )


def loaded(folder: Path, finding: Finding | None) -> Loaded:
    result = load(start_of(folder, finding))
    assert isinstance(result, Loaded), result
    return result


def test_a_finding_spares_later_loads_the_trial_unless_it_does_not_tell_what_was_tried(
    tmp_path: Path,
) -> None:
    folder = models.scaled(tmp_path / "m")
    first = loaded(folder, None)
    assert first.fresh
    assert first.finding.tried == (("x",),)
    later = loaded(folder, first.finding)
    assert (later.fresh, later.finding) == (False, first.finding)
    old = first.finding.model_copy(update={"tried": None})
    anew = loaded(folder, old)
    assert (anew.fresh, anew.finding.tried) == (True, (("x",),))


def test_a_load_that_fails_is_told_to_the_log_with_what_the_model_raised(tmp_path: Path) -> None:
    def predict(x: Any, params: Any) -> Any:
        return {"other": x}["width"]

    example = np.ones((2, models.WIDTH), np.float32)
    folder = models.python_model(tmp_path / "m", predict, models.vectors(), example=example)
    with capture_logs() as logs:
        result = load(start_of(folder, None))
    assert isinstance(result, NotLoaded), result
    assert "KeyError: 'width'" in result.message
    (line,) = [each for each in logs if each["event"] == "load failed"]
    assert (line["kind"], line["exception_type"]) == ("failed", "KeyError")
    assert line["reason"] == result.message
    assert "in predict" in line["traceback"]


def test_what_fails_on_made_up_input_alone_is_served_and_says_so(tmp_path: Path) -> None:
    def predict(x: Any, params: Any) -> Any:
        if x.min() < 1e9:
            raise ValueError("too small to mean anything")
        return x[:, :2]

    folder = models.python_model(tmp_path / "m", predict, models.vectors())
    found = loaded(folder, None).finding
    assert found.interface.max_batch_size == 0
    assert "it refused all made-up rows (ValueError: too small to mean anything" in found.reason


def test_a_model_whose_answers_do_not_fit_says_what_clients_get(tmp_path: Path) -> None:
    def predict(x: Any, params: Any) -> Any:
        return ["a text"] * len(x)

    example = np.ones((2, models.WIDTH), np.float32)
    folder = models.python_model(tmp_path / "m", predict, models.vectors(), example=example)
    found = loaded(folder, None).finding
    assert (found.interface.outputs, found.interface.scoring) == ((), "all")
    assert "what it returns is not what its signature says (output" in found.reason
    assert "outputs are as they come" in found.reason


def test_an_example_that_an_open_model_refuses_is_told(tmp_path: Path) -> None:
    def predict(given: Any, params: Any) -> Any:
        raise ValueError("not this")

    folder = models.python_model(tmp_path / "m", predict, None)
    assert "refuses" not in loaded(folder, None).finding.reason
    (folder / "serving_input_example.json").write_text('{"inputs": [1]}')
    mlmodel = folder / "MLmodel"
    info = "saved_input_example_info: {serving_input_path: serving_input_example.json}\n"
    mlmodel.write_text(mlmodel.read_text() + info)
    found = loaded(folder, None).finding
    assert "it refuses its own input_example: ValueError: not this" in found.reason
    assert found.interface.example == '{"inputs": [1]}'


def test_a_package_that_is_lacking_is_no_matter_of_the_input(tmp_path: Path) -> None:
    def predict(x: Any, params: Any) -> Any:
        import nosuchmodule  # type: ignore[import-not-found] # noqa: PLC0415

        return nosuchmodule

    folder = models.python_model(tmp_path / "m", predict, models.vectors())
    result = load(start_of(folder, None))
    assert isinstance(result, NotLoaded), result
    assert "ModuleNotFoundError" in result.message


def test_a_load_that_can_never_succeed_is_told_as_invalid(tmp_path: Path) -> None:
    with capture_logs() as logs:
        result = load(start_of(tmp_path, None))
    assert isinstance(result, NotLoaded), result
    (line,) = [each for each in logs if each["event"] == "load failed"]
    assert (line["kind"], line["reason"]) == ("invalid", result.message)


def test_what_serves_though_its_requirements_are_not_met_says_so(tmp_path: Path) -> None:
    code, graph = models.scaled(tmp_path / "code"), affine(tmp_path / "graph", 2.0)
    assert (loaded(code, None).unmet, loaded(graph, None).unmet) == ("", "")
    (code / "requirements.txt").write_text("numpy==0.1\n")
    (graph / "requirements.txt").write_text("mlflow==0.1\nnumpy==0.1\nleft-pad==1.3\n")
    first = loaded(code, None)
    assert first.unmet.startswith("it runs with other versions than it asks for: numpy ")
    assert loaded(code, first.finding).unmet == first.unmet
    assert loaded(graph, None).unmet == (
        "packages that it asks for are not installed: left-pad==1.3"
    )


def test_a_model_that_was_logged_with_one_row_says_why_it_runs_row_by_row(tmp_path: Path) -> None:
    reason = loaded(models.exported(tmp_path, 1), None).finding.reason
    assert reason.startswith("one row at a time: its batch size is fixed at 1")
    assert "log it with two" in reason
