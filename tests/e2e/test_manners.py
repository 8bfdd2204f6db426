"""A system among others: private files, odd names of models, a proxy that knows nothing of it."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from deploy.local.direct_http import open_direct
from tests.e2e.folder import answers_with, folder_system
from tests.e2e.system import LocalSystem, penstock
from tests.models import affine

NAMES = ["plain", "modèle-模型", "50%off&a=b?#", "with a space", 'quote"s', "a" * 120]
CLOSED = "http://127.0.0.1:9"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """It runs where a proxy is set, and in a folder that is open to others."""
    base = tmp_path_factory.mktemp("manners")
    system = folder_system(base)
    system.environment |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), CLOSED)
    system.environment |= {"no_proxy": "", "NO_PROXY": ""}
    (base / "data" / "redis").mkdir(parents=True)
    (base / "data").chmod(0o755)
    (base / "data" / "redis").chmod(0o755)
    for scale, name in enumerate(NAMES, 2):
        affine(base / "models" / name / "1", float(scale))
    invalid = affine(base / "models" / "unservable" / "1", 2.0)
    (invalid / "tags.yaml").write_text("penstock.role: stable\npenstock.max_batch_size: many\n")
    try:
        system.start()
        yield system
    finally:
        system.stop()


def call(system: LocalSystem, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a GET, or of a POST of one number where the path infers."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=10)
    body = None
    if path.endswith("/infer"):
        entry = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 1]}
        body = json.dumps({"inputs": [entry]})
    connection.request("GET" if body is None else "POST", path, body, headers)
    response = connection.getresponse()
    answered = response.status, dict(response.getheaders()), response.read()
    connection.close()
    return answered


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_every_name_is_served_percent_encoded(system: LocalSystem, name: str) -> None:
    scale = float(NAMES.index(name) + 2)
    encoded = quote(name, safe="")
    answers_with(system, encoded, scale, 60)
    status, _, body = call(system, f"/v2/models/{encoded}")
    assert (status, json.loads(body)["name"]) == (200, name)
    status, _, body = call(system, f"/v2/models/{encoded}/versions/1/infer")
    assert (status, json.loads(body)["model_name"]) == (200, name)
    done = penstock("status", "--json", "--data-dir", str(system.data_dir))
    assert name in [model["model"] for model in json.loads(done.stdout)["models"]]


def test_what_it_writes_is_its_owners_alone(system: LocalSystem) -> None:
    answers_with(system, "plain", 2.0, 60)
    written = [path for path in system.data_dir.rglob("*") if not path.is_symlink()]
    assert any(path.suffix == ".aof" for path in written)
    assert {str(path) for path in written if path.stat().st_mode & 0o077} == set()
    assert f"{system.data_dir} is open to others (mode 0755)" in system.output
    assert f"{system.data_dir / 'redis'} was open to others (mode 0755)" in system.output


def test_metrics_are_summed_where_a_proxy_is_set(system: LocalSystem) -> None:
    answers_with(system, "plain", 2.0, 60)
    url = f"http://127.0.0.1:{system.metrics_port}/metrics"
    with open_direct(url, 10) as response:
        assert "penstock_gateway_requests_total" in response.read().decode()


def test_a_rebound_name_reads_neither_jobs_nor_metrics(system: LocalSystem) -> None:
    assert call(system, "/v2/jobs", host="evil.example")[0] == 421
    url = f"http://127.0.0.1:{system.metrics_port}/metrics"
    request = urllib.request.Request(url, headers={"host": "evil.example"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="421"):
        opener.open(request, timeout=10)
