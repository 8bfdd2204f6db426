"""`penstock doctor`: look at this machine, and at the servers that are named, and say what to do.

Nothing is changed. What the findings mean is in `diagnosis`.
"""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

import orjson
import zmq
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from penstock.deploy.local.cli.known_settings import warnings_of
from penstock.deploy.local.cli.tables import table_console
from penstock.deploy.local.commands.diagnosis import (
    Check,
    ImportProbe,
    Level,
    RedisFacts,
    judge_descriptors,
    judge_import,
    judge_python,
    judge_redis,
    judge_runtimes,
)
from penstock.deploy.local.system.runtime_dir import SOCKET_PATH_MAX
from penstock.deploy.local.up.processes import PYTHON
from penstock.gateway.settings import GatewaySettings
from penstock.shared.jobs.durability import durability_of
from penstock.shared.process.compiled import is_compiled
from penstock.shared.store.client import connect
from penstock.shared.store.url import without_password
from penstock.worker.agent.devices import Machine, discover

PROBE_TIMEOUT_S = 120.0
"""Libraries of a gigabyte are read from cold disks."""

ANSWER_TIMEOUT_S = 5.0
IPC = "ipc://"

PARTS = {
    "gateway": ("penstock.gateway.__main__", "gateway"),
    "worker": ("penstock.worker.__main__", "worker"),
    "registry-sync": ("penstock.registry_sync.__main__", "sync"),
}
RUNTIMES = {
    "runtime onnx": ("onnxruntime", "onnx"),
    "runtime torch": ("torch", "torch"),
    "runtime pyfunc": ("mlflow.pyfunc", "pyfunc"),
}
"""The module that each needs, and the extra that brings it."""

_STYLES = {Level.OK: "green", Level.NOTE: "yellow", Level.MEND: "red"}


def run_doctor(redis_url: str | None, mlflow_uri: str | None, data_dir: Path, as_json: bool) -> int:
    """Look at everything and print it; returns 1 if something must be mended."""
    checks = [*look_at_machine(discover(), data_dir)]
    if redis_url is not None:
        checks += asyncio.run(look_at_redis(redis_url))
    if mlflow_uri is not None:
        checks.append(look_at_mlflow(mlflow_uri))
    well = all(each.level is not Level.MEND for each in checks)
    if as_json:
        document = {"ok": well, "checks": [each.model_dump() for each in checks]}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        _print(checks, table_console())
    return 0 if well else 1


def _print(checks: list[Check], console: Console) -> None:
    width = max(len(each.check) for each in checks)
    for each in checks:
        console.print(f"{each.level:<5}", style=_STYLES[each.level], end="")
        console.print(f"{each.check:<{width}}  {each.found}", soft_wrap=True)
        if each.remedy:
            console.print(f"{'':<{width + 7}}{each.remedy}", soft_wrap=True)


def look_at_machine(machine: Machine, data_dir: Path) -> list[Check]:
    """Interpreter, parts, runtimes, sockets, folders and limits."""
    gpus = len(machine.gpus)
    parts = {name: _probe(module) for name, (module, _) in PARTS.items()}
    runtimes = {name: _probe(module) for name, (module, _) in RUNTIMES.items()}
    kind = "compiled" if is_compiled() else "interpreted"
    devices = f"{machine.cores} cores, {', '.join(machine.devices)}"
    return [
        judge_python(sys.version_info[:3]),
        Check(check="penstock", level=Level.OK, found=kind),
        Check(check="devices", level=Level.OK, found=devices),
        *(judge_import(name, PARTS[name][1], each) for name, each in parts.items()),
        *(judge_import(name, RUNTIMES[name][1], each, gpus) for name, each in runtimes.items()),
        *judge_runtimes(parts["worker"], runtimes),
        look_at_endpoint(_endpoint()),
        look_at_folder("data directory", data_dir),
        judge_descriptors(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        *(
            Check(check="variables", level=Level.NOTE, found=warning, remedy="unset it, or mend it")
            for warning in warnings_of(os.environ)
        ),
    ]


def _probe(module: str) -> ImportProbe:
    command = [*PYTHON, "-m", "penstock.deploy.local.commands.probe", module]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return ImportProbe(error=f"its import took more than {PROBE_TIMEOUT_S:.0f} s")
    try:
        return ImportProbe.model_validate_json(done.stdout.strip().rpartition(b"\n")[2])
    except ValidationError:
        return ImportProbe(error=f"its import ended the process (exit status {done.returncode})")


def _endpoint() -> str:
    default = str(GatewaySettings.model_fields["endpoint"].default)
    return os.environ.get("PENSTOCK_ENDPOINT", default)


def look_at_endpoint(endpoint: str) -> Check:
    """Whether a gateway could listen for replicas: a message is sent beside where that lies."""
    name, remedy = "zeromq", "name another folder with --endpoint ipc://PATH (PENSTOCK_ENDPOINT)"
    if not endpoint.startswith(IPC):
        if zmq.has("curve"):
            return Check(check=name, level=Level.OK, found=f"{zmq.zmq_version()}, with keys")
        found, remedy = "built without CURVE: tcp endpoints have no keys", "install pyzmq's wheel"
        return Check(check=name, level=Level.MEND, found=found, remedy=remedy)
    path = Path(endpoint.removeprefix(IPC))
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        found = f"{path} is longer than the {SOCKET_PATH_MAX} bytes of a socket's address"
        return Check(check=name, level=Level.MEND, found=found, remedy=remedy)
    try:
        with tempfile.TemporaryDirectory(prefix="p", dir=_existing(path.parent)) as folder:
            _send(f"{IPC}{folder}/s")
    except (OSError, zmq.ZMQError) as error:
        return Check(check=name, level=Level.MEND, found=f"{path}: {error}", remedy=remedy)
    return Check(check=name, level=Level.OK, found=f"{zmq.zmq_version()}, {path}")


def _send(endpoint: str) -> None:
    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as taker,
        context.socket(zmq.PUSH) as giver,
    ):
        giver.linger = 0
        taker.bind(endpoint)
        giver.connect(endpoint)
        giver.send(b"")
        if not taker.poll(int(ANSWER_TIMEOUT_S * 1000)):
            raise zmq.ZMQError(msg="a message did not arrive")
        taker.recv()


def look_at_folder(name: str, folder: Path) -> Check:
    """Whether a folder could be written, or made where it is not there."""
    there = _existing(folder.expanduser().absolute())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Check(check=name, level=Level.OK, found=str(folder))
    remedy = "make it writable for this user, or name another with --data-dir"
    return Check(check=name, level=Level.MEND, found=f"{there} is not writable", remedy=remedy)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above that is there."""
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


async def look_at_redis(redis_url: str) -> list[Check]:
    """Whether it answers, and how it is set up."""
    try:
        client = connect(redis_url)
    except ValueError as error:
        remedy = "write redis://HOST:PORT/0, rediss:// or unix://PATH"
        return [Check(check="redis", level=Level.MEND, found=str(error), remedy=remedy)]
    try:
        facts = await _facts(client)
    except (RedisError, OSError) as error:
        found = f"{without_password(redis_url)} does not answer: {error}"
        remedy = "start it, or mend --redis-url (PENSTOCK_REDIS_URL)"
        return [Check(check="redis", level=Level.MEND, found=found, remedy=remedy)]
    finally:
        await client.aclose()
    reached = Check(check="redis", level=Level.OK, found=without_password(redis_url))
    return [reached, *judge_redis(facts)]


async def _facts(client: Redis) -> RedisFacts:
    await client.ping()
    info = await client.info()
    try:
        answer = await client.config_get("append*")
    except RedisError:  # managed servers keep it to themselves
        configuration = None
    else:
        configuration = {_text(key): _text(value) for key, value in answer.items()}
    memory_max = info.get("maxmemory")
    valkey = info.get("valkey_version")
    return RedisFacts(
        name="valkey" if valkey else "redis",
        version=str(valkey or info.get("redis_version", "")),
        policy=str(info.get("maxmemory_policy", "")),
        memory_max=None if memory_max is None else int(memory_max),
        durability=durability_of(configuration, can_wait=await _can_wait(client)),
    )


async def _can_wait(client: Redis) -> bool:
    try:
        await client.waitaof(1, 0, 1)
    except RedisError:
        return False
    return True


def _text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def look_at_mlflow(uri: str) -> Check:
    """Whether MLflow's server answers; other stores than servers are not looked at."""
    if not uri.startswith(("http://", "https://")):
        found = "no http:// URL, so it was not asked"
        return Check(check="mlflow", level=Level.NOTE, found=found)
    shown = "that URL"
    try:
        shown = without_password(uri).rstrip("/")
        with urllib.request.urlopen(f"{shown}/health", timeout=ANSWER_TIMEOUT_S):
            return Check(check="mlflow", level=Level.OK, found=shown)
    except urllib.error.HTTPError as error:
        found = f"{shown}/health answers {error.code}"
        remedy = "see that this is MLflow's server, and what its users need (MLFLOW_TRACKING_*)"
        # A gate before it may let the registry's client pass, which has a name and a password.
        level = Level.NOTE if error.code in (401, 403, 404) else Level.MEND
        return Check(check="mlflow", level=level, found=found, remedy=remedy)
    except (OSError, ValueError, HTTPException) as error:
        remedy = "start it, or mend --mlflow-uri (PENSTOCK_MLFLOW_URI); see proxies (no_proxy)"
        found = f"{shown} does not answer: {error}"
        return Check(check="mlflow", level=Level.MEND, found=found, remedy=remedy)
