"""The command line: `run`, `peers`, `list`."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from load_tests.measuring.closed_loop import find_wrk
from load_tests.measuring.compare import Plan, compare
from load_tests.measuring.seat import Waiting
from load_tests.measuring.session import Session, Size
from load_tests.report.files import write_report
from load_tests.report.machine import commit_of, describe_machine
from load_tests.report.results import Check, Report, ScenarioResult
from load_tests.report.tables import checks_held, render_report
from load_tests.scenarios.registry import Scenario, all_scenarios
from load_tests.server import NotHereError, Server, ServerError
from load_tests.servers.forms import check_pair, entry_of, form_of
from load_tests.servers.penstock import Penstock

RESULTS = Path(__file__).parent / "results"
ALL = "all"
PEERS = "peers"
BEFORE = "before"

app = typer.Typer(
    name="python -m load_tests",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DurationOption = Annotated[float, typer.Option(min=1, help="Seconds of each load.")]
OutOption = Annotated[Path, typer.Option(help="Folder for JSON, Markdown and plots.")]


@app.callback()
def load_tests() -> None:
    """Load tests of Penstock, and comparisons with other model servers.

    Everything that is needed is started, and ended, on this machine. Run nothing else on it.
    """


@app.command("list")
def list_scenarios() -> None:
    """Show the scenarios."""
    for scenario in all_scenarios().values():
        print(f"{scenario.name:10} {scenario.about}")
    print(f"{ALL:10} all of these, one after the other, but those that need a GPU")


@app.command("run")
def run(
    scenario: Annotated[str, typer.Argument(help="A name that `list` shows, or `all`.")],
    duration: DurationOption = 5.0,
    repeats: Annotated[int, typer.Option(min=1, help="Of each load; medians are shown.")] = 3,
    device: Annotated[
        str, typer.Option(help="For gpu: cuda:N, or cpu with --size small. Default: cuda:0.")
    ] = "",
    size: Annotated[
        Size, typer.Option(help="For gpu: small models are to try the scenario on a CPU.")
    ] = Size.FULL,
    models: Annotated[
        str, typer.Option(help="For gpu: as resnet50-bf16, with commas; default: all.")
    ] = "",
    out: OutOption = RESULTS,
) -> None:
    """Run a scenario on our own server; print its table and write it to files.

    Exit code 1: something that a scenario is to show does not hold, or answers were wrong.
    """
    chosen = _chosen(scenario)
    if (device or models or size is not Size.FULL) and not all(one.needs_gpu for one in chosen):
        raise typer.BadParameter("--device, --size and --models are of gpu alone")
    find_wrk()
    machine = describe_machine()
    with _session(duration, repeats) as session:
        session.device, session.size = device, size
        session.models = [name for name in models.split(",") if name]
        results = [_run_one(one, session) for one in chosen]
    command = f"python -m load_tests run {scenario} --duration {duration:g} --repeats {repeats}"
    if any(one.needs_gpu for one in chosen):
        command += f" --size {size}"
        command += f" --device {device}" if device else ""
        command += f" --models {models}" if models else ""
    report = Report(f"Load test: {scenario}", command, machine, results)
    _finish(report, out, scenario)
    if not checks_held(results):
        raise typer.Exit(1)


@app.command("peers")
def peers(
    only: Annotated[str, typer.Option(help="Peers by name, with commas; default: all.")] = "",
    models: Annotated[str, typer.Option(help="Models, with commas.")] = "tiny,mlp,medium",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds of each server, in turn.")] = 7,
    duration: DurationOption = 3.0,
    concurrency: Annotated[str, typer.Option(help="Clients, with commas.")] = "64",
    waiting: Annotated[
        Waiting,
        typer.Option(
            help="While the other server is measured: keep it, end it, or auto: end it if it is "
            "busy when idle, or memory is short."
        ),
    ] = Waiting.AUTO,
    out: OutOption = RESULTS,
) -> None:
    """Measure ours and each peer in turn; print ratios and write them to files.

    Files are written anew after each model. A peer that cannot be started is listed with the
    reason.
    """
    chosen = _chosen_peers(only)
    find_wrk()
    machine = describe_machine()
    plan = Plan(pairs, [int(each) for each in concurrency.split(",")], waiting)
    results: list[ScenarioResult] = []
    command = shlex.join(["python", "-m", "load_tests", *sys.argv[1:]])
    report = Report("Penstock and its peers", command, machine, results)
    with _session(duration, 1) as session:
        for name in models.split(","):
            begin = time.monotonic()
            result = compare(session, Penstock(), chosen, session.model(name), plan)
            results.append(replace(result, took_s=time.monotonic() - begin))
            write_report(report, out, PEERS)
    _finish(report, out, PEERS)


@app.command("before")
def before(
    checkout: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Of another commit of Penstock.")
    ],
    models: Annotated[str, typer.Option(help="Models, with commas.")] = "tiny,mlp,medium",
    pairs: Annotated[int, typer.Option(min=1, help="Rounds of each, in turn.")] = 7,
    duration: DurationOption = 3.0,
    concurrency: Annotated[str, typer.Option(help="Clients, with commas.")] = "64",
    out: OutOption = RESULTS,
) -> None:
    """Measure this commit and another one in turn, with the packages that are installed here.

    `git worktree add ../before COMMIT` makes such a checkout. Both must be compiled, or neither.
    """
    path = {"PYTHONPATH": str(checkout.resolve())}
    entry = entry_of(checkout)
    check_pair(form_of({}), form_of(path, entry))
    find_wrk()
    machine = describe_machine()
    plan = Plan(pairs, [int(each) for each in concurrency.split(",")], Waiting.KEEP)
    commit = commit_of(checkout) or "another commit"
    other = Penstock(f"penstock at {commit}", environment=path, entry=entry)
    options = f"--models {models} --pairs {pairs} --duration {duration:g}"
    command = f"python -m load_tests before CHECKOUT {options} --concurrency {concurrency}"
    results: list[ScenarioResult] = []
    report = Report(f"Penstock and what it was at {commit}", command, machine, results)
    with _session(duration, 1) as session:
        for name in models.split(","):
            begin = time.monotonic()
            result = compare(session, Penstock(), [other], session.model(name), plan)
            results.append(replace(result, took_s=time.monotonic() - begin))
    _finish(report, out, BEFORE)


def _chosen_peers(only: str) -> Sequence[Server]:
    everyone: Sequence[Server] = importlib.import_module("load_tests.peers").all_peers()
    names = [name for name in only.split(",") if name]
    known = [peer.name for peer in everyone]
    if unknown := set(names) - set(known):
        wrong = ", ".join(sorted(unknown))
        raise typer.BadParameter(f"{wrong}: none of {', '.join(known)}", param_hint="--only")
    return [peer for peer in everyone if not names or peer.name in names]


def main() -> None:
    """The command line; what a server cannot do is one line, exit code 1."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        app()
    except ServerError as error:
        print(f"load_tests: {error}", file=sys.stderr)
        sys.exit(1)


def _on_sigterm(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # an exception, so that servers are ended


def _chosen(name: str) -> Sequence[Scenario]:
    scenarios = all_scenarios()
    if name == ALL:
        return [each for each in scenarios.values() if not each.needs_gpu]
    if name not in scenarios:
        known = ", ".join([*scenarios, ALL])
        raise typer.BadParameter(f"{name!r} is none of: {known}", param_hint="SCENARIO")
    return [scenarios[name]]


def _run_one(scenario: Scenario, session: Session) -> ScenarioResult:
    session.say(f"{scenario.name}: {scenario.about}")
    begin = time.monotonic()
    try:
        result = scenario.run(session)
    except NotHereError:
        raise
    except ServerError as error:  # what the others found out is not lost with it
        session.say(f"  {scenario.name} failed: {error}")
        check = Check("it ran to its end", str(error), held=False)
        result = ScenarioResult(scenario.name, scenario.about, checks=[check])
    return replace(result, took_s=time.monotonic() - begin)


@contextmanager
def _session(duration_s: float, repeats: int) -> Iterator[Session]:
    folder = Path(tempfile.mkdtemp(prefix=f"penstock-load-{os.getpid()}-"))
    try:
        yield Session(duration_s, repeats, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _finish(report: Report, out: Path, name: str) -> None:
    paths = write_report(report, out, name)
    print("\n" + render_report(report))
    for path in paths:
        print(f"wrote {path}")
