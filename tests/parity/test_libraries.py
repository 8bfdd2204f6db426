"""The same for graphs, and for models of other people's libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault.served import Served
from tests.parity import boosted, graphs, texts
from tests.parity.asking import check, marked
from tests.parity.cases import Case

pytestmark = [pytest.mark.costly, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]

CASES = [*graphs.CASES, *texts.CASES, *boosted.CASES]


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
async def test_a_model_answers_as_mlflows_server_does(
    case: Case, system: Served, tmp_path: Path
) -> None:
    await check(case, system, tmp_path)
