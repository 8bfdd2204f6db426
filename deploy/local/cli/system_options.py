"""Options by which a command finds the system that it is about, and their variables.

Each is a flag, else its `PENSTOCK_*` variable, else the default. Some exclude one another, as a
store's URL and the data directory that names one: a flag then wins over a variable of the other.
What a single call does (`--wait`, `--cursor`, `--idempotency-key`) has no variable: one that was
left set would change every call after it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.deploy.local.cli.help_groups import OptionGroup

HERE = Path(".penstock")
"""Where `penstock up` runs by default."""


def _unless_data_dir(
    context: typer.Context, option: typer.CallbackParam, value: str | None
) -> str | None:
    """The option's value; None if a variable gave it, but a flag the data directory."""
    # Options on the command line are read before the others, so that one is known by now.
    by_variable = _source(context, option.name) == "ENVIRONMENT"
    return None if by_variable and _source(context, "data_dir") == "COMMANDLINE" else value


def _source(context: typer.Context, name: str | None) -> str:
    source = context.get_parameter_source(name or "")
    return source.name if source else ""


DataDirOption = Annotated[
    Path,
    typer.Option(
        help="Where `penstock up` runs.",
        envvar="PENSTOCK_DATA_DIR",
        rich_help_panel=OptionGroup.SYSTEM,
    ),
]
RedisUrlOption = Annotated[
    str | None,
    typer.Option(
        help="State store of a remote system, instead of --data-dir.",
        envvar="PENSTOCK_REDIS_URL",
        callback=_unless_data_dir,
        rich_help_panel=OptionGroup.SYSTEM,
    ),
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        help="Prefix of its keys.",
        envvar="PENSTOCK_NAMESPACE",
        rich_help_panel=OptionGroup.SYSTEM,
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        help="A gateway; default: that of --data-dir.",
        envvar="PENSTOCK_URL",
        callback=_unless_data_dir,
        rich_help_panel=OptionGroup.SYSTEM,
    ),
]
MlflowUriOption = Annotated[
    str | None,
    typer.Option(
        help="An MLflow server; default: that of --data-dir.",
        envvar="PENSTOCK_MLFLOW_URI",
        callback=_unless_data_dir,
        rich_help_panel=OptionGroup.SYSTEM,
    ),
]
