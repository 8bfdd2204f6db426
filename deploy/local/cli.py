"""`penstock`, the one command line.

Nothing heavy is imported here: a command's own module is loaded when the command runs, and the
services' packages, which need extras, by name, so that each works where only its extra is
installed. What follows a command is in `up`, `status`, `demo_client` or a service's `__main__`.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic_settings import BaseSettings

from deploy.local.cli_jobs import jobs, submit
from deploy.local.direct_http import spare_loopback
from deploy.local.extras import load
from deploy.local.failures import CommandError
from deploy.local.log_lines import Wanted
from deploy.local.logs import run_logs
from deploy.local.settings_flags import command_of
from deploy.local.up_settings import UpSettings
from gateway.settings import GatewaySettings
from registry_sync.settings import SyncSettings
from shared.compiled import is_compiled
from shared.errors import PenstockError
from shared.lifecycle import die_with_parent
from worker.settings import WorkerSettings

DataDirOption = Annotated[
    Path, typer.Option(help="Where `penstock up` runs.", envvar="PENSTOCK_DATA_DIR")
]

RedisUrlOption = Annotated[
    str | None, typer.Option(help="State store of a remote system, instead of --data-dir.")
]

NamespaceOption = Annotated[
    str, typer.Option(help="Prefix of its keys.", envvar="PENSTOCK_NAMESPACE")
]

app = typer.Typer(
    name="penstock",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help wraps long names of variables instead of cutting them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        kind = "compiled" if is_compiled() else "interpreted"
        print(f"penstock {importlib.metadata.version('penstock')} ({kind})")
        raise typer.Exit


@app.callback()
def penstock(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Serve models from an MLflow registry."""


def _service(name: str, package: str, extra: str) -> Callable[[BaseSettings], None]:
    def run(settings: BaseSettings) -> None:
        die_with_parent()
        module = load(f"{package}.__main__", f"penstock {name}", extra)
        try:
            module.run_with(settings)
        except (OSError, PenstockError) as error:
            raise CommandError(f"{name}: {error}") from error

    return run


def _up(settings: UpSettings) -> None:
    raise typer.Exit(load("deploy.local.up", "penstock up", "all").run_up(settings))


app.command("up")(
    command_of(UpSettings, _up, "Start everything on this machine; Ctrl-C drains and ends it.")
)
app.command("gateway")(
    command_of(GatewaySettings, _service("gateway", "gateway", "gateway"), "Run one gateway.")
)
app.command("worker")(
    command_of(WorkerSettings, _service("worker", "worker", "worker"), "Run one worker agent.")
)
app.command("registry-sync")(
    command_of(
        SyncSettings,
        _service("registry-sync", "registry_sync", "sync"),
        "Follow MLflow's registry, or a folder of models; of several, one is active.",
    )
)


@app.command("status")
def status(
    data_dir: DataDirOption = Path(".penstock"),
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show models, versions, replicas, workers and gateways."""
    module = load("deploy.local.status", "penstock status", "all")
    raise typer.Exit(module.run_status(data_dir, redis_url, namespace, as_json))


@app.command("retry")
def retry(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model that is deployed.")],
    data_dir: DataDirOption = Path(".penstock"),
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
) -> None:
    """Try a model anew: whether it can be batched, and to load it if that failed.

    It is loaded beside what serves and swapped in when it is ready, as for a change of its tags.
    """
    module = load("deploy.local.retry", "penstock retry", "all")
    raise typer.Exit(module.run_retry(model, data_dir, redis_url, namespace))


@app.command("logs")
def logs(
    request: Annotated[
        str, typer.Option(metavar="ID", help="The `x-request-id` of an answer.")
    ] = "",
    job: Annotated[str, typer.Option(metavar="ID", help="A job's id.")] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="All lines about a model.")] = "",
    data_dir: DataDirOption = Path(".penstock"),
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Find out why a request or a job failed: its lines of all logs, with the traceback."""
    if sum(map(bool, (request, job, model))) != 1:
        raise CommandError("penstock logs needs one of --request, --job, --model", exit_code=2)
    wanted = Wanted(request, job, model)
    raise typer.Exit(run_logs(wanted, data_dir, follow=follow, as_json=as_json))


@app.command("demo-client")
def demo_client(
    url: Annotated[str | None, typer.Option(help="A gateway; default: that of --data-dir.")] = None,
    data_dir: DataDirOption = Path(".penstock"),
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each image is sent.")] = 1,
) -> None:
    """Send the test images of the demo at once; print accuracy, versions, latencies, failures."""
    module = load("deploy.local.demo_client", "penstock demo-client", "demo")
    raise typer.Exit(module.run_demo_client(url, data_dir, concurrency, rounds))


@app.command("demo-diffusion")
def demo_diffusion(
    mlflow_uri: Annotated[
        str | None, typer.Option(help="An MLflow server; default: that of --data-dir.")
    ] = None,
    data_dir: DataDirOption = Path(".penstock"),
    training_steps: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="For how long to train: about 10 ms each.")
    ] = 3000,
) -> None:
    """Train a model that draws digits, slowly, and log it to MLflow as `digits-diffusion`."""
    module = load("deploy.local.demo_diffusion", "penstock demo-diffusion", "pyfunc")
    raise typer.Exit(module.run_demo_diffusion(mlflow_uri, data_dir, training_steps))


app.command("submit")(submit)
app.add_typer(jobs, name="jobs")


class Part(StrEnum):
    """What `penstock restart` can restart."""

    GATEWAYS = "gateways"
    WORKERS = "workers"
    REGISTRY_SYNC = "registry-sync"


@app.command("restart")
def restart(
    part: Annotated[Part, typer.Argument(help="Which processes.")],
    data_dir: DataDirOption = Path(".penstock"),
) -> None:
    """Restart processes of `penstock up` one at a time, without failing a request."""
    module = load("deploy.local.restart_socket", "penstock restart", "all")
    raise typer.Exit(module.run_restart(data_dir, part.value))


@app.command("keys")
def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put the keys.")],
    force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
) -> None:
    """Make the keys by which gateways and workers on several hosts know each other."""
    print(load("deploy.local.keys", "penstock keys", "all").make_keys(folder, force=force))


def main() -> NoReturn:
    """The command line; mistakes and outages are one line, exit code 2 or 1."""
    spare_loopback(os.environ)
    try:
        app()
    except CommandError as error:
        print(f"penstock: {error.message}", file=sys.stderr)
        if error.detail:
            print(error.detail, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
