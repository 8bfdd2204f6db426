"""`mlflow`: MLflow's route beside `mlflow models serve`, on the same models and bodies.

Two models of scikit-learn's: one answers numbers, which a gateway words itself; one answers labels,
which the replica words. Both servers run at the same time and are asked in turn, calls of one row
by a few clients, then requests of 10,000 rows by one. Their answers are compared first.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression

from load_tests.measuring.measure import Target, closed_point, told
from load_tests.measuring.session import Session
from load_tests.report.results import Check, Point, ScenarioResult, merge
from load_tests.server import Encoding, HttpRequest, Model, ServerError
from load_tests.servers.mlflow_serve import RunningMlflow, Scoring
from load_tests.servers.penstock import Penstock
from load_tests.servers.verification import post

CONNECTIONS = 8
ROWS = 10_000
BATCH = 1024
"""Most rows in a piece of ours: each has pandas and MLflow's enforcement begin anew, 2 ms."""

BODIES = 16
"""Different ones, which clients send in turn."""

CALL_BAR, ROW_BAR = 0.2, 1.0
"""Of MLflow's processor time: for a call of one row, and for a row of a request of many."""


@dataclass(frozen=True)
class Case:
    """A model, and rows for it."""

    name: str
    estimator: Callable[[], Any]
    frame: pd.DataFrame


def _cases() -> list[Case]:
    diabetes, iris = load_diabetes(as_frame=True), load_iris(as_frame=True)
    species = np.array(iris.target_names)[iris.target]
    return [
        Case(
            "numbers", lambda: LinearRegression().fit(diabetes.data, diabetes.target), diabetes.data
        ),
        Case("labels", lambda: LogisticRegression(max_iter=500).fit(iris.data, species), iris.data),
    ]


def run_mlflow(session: Session) -> ScenarioResult:
    """See the module's docstring."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    points: list[Point] = []
    checks: list[Check] = []
    for case in _cases():
        found = _measure(session, case)
        points += found
        checks += _checks(case.name, found)
    return ScenarioResult(
        name="mlflow",
        about=f"`dataframe_split` to `mlflow models serve` (2 workers) and to ours (a gateway, a "
        f"replica), in turn: one row by {CONNECTIONS} clients, {ROWS:,} rows by one; "
        f"`penstock.max_batch_size` is {BATCH:,}.",
        points=points,
        tables=[],
        checks=checks,
    )


def _measure(session: Session, case: Case) -> list[Point]:
    """Both servers under both loads; medians of the repeats."""
    work = session.new_folder(case.name)
    folder = work / "models" / case.name / "1"
    _save(case, folder)
    one = [_body(case.frame.iloc[[number]]) for number in range(BODIES)]
    many = _body(case.frame.iloc[np.arange(ROWS) % len(case.frame)])
    path = f"/v2/models/{case.name}/invocations"
    with contextlib.ExitStack() as stack:
        theirs = RunningMlflow(folder, work / "mlflow.log")
        stack.callback(theirs.stop)
        model = Model(case.name, folder, case.frame.shape[1], 1)
        ours = Penstock().launch(model, work)
        stack.callback(ours.stop)
        servers = {"mlflow": Scoring(theirs, "/invocations"), "penstock": Scoring(ours, path)}
        theirs.until_answered(servers["mlflow"].scoring(one[0]))
        ours.until_accepted(servers["penstock"].scoring(one[0]))
        _compare(servers, [*one, many])
        return _alternating(session, case.name, servers, {"1 row": one, f"{ROWS} rows": [many]})


def _alternating(
    session: Session,
    model: str,
    servers: Mapping[str, Scoring],
    loads: Mapping[str, Sequence[bytes]],
) -> list[Point]:
    merged = []
    for load, bodies in loads.items():
        connections = CONNECTIONS if len(bodies) > 1 else 1
        found: dict[str, list[Point]] = {name: [] for name in servers}
        for repeat in range(session.repeats + 1):
            for name, server in servers.items():
                requests = [server.scoring(body) for body in bodies]
                at = Target(name, server, f"{model}, {load}", Encoding.JSON, requests)
                point = closed_point(at, connections, session.duration_s)
                session.say(told(point))
                if repeat:  # the first one warms up
                    found[name].append(point)
        merged += [merge(each) for each in found.values()]
    return merged


def _save(case: Case, folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    model = case.estimator()
    mlflow.sklearn.save_model(
        model,
        str(folder),
        signature=infer_signature(case.frame, model.predict(case.frame)),
        input_example=case.frame.head(8),
        pip_requirements=[],
        serialization_format="cloudpickle",
    )
    tags = {"threads": 1, "max_batch_size": BATCH}
    lines = [f"penstock.{name}: {value}\n" for name, value in tags.items()]
    (folder.parent / "tags.yaml").write_text("".join(lines))


def _body(frame: pd.DataFrame) -> bytes:
    split = {"columns": list(frame.columns), "data": frame.to_numpy().tolist()}
    return json.dumps({"dataframe_split": split}).encode()


def _compare(servers: Mapping[str, Scoring], bodies: Sequence[bytes]) -> None:
    """See that both answer the same.

    Raises:
        ServerError: if they do not.
    """
    for body in bodies:
        theirs, ours = [
            _predictions(server.port, server.scoring(body)) for server in servers.values()
        ]
        same = len(ours) == len(theirs) and all(
            abs(a - b) <= 1e-6 * abs(a) if isinstance(a, float) else a == b
            for a, b in zip(theirs, ours, strict=True)
        )
        if not same:
            raise ServerError(f"answers differ: {str(theirs)[:200]} and {str(ours)[:200]}")


def _predictions(port: int, request: HttpRequest) -> list[Any]:
    status, _, body = post(port, request)
    if status != 200:
        raise ServerError(f"{status}: {body[:300]!r}")
    found: list[Any] = json.loads(body)["predictions"]
    return found


def _checks(model: str, points: Sequence[Point]) -> list[Check]:
    checks = []
    for (theirs, ours), bar in zip((points[:2], points[2:]), (CALL_BAR, ROW_BAR), strict=True):
        void = theirs.void or ours.void or ("calls failed" if theirs.failed + ours.failed else "")
        ratio = ours.cpu_us_all / theirs.cpu_us_all
        told_ratio = (
            f"{ratio:.2f} x MLflow's ({ours.cpu_us_all:,.0f} and {theirs.cpu_us_all:,.0f} µs)"
        )
        passed = None if void else ratio <= bar
        checks.append(Check(f"processor time of {ours.model}", void or told_ratio, passed))
    return checks
