"""`system.json` in the data directory: how other commands find the system that runs there."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.data_dir import DataDir, running_pid

NAME = "system.json"


class SystemFile(BaseModel):
    """A running local system.

    Attributes:
        pid: of the launcher.
        url: of the gateways.
        mlflow_uri: of the registry that is followed; empty if that is a folder.
        models: the folder of models that is followed, or empty.
        redis_url: of the state store; may hold a password, so the file is its owner's alone.
        namespace: prefix of all keys in the store.
        metrics_url: of the sum of all processes' metrics, or empty.
        restart_socket: path of the socket that takes requests of `penstock restart`.
        processes: pids of the children by name.
    """

    pid: int
    url: str
    mlflow_uri: str
    models: str = ""
    redis_url: str
    namespace: str
    metrics_url: str = ""
    restart_socket: str = ""
    processes: dict[str, int] = {}


def write_system(data_dir: DataDir, system: SystemFile) -> None:
    """Write the file so that a reader sees the old or the new one, whole."""
    fresh = data_dir.path / f".{NAME}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(system.model_dump_json(indent=2) + "\n")
    fresh.replace(data_dir.path / NAME)


def remove_system(data_dir: DataDir) -> None:
    """Remove the file: nothing runs any more."""
    (data_dir.path / NAME).unlink(missing_ok=True)


def read_system(path: Path) -> SystemFile:
    """The system that runs on a data directory.

    Raises:
        CommandError: if none does, or it has not got that far yet.
    """
    data_dir = DataDir(path.resolve())
    pid = running_pid(data_dir)
    if pid is None:
        raise CommandError(
            f"nothing runs on {data_dir.path}; start it with `penstock up`, "
            "or name another with --data-dir"
        )
    try:
        system = SystemFile.model_validate_json((data_dir.path / NAME).read_bytes())
    except (OSError, ValidationError) as error:
        raise CommandError(f"the system on {data_dir.path} (pid {pid}) is starting") from error
    if system.pid != pid:
        raise CommandError(f"the system on {data_dir.path} (pid {pid}) is starting")
    return system
