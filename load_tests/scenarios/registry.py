"""All scenarios by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from load_tests.measuring.session import Session
from load_tests.report.results import ScenarioResult
from load_tests.scenarios.closed import run_closed
from load_tests.scenarios.idle import run_idle
from load_tests.scenarios.image import run_image
from load_tests.scenarios.jobs import run_jobs
from load_tests.scenarios.latency import run_latency
from load_tests.scenarios.many_rows import run_many_rows
from load_tests.scenarios.mixed import run_mixed
from load_tests.scenarios.open_loop import run_open_loop
from load_tests.scenarios.scale import run_scale
from load_tests.scenarios.start import run_start
from load_tests.scenarios.swap import run_swap
from load_tests.server import NotHereError


@dataclass(frozen=True)
class Scenario:
    """One thing to find out.

    Attributes:
        about: in a line.
        needs_gpu: `all` leaves it out.
    """

    name: str
    about: str
    run: Callable[[Session], ScenarioResult]
    needs_gpu: bool = False


def all_scenarios() -> Mapping[str, Scenario]:
    """In the order in which `all` runs them."""
    scenarios = [
        Scenario(name, f"closed loop on {what}: c = 1, 16, 64, 256; JSON and binary", run)
        for name, what, run in (
            ("tiny", "a model that costs nothing", partial(run_closed, name="tiny")),
            ("mlp", "a small network, bodies of kilobytes", partial(run_closed, name="mlp")),
            ("medium", "a model that batching pays for", partial(run_closed, name="medium")),
        )
    ]
    scenarios += [
        Scenario(
            "latency", "one client: what is waited for beyond the model and HTTP", run_latency
        ),
        Scenario("open_loop", "latency at 50, 80 and 95% of the capacity", run_open_loop),
        Scenario("mixed", "three models at once, 1 to 16 rows, all answers verified", run_mixed),
        Scenario("many_rows", "one-row calls beside requests of 10,000 rows", run_many_rows),
        Scenario("scale", "2 gateways x 2 replicas against 1 x 1: cost of a request", run_scale),
        Scenario("swap", "version 1 to 2 and back by tags under load", run_swap),
        Scenario("image", "tensors of 600 kB in binary: bytes per second", run_image),
        Scenario("idle", "1,000 idle connections beside 64 active ones", run_idle),
        Scenario("start", "from `penstock up` to the first answer, by part", run_start),
        Scenario("jobs", "durable jobs beside Celery and RQ, and calls beside jobs", run_jobs),
        Scenario("mlflow", "MLflow's route beside `mlflow models serve`", _run_mlflow),
        Scenario("gpu", "ResNet-50 and BERT-base against torch alone", _run_gpu, needs_gpu=True),
    ]
    return {scenario.name: scenario for scenario in scenarios}


def _run_mlflow(session: Session) -> ScenarioResult:
    try:
        module = importlib.import_module("load_tests.scenarios.mlflow_serve")  # and none has MLflow
    except ModuleNotFoundError as error:
        message = f"mlflow needs its packages: pip install 'penstock[all]' ({error})"
        raise NotHereError(message) from error
    result: ScenarioResult = module.run_mlflow(session)
    return result


def _run_gpu(session: Session) -> ScenarioResult:
    try:
        module = importlib.import_module(
            "load_tests.scenarios.gpu.scenario"
        )  # no other scenario has torch
    except ModuleNotFoundError as error:
        message = f"gpu needs PyTorch: pip install 'penstock[torch]' ({error})"
        raise NotHereError(message) from error
    result: ScenarioResult = module.run_gpu(session)
    return result
