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
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic_settings import BaseSettings

from penstock.deploy.local.cli.completion import (
    jobs_of_gateway,
    models_of_gateway,
    models_of_store,
    names_of_tags,
)
from penstock.deploy.local.cli.config_file import VARIABLE as CONFIG_VARIABLE
from penstock.deploy.local.cli.config_file import read_config
from penstock.deploy.local.cli.extras import load
from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.help_groups import CommandGroup, GroupedTyper, OptionGroup
from penstock.deploy.local.cli.jobs import jobs, submit
from penstock.deploy.local.cli.known_settings import SETTINGS, warnings_of
from penstock.deploy.local.cli.settings_flags import NO_DEFAULTS, Defaults, command_of
from penstock.deploy.local.cli.system_options import (
    HERE,
    DataDirOption,
    MlflowUriOption,
    NamespaceOption,
    RedisUrlOption,
    UrlOption,
)
from penstock.deploy.local.commands.log_lines import LogQuery
from penstock.deploy.local.commands.logs import run_logs
from penstock.deploy.local.status.goals import Goal
from penstock.deploy.local.system.direct_http import spare_loopback
from penstock.deploy.local.up.restartable import Restartable
from penstock.deploy.local.up.settings import UpSettings
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.contracts.history import EVENTS_MAX
from penstock.shared.process.compiled import is_compiled
from penstock.shared.process.lifecycle import die_with_parent

WAIT_MAX_S = 7 * 24 * 3600.0
"""Longest `penstock wait`: a week."""

app = GroupedTyper(
    name="penstock",
    no_args_is_help=True,
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
        module = load(f"penstock.{package}.__main__", f"penstock {name}", extra)
        try:
            module.run_with(settings)
        except (OSError, PenstockError) as error:
            raise CommandError(f"{name}: {error}") from error

    return run


def _up(settings: UpSettings) -> None:
    raise typer.Exit(load("penstock.deploy.local.up.up", "penstock up", "all").run_up(settings))


def _begin(command: str) -> Callable[[Path | None], Defaults]:
    def begin(config: Path | None) -> Defaults:
        for warning in warnings_of(os.environ):
            print(f"penstock: {warning}", file=sys.stderr)
        if config is None:
            return NO_DEFAULTS
        os.environ[CONFIG_VARIABLE] = str(config.absolute())  # for what `penstock up` starts
        return read_config(config, command)

    return begin


def _process(name: str, run: Callable[[Any], None], description: str) -> None:
    """Add the command of a long-running process."""
    app.command(name, rich_help_panel=CommandGroup.RUN)(
        command_of(SETTINGS[name], run, description, _begin(name))
    )


_process("up", _up, "Start everything on this machine; Ctrl-C drains and ends it.")
_process("gateway", _service("gateway", "gateway", "gateway"), "Run one gateway.")
_process("worker", _service("worker", "worker", "worker"), "Run one worker agent.")
_process(
    "registry-sync",
    _service("registry-sync", "registry_sync", "sync"),
    "Follow MLflow's registry, or a folder of models; of several, one is active.",
)


def _check_one_source(url: str | None, redis_url: str | None) -> None:
    if url is not None and redis_url is not None:
        raise CommandError("--url and --redis-url: give one of them", exit_code=2)


@app.command("status", rich_help_panel=CommandGroup.LOOK)
def status(
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
    url: Annotated[
        str | None,
        typer.Option(
            help="Ask this gateway what it routes, instead of the store.",
            rich_help_panel=OptionGroup.SYSTEM,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    judged: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Exit with 1 if something failed or is invalid, else with 3 if something is "
            "not there yet.",
        ),
    ] = False,
) -> None:
    """Show models, versions, replicas and processes."""
    _check_one_source(url, redis_url)
    if url is not None:
        module = load("penstock.deploy.local.status.gateway", "penstock status", "all")
        raise typer.Exit(module.run_gateway_status(url, as_json, judged))
    module = load("penstock.deploy.local.status.status", "penstock status", "all")
    raise typer.Exit(module.run_status(data_dir, redis_url, namespace, as_json, judged))


@app.command("history", rich_help_panel=CommandGroup.LOOK)
def history(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="As the registry names it.", autocompletion=models_of_store
        ),
    ],
    limit: Annotated[
        int, typer.Option(min=1, max=EVENTS_MAX, help="How many at most, of the last ones.")
    ] = 20,
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show who switched what of a model, when and why, with its failures; the latest last.

    The exit code is 1 if nothing was written down of it.
    """
    module = load("penstock.deploy.local.commands.history", "penstock history", "all")
    raise typer.Exit(
        module.run_history(
            model=model,
            limit=limit,
            data_dir=data_dir,
            redis_url=redis_url,
            namespace=namespace,
            as_json=as_json,
        )
    )


@app.command("wait", rich_help_panel=CommandGroup.LOOK)
def wait(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="As the registry names it.", autocompletion=models_of_store
        ),
    ],
    version: Annotated[str | None, typer.Option(help="Of the model; default: whichever.")] = None,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.SERVING,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, max=WAIT_MAX_S, help="In seconds.")
    ] = 300.0,
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
    url: Annotated[
        str | None,
        typer.Option(
            help="Ask this gateway whether it serves the model, instead of the store.",
            rich_help_panel=OptionGroup.SYSTEM,
        ),
    ] = None,
) -> None:
    """Wait until a model serves, is ready, or runs no more; the last line says why it is over.

    Exit codes: 0 it has come to that, 1 it never will (its reason is told), 2 a mistake in the
    call, 3 not in time.
    """
    module = load("penstock.deploy.local.status.wait", "penstock wait", "all")
    _check_one_source(url, redis_url)
    if url is not None:
        raise typer.Exit(module.run_gateway_wait(model, version, goal, timeout_s, url))
    raise typer.Exit(
        module.run_wait(
            model=model,
            version=version,
            goal=goal,
            timeout_s=timeout_s,
            data_dir=data_dir,
            redis_url=redis_url,
            namespace=namespace,
        )
    )


@app.command("tags", rich_help_panel=CommandGroup.LOOK)
def tags(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="One tag, to be shown in full; with the prefix or without.",
            autocompletion=names_of_tags,
        ),
    ] = None,
    tag_prefix: Annotated[
        str | None,
        typer.Option(
            help="What the tags of your system begin with; default: as registry-sync is set.",
            envvar="PENSTOCK_TAG_PREFIX",
            rich_help_panel=OptionGroup.SYSTEM,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show the tags by which models are operated: where each stands, its default, its meaning."""
    module = load("penstock.deploy.local.commands.tags", "penstock tags", "all")
    module.run_tags(name, tag_prefix, os.environ, as_json)


@app.command("doctor", rich_help_panel=CommandGroup.LOOK)
def doctor(
    redis_url: Annotated[
        str | None, typer.Option(help="A state store to look at.", envvar="PENSTOCK_REDIS_URL")
    ] = None,
    mlflow_uri: Annotated[
        str | None, typer.Option(help="An MLflow to look at.", envvar="PENSTOCK_MLFLOW_URI")
    ] = None,
    data_dir: DataDirOption = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check this machine and the servers that are named; exit status 1: something must be mended.

    It changes nothing, and says what to do about each finding.
    """
    module = load("penstock.deploy.local.commands.doctor", "penstock doctor", "all")
    raise typer.Exit(module.run_doctor(redis_url, mlflow_uri, data_dir, as_json))


@app.command("retry", rich_help_panel=CommandGroup.ACT)
def retry(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model that is deployed.", autocompletion=models_of_store
        ),
    ],
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
) -> None:
    """Try a model anew: whether it can be batched, and to load it if that failed.

    It is loaded beside what serves and swapped in when it is ready, as for a change of its tags.
    """
    module = load("penstock.deploy.local.commands.retry", "penstock retry", "all")
    raise typer.Exit(module.run_retry(model, data_dir, redis_url, namespace))


@app.command("off", rich_help_panel=CommandGroup.ACT)
def off(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model that is deployed.", autocompletion=models_of_store
        ),
    ],
    version: Annotated[str | None, typer.Option(help="Of the model; default: all of it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undone: Annotated[
        bool, typer.Option("--undo", help="Let what the registry says of it count again.")
    ] = False,
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
) -> None:
    """End a model or a version, also one that the registry has no more.

    It says what ends, and asks. What the registry still names stable stays off until that changes,
    or until --undo.
    """
    module = load("penstock.deploy.local.commands.off", "penstock off", "all")
    raise typer.Exit(
        module.run_off(model, version, data_dir, redis_url, namespace, yes=yes, undone=undone)
    )


@app.command("logs", rich_help_panel=CommandGroup.LOOK)
def logs(
    request: Annotated[
        str, typer.Option(metavar="ID", help="The `x-request-id` of an answer.")
    ] = "",
    job: Annotated[
        str, typer.Option(metavar="ID", help="A job's id.", autocompletion=jobs_of_gateway)
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="All lines about a model.", autocompletion=models_of_gateway
        ),
    ] = "",
    data_dir: DataDirOption = HERE,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they are.")] = False,
) -> None:
    """Find out why a request or a job failed: its lines of all logs, with the traceback."""
    if sum(map(bool, (request, job, model))) != 1:
        raise CommandError("penstock logs needs one of --request, --job, --model", exit_code=2)
    query = LogQuery(request, job, model)
    raise typer.Exit(run_logs(query, data_dir, follow=follow, as_json=as_json))


@app.command("demo-client", rich_help_panel=CommandGroup.DEMO)
def demo_client(
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="How often each image is sent.")] = 1,
) -> None:
    """Send the test images of the demo at once; print accuracy, versions, latencies, failures."""
    module = load("penstock.deploy.local.demo.client", "penstock demo-client", "demo")
    raise typer.Exit(module.run_demo_client(url, data_dir, concurrency, rounds))


@app.command("demo-diffusion", rich_help_panel=CommandGroup.DEMO)
def demo_diffusion(
    mlflow_uri: MlflowUriOption = None,
    data_dir: DataDirOption = HERE,
    training_steps: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="For how long to train: about 10 ms each.")
    ] = 3000,
) -> None:
    """Train a model that draws digits, slowly, and log it to MLflow as `digits-diffusion`."""
    module = load("penstock.deploy.local.demo.diffusion", "penstock demo-diffusion", "pyfunc")
    raise typer.Exit(module.run_demo_diffusion(mlflow_uri, data_dir, training_steps))


app.command("submit", rich_help_panel=CommandGroup.JOBS)(submit)
app.add_typer(jobs, name="jobs", rich_help_panel=CommandGroup.JOBS)


@app.command("restart", rich_help_panel=CommandGroup.ACT)
def restart(
    part: Annotated[Restartable, typer.Argument(help="Which processes.")],
    data_dir: DataDirOption = HERE,
) -> None:
    """Restart processes of `penstock up` one at a time, without failing a request."""
    module = load("penstock.deploy.local.up.restart_socket", "penstock restart", "all")
    raise typer.Exit(module.run_restart(data_dir, part.value))


@app.command("keys", rich_help_panel=CommandGroup.ACT)
def keys(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where to put the keys.", envvar="PENSTOCK_KEYS_DIR"),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace keys that are there.")] = False,
) -> None:
    """Make the keys by which gateways and workers on several hosts know each other."""
    print(
        load("penstock.deploy.local.commands.keys", "penstock keys", "all").make_keys(
            folder, force=force
        )
    )


def main() -> NoReturn:
    """The command line; mistakes and outages are one line, exit code 2 or 1."""
    spare_loopback(os.environ)
    try:
        app(prog_name="penstock")
    except CommandError as error:
        print(f"penstock: {error.message}", file=sys.stderr)
        if error.detail:
            print(error.detail, file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)
