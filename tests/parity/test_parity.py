"""The same bytes go to MLflow's own scoring server and to ours; the answers are the same.

Here: scikit-learn, Python models, agents. Other libraries have a module of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pandas as pd
import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import LoadFailed, Ready
from tests.fault.served import Served
from tests.parity import agents, python_models, scikit
from tests.parity.asking import ask_gateway, ask_mlflow, check, marked
from tests.parity.bodies import of_frame
from tests.parity.cases import Case
from tests.parity.differences import difference

pytestmark = [pytest.mark.costly, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]

CASES = [*scikit.CASES, *python_models.CASES, *agents.CASES]


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
async def test_a_model_answers_as_mlflows_server_does(
    case: Case, system: Served, tmp_path: Path
) -> None:
    await check(case, system, tmp_path)


TELLING = [
    ("texts", python_models.telling_texts, python_models.TOLD),
    ("mixed", python_models.mixing, python_models.MIXED),
]


@pytest.mark.parametrize(("model", "make", "frames"), TELLING, ids=["texts", "mixed"])
async def test_answers_that_replicas_word_are_each_callers_own(
    system: Served,
    tmp_path: Path,
    model: str,
    make: Callable[[Path], None],
    frames: Sequence[pd.DataFrame],
) -> None:
    """Requests share executions, and nothing of one gets into the answer to another: no text,
    missing or not, and no type or name of a column."""
    folder = tmp_path / "m"
    make(folder)
    bodies = [body for each in frames for body in of_frame(each, (1, len(each)))]
    theirs = await ask_mlflow(folder, bodies)
    settings = ReplicaSettings(threads=1, max_batch_size=16)
    child = system.spawn(folder, model=model, settings=settings)
    try:
        message = child.hear((Ready, LoadFailed))
        assert isinstance(message, Ready), message
        assert message.finding.interface.scoring == "rows", message.finding
        system.until_ready(model, 1)
        asking = [ask_gateway(system.port, model, bodies) for _ in range(16)]
        everybody = await asyncio.gather(*asking)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{system.port}") as client:
            (stats,) = (await client.get(f"/v2/models/{model}/stats")).json()["model_stats"]
    finally:
        child.end()
    for ours in everybody:
        pairs = zip(bodies, theirs, ours, strict=True)
        assert {body.form: why for body, a, b in pairs if (why := difference(a, b))} == {}
    if model == "texts":
        assert stats["execution_count"] < stats["inference_count"], "batches formed"
