"""`penstock submit` and `penstock jobs`: their options; what they do is in `submit` and `jobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from penstock.deploy.local.cli.completion import jobs_of_gateway, models_of_gateway
from penstock.deploy.local.cli.extras import load
from penstock.deploy.local.cli.help_groups import GroupedTyper, OptionGroup
from penstock.deploy.local.cli.system_options import (
    HERE,
    DataDirOption,
    NamespaceOption,
    RedisUrlOption,
    UrlOption,
)
from penstock.shared.jobs.record import JobState

ModelOption = Annotated[
    str | None, typer.Option(help="Of this model only.", autocompletion=models_of_gateway)
]
LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]
CursorOption = Annotated[str | None, typer.Option(help="Go on where an earlier list ended.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the gateway's JSON.")]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="The job's id.", autocompletion=jobs_of_gateway)
]
JobsArgument = Annotated[
    list[str],
    typer.Argument(metavar="JOB...", help="Ids of jobs.", autocompletion=jobs_of_gateway),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="File for the result, instead of standard output; *.png draws its first output."
    ),
]

jobs = GroupedTyper(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at jobs, and act on them.",
)


def submit(
    model: Annotated[
        str, typer.Argument(help="The model's name.", autocompletion=models_of_gateway)
    ],
    source: Annotated[
        str, typer.Option("--input", help="JSON as for infer, in a file; -: standard input.")
    ],
    version: Annotated[str | None, typer.Option(help="Of the model; default: as routed.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, then the result.")] = False,
    output: OutputOption = None,
    priority: Annotated[
        int | None,
        typer.Option(
            min=1, max=9, help="1 goes first; default: 5.", rich_help_panel=OptionGroup.JOB
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Longest execution, in seconds.", rich_help_panel=OptionGroup.JOB
        ),
    ] = None,
    ttl_s: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Longest wait in the queue; then it expires.",
            rich_help_panel=OptionGroup.JOB,
        ),
    ] = None,
    result_ttl_s: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="How long to keep what it came to.", rich_help_panel=OptionGroup.JOB
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(help="URL to call when the job ends.", rich_help_panel=OptionGroup.WEBHOOKS),
    ] = None,
    webhook_event: Annotated[
        list[JobState] | None,
        typer.Option(
            help="A state to call the webhook for; may be repeated.",
            rich_help_panel=OptionGroup.WEBHOOKS,
        ),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            help="Submitted again with the same key, it is the same job.",
            rich_help_panel=OptionGroup.JOB,
        ),
    ] = None,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
) -> None:
    """Submit a job, and print its id; with --wait, wait for its result."""
    module = load("penstock.deploy.local.jobs.submit", "penstock submit", "all")
    options = module.SubmitOptions(
        priority=priority,
        timeout_s=timeout_s,
        ttl_s=ttl_s,
        result_ttl_s=result_ttl_s,
        webhook=webhook,
        webhook_events=tuple(state.value for state in webhook_event or ()),
    )
    client = _client(url, data_dir)
    raise typer.Exit(
        module.run_submit(
            client=client,
            model=model,
            version=version,
            source=source,
            options=options,
            idempotency_key=idempotency_key,
            wait=wait,
            output=output,
        )
    )


@jobs.command("list")
def list_jobs(
    model: ModelOption = None,
    state: Annotated[JobState | None, typer.Option(help="In this state only.")] = None,
    limit: LimitOption = 20,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
) -> None:
    """List jobs, newest first."""
    wanted = state.value if state else None
    client = _client(url, data_dir)
    raise typer.Exit(
        _jobs().run_list(
            client=client,
            model=model,
            state=wanted,
            dead=False,
            limit=limit,
            cursor=cursor,
            as_json=as_json,
        )
    )


@jobs.command("dead")
def dead_letters(
    model: ModelOption = None,
    limit: LimitOption = 20,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
) -> None:
    """List dead letters: jobs that ran out of attempts, or killed their replicas."""
    client = _client(url, data_dir)
    raise typer.Exit(
        _jobs().run_list(
            client=client,
            model=model,
            state=None,
            dead=True,
            limit=limit,
            cursor=cursor,
            as_json=as_json,
        )
    )


@jobs.command("webhooks")
def webhooks(
    limit: LimitOption = 20,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
) -> None:
    """List webhooks that were given up, newest first."""
    raise typer.Exit(_jobs().run_webhooks(_client(url, data_dir), limit, cursor, as_json))


@jobs.command("show")
def show(
    job: JobArgument,
    as_json: JsonOption = False,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
    redis_url: RedisUrlOption = None,
    namespace: NamespaceOption = "penstock",
) -> None:
    """Show a job; where the state store is known, also what its model raised."""
    client = _client(url, data_dir)
    place = _store_place(url, data_dir, redis_url, namespace)
    raise typer.Exit(_jobs().run_show(client, job, as_json, place))


@jobs.command("watch")
def watch(
    job: JobArgument,
    output: OutputOption = None,
    url: UrlOption = None,
    data_dir: DataDirOption = HERE,
) -> None:
    """Wait for a job with a bar of its progress, then write its result."""
    module = load("penstock.deploy.local.jobs.submit", "penstock jobs", "all")
    raise typer.Exit(module.finish(_client(url, data_dir), job, output))


@jobs.command("cancel")
def cancel(job: JobsArgument, url: UrlOption = None, data_dir: DataDirOption = HERE) -> None:
    """Cancel jobs: those that wait at once, those that run as soon as they can be."""
    raise typer.Exit(_jobs().run_each(_client(url, data_dir), "POST", "/cancel", job))


@jobs.command("retry")
def retry(job: JobsArgument, url: UrlOption = None, data_dir: DataDirOption = HERE) -> None:
    """Queue jobs once more that failed (dead letters too), were canceled or expired."""
    raise typer.Exit(_jobs().run_each(_client(url, data_dir), "POST", "/retry", job))


@jobs.command("forget")
def forget(job: JobsArgument, url: UrlOption = None, data_dir: DataDirOption = HERE) -> None:
    """Erase finished jobs and their results."""
    raise typer.Exit(_jobs().run_each(_client(url, data_dir), "DELETE", "", job))


def _jobs() -> Any:
    return load("penstock.deploy.local.jobs.jobs", "penstock jobs", "all")


def _store_place(url: str | None, data_dir: Path, redis_url: str | None, namespace: str) -> Any:
    """The store that is named, else that of the system whose gateway is asked; None: neither is."""
    if redis_url is None:
        if url is not None:
            return None
        system = load(
            "penstock.deploy.local.system.system_file", "penstock jobs", "all"
        ).read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    return load("penstock.deploy.local.jobs.cause", "penstock jobs", "all").StorePlace(
        redis_url, namespace
    )


def _client(url: str | None, data_dir: Path) -> Any:
    if url is None:
        url = (
            load("penstock.deploy.local.system.system_file", "penstock jobs", "all")
            .read_system(data_dir)
            .url
        )
    return load("penstock.deploy.local.jobs.gateway_client", "penstock jobs", "all").GatewayClient(
        url
    )
