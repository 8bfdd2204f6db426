"""`--help` in groups, what is met most first.

A command or an option says by `rich_help_panel` which group it is in; settings find theirs in
`SETTING_GROUPS`. The text itself is plain: rich's own panels cut long names of variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

GroupedRow = tuple[str | None, tuple[str, str]]
Function = TypeVar("Function", bound=Callable[..., Any])


class CommandGroup(StrEnum):
    """Groups of commands, in their order."""

    RUN = "Run"
    LOOK = "Look"
    JOBS = "Jobs"
    ACT = "Act"
    DEMO = "Try the demo"


class OptionGroup(StrEnum):
    """Groups of options, in their order; what names none comes after the first."""

    MOST_USED = "Met most"
    PROCESSES = "Processes"
    NETWORK = "Network and browsers"
    CALLS = "Calls"
    BOUNDS = "Bounds of requests and answers"
    REGISTRY = "Registry"
    ROLLOUT = "Rollout and placement"
    ARTIFACTS = "Artifacts and environments"
    REPLICAS = "Replicas"
    JOBS = "Jobs"
    JOB = "How the job runs"
    WEBHOOKS = "Webhooks"
    ENDING = "Start, drain and end"
    STORE = "State store and reports"
    OBSERVED = "Logs and metrics"
    SYSTEM = "Which system"


SETTING_GROUPS: Mapping[OptionGroup, tuple[str, ...]] = {
    OptionGroup.MOST_USED: (
        *("config", "demo", "models", "mlflow_uri", "redis_url", "data_dir", "host", "port"),
        *("gateway", "endpoint", "worker", "cache_dir", "blobs_url", "webhook_secrets"),
    ),
    OptionGroup.PROCESSES: ("gateways", "workers", "syncs", "mlflow_port", "store_memory"),
    OptionGroup.NETWORK: (
        *("allowed_hosts", "cors_origins", "advertise_address", "keys_dir", "insecure_tcp"),
        *("keep_alive_s", "listen_fd"),
    ),
    OptionGroup.CALLS: (
        *("default_timeout_s", "max_timeout_s", "queue_limit", "queue_bytes_limit", "admission"),
        *("error_details", "attempts_max", "retry_on", "replica_wait_s", "silence_s"),
    ),
    OptionGroup.BOUNDS: (
        *(
            "max_body_bytes",
            "max_request_elements",
            "max_request_rows",
            "body_timeout_s",
            "answer_timeout_s",
        ),
        *("held_*", "linger_s", "compress_min_bytes"),
    ),
    OptionGroup.REGISTRY: (
        *("tag_prefix", "include", "exclude", "model_tag", "poll_interval_s", "stable_aliases"),
        *("folder_*", "mlflow_timeout_s", "registry_timeout_s"),
    ),
    OptionGroup.ROLLOUT: (
        *("flip_grace_s", "load_backoff_*", "lease_ttl_s", "replica_overhead_bytes"),
        "memory_per_artifact_byte",
    ),
    OptionGroup.ARTIFACTS: (
        *(
            "cache_max_bytes",
            "environments_max",
            "environment_installer",
            "fetch_timeout_s",
            "download_timeout_s",
        ),
        "parallel_downloads",
    ),
    OptionGroup.REPLICAS: (
        *("load_timeout_s", "parallel_loads", "memory_bytes", "allow_cpu_fallback"),
        *("hung_after_s", "abandoned_grace_s", "heartbeat_interval_s", "queue_rows_max"),
    ),
    OptionGroup.JOBS: ("jobs_*", "job_*"),
    OptionGroup.WEBHOOKS: ("webhook_*",),
    OptionGroup.ENDING: (
        "ready_when",
        "startup_wait_s",
        "ready_timeout_s",
        "drain_*",
        "handover_*",
    ),
    OptionGroup.STORE: ("namespace", "state_poll_s", "report_*"),
    OptionGroup.OBSERVED: ("log_level", "log_format", "metrics_port", "metrics_host"),
}
"""Names of settings, or patterns of names, by group: each in the first one that names it."""


_PLACES = [(group, each) for group, patterns in SETTING_GROUPS.items() for each in patterns]


def group_of(setting: str) -> OptionGroup | None:
    """The group of a setting; None: nobody has given it one."""
    return next((group for group, each in _PLACES if fnmatchcase(setting, each)), None)


def in_order_of_groups(settings: Iterable[str]) -> list[str]:
    """Settings as their groups, and in these the patterns, have them; others come first."""

    def place(setting: str) -> int:
        found = (at for at, (_, each) in enumerate(_PLACES) if fnmatchcase(setting, each))
        return next(found, -1)

    return sorted(settings, key=place)


class GroupedCommand(TyperCommand):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options."""
        _write_options(self, ctx, formatter)


class GroupedGroup(TyperGroup):
    """A command with commands, whose help has these in groups, before its own options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write commands by their groups, then options."""
        shown = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        commands = {name: each for name, each in shown if each is not None and not each.hidden}
        room = formatter.width - 6 - max(map(len, commands), default=0)
        rows = [
            (getattr(each, "rich_help_panel", None), (name, each.get_short_help_str(room)))
            for name, each in commands.items()
        ]
        _write_groups(formatter, "Commands", rows, CommandGroup)
        _write_options(self, ctx, formatter)


class GroupedTyper(typer.Typer):
    """An application all of whose commands have their options in groups."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=GroupedGroup, **settings)

    def command(self, *args: Any, **settings: Any) -> Callable[[Function], Function]:
        """As typer's own, for a `GroupedCommand`."""
        return super().command(*args, **{"cls": GroupedCommand, **settings})


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    arguments: list[GroupedRow] = []
    options: list[GroupedRow] = []
    for each in command.get_params(ctx):
        row = each.get_help_record(ctx)
        if row is None:
            continue
        rows = arguments if each.param_type_name == "argument" else options
        rows.append((getattr(each, "rich_help_panel", None), row))
    _write_groups(formatter, "Arguments", arguments, OptionGroup)
    _write_groups(formatter, "Options", options, OptionGroup)


def _write_groups(
    formatter: Any, others: str, rows: list[GroupedRow], order: type[StrEnum]
) -> None:
    """Write rows by group, those of none as `others`."""
    first, *rest = order
    for group in (first, None, *rest):
        members = [row for named, row in rows if named == group]
        if members:
            with formatter.section(others if group is None else group.value):
                formatter.write_dl(members)
