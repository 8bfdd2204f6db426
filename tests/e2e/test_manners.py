"""A system among others: private files, odd names of models, a proxy that knows nothing of it."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mlflow
import onnx
import pytest

from penstock.deploy.local.system.direct_http import open_direct
from tests.e2e.folder import QUICK, answers_with, folder_system, status_of
from tests.e2e.system import LocalSystem, penstock
from tests.support.models import affine
from tests.support.waiting import wait_until

NAMES = ["plain", "modèle-模型", "50%off&a=b?#", "with a space", 'quote"s', "a" * 120]
CLOSED = "http://127.0.0.1:9"
PROXIES = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), CLOSED)
PROXIES |= {"no_proxy": "", "NO_PROXY": ""}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """It runs where a proxy is set, and in a folder that is open to others."""
    base = tmp_path_factory.mktemp("manners")
    system = folder_system(base)
    system.environment |= PROXIES
    (base / "data" / "redis").mkdir(parents=True)
    (base / "data").chmod(0o755)
    (base / "data" / "redis").chmod(0o755)
    for scale, name in enumerate(NAMES, 2):
        affine(base / "models" / name / "1", float(scale))
    unservable = affine(base / "models" / "unservable" / "1", 2.0)
    (unservable / "model.onnx").unlink()
    (unservable / "MLmodel").write_text("flavors: {fastai: {}}\n")
    unknown = affine(base / "models" / "unknown role" / "1", 2.0)
    (unknown / "tags.yaml").write_text("penstock.role: canari\n")
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


def test_what_can_never_be_served_says_why_and_names_no_time(system: LocalSystem) -> None:
    def is_told() -> bool:
        return b"cannot be served" in call(system, "/v2/models/unservable")[2]

    wait_until(is_told, 60, "it is found out")
    status, headers, body = call(system, "/v2/models/unservable/infer")
    assert status == 503
    assert "retry-after" not in {name.lower() for name in headers}
    assert (
        "version 1 cannot be served: no runtime serves a model of flavors: fastai"
        in json.loads(body)["error"]
    )


def test_status_lists_every_model_in_the_words_of_the_tags(system: LocalSystem) -> None:
    def statuses(models: list[dict[str, Any]]) -> dict[str, str]:
        return {each["model"]: each["versions"][0]["status"] for each in models if each["versions"]}

    expected = dict.fromkeys(NAMES, "serving")
    expected |= dict.fromkeys(["unservable", "unknown role"], "invalid")
    wait_until(
        lambda: statuses(system.status()["models"]) == expected, 60, "all of them are told", 0.2
    )
    done = penstock("status", "--json", "--data-dir", str(system.data_dir))
    assert statuses(json.loads(done.stdout)["models"]) == expected
    done = penstock("status", "--data-dir", str(system.data_dir))
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["unservable", "1", "invalid"] in [row[:3] for row in rows]
    assert any("canari" in line for line in done.stdout.splitlines())
    for name, status in expected.items():
        told = status_of(system.data_dir.parent / "models", name, 1)
        assert told[0] == status


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


def test_a_system_with_mlflow_starts_where_a_proxy_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "50%off&a=b?# modèle-模型"
    system = LocalSystem(tmp_path / "data")
    system.environment = PROXIES | QUICK
    try:
        system.start()
        monkeypatch.setenv("NO_PROXY", "*")
        mlflow.set_tracking_uri(system.mlflow_uri)
        graph = onnx.load(str(affine(tmp_path / "graph", 7.0) / "model.onnx"))
        with mlflow.start_run():
            mlflow.onnx.log_model(graph, name="m", registered_model_name=name, pip_requirements=[])
        client = mlflow.MlflowClient(system.mlflow_uri)
        client.set_model_version_tag(name, "1", "penstock.role", "stable")
        answers_with(system, quote(name, safe=""), 7.0, 90)
        files = [path for path in system.data_dir.rglob("*") if not path.is_symlink()]
        assert any(path.name == "mlflow.db" for path in files)
        assert {str(path) for path in files if path.stat().st_mode & 0o077} == set()
    finally:
        system.stop()


def test_a_rebound_name_reads_neither_jobs_nor_metrics(system: LocalSystem) -> None:
    assert call(system, "/v2/jobs", host="evil.example")[0] == 421
    url = f"http://127.0.0.1:{system.metrics_port}/metrics"
    request = urllib.request.Request(url, headers={"host": "evil.example"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="421"):
        opener.open(request, timeout=10)
