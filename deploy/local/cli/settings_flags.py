"""A command line out of a settings class: one flag for each field, said once, in the class.

Every flag shows its description, its default and its `PENSTOCK_*` variable. Values go to the
class as text, so that flags and variables are parsed and judged by the same code; lists and
tables are given as JSON.
"""

from __future__ import annotations

import inspect
import os
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import orjson
import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.help_groups import OptionGroup, group_of, in_order_of_groups

Settings = TypeVar("Settings", bound=BaseSettings)

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class Defaults:
    """Values that flags and variables win over.

    Attributes:
        source: where they are from, for messages.
        values: by the names of fields, as TOML has them.
    """

    source: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


NO_DEFAULTS = Defaults()

_CONFIG = typer.Option(
    "--config",
    help="TOML file of settings, which flags and variables win over.",
    envvar="PENSTOCK_CONFIG",
    rich_help_panel=OptionGroup.MOST_USED,
)


def command_of(
    settings_class: type[Settings],
    run: Callable[[Settings], None],
    description: str,
    begin: Callable[[Path | None], Defaults],
) -> Callable[..., None]:
    """A function that typer can turn into a command: it makes the settings and runs `run`.

    Args:
        begin: called before, with the file of `--config`; returns what that says.
    """

    def command(config: Path | None = None, **given: Any) -> None:
        run(settings_from(settings_class, given, begin(config)))

    parameters = [
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, _CONFIG],
        )
    ]
    parameters += [
        _parameter(settings_class, name, settings_class.model_fields[name])
        for name in in_order_of_groups(settings_class.model_fields)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = description
    return command


def settings_from(
    settings_class: type[Settings], given: Mapping[str, Any], defaults: Defaults = NO_DEFAULTS
) -> Settings:
    """The settings out of what was given (None: not given), the environment, and the defaults.

    Raises:
        CommandError: naming each flag, or each key of the defaults, whose value is wrong.
    """
    values = {
        name: _decoded(name, settings_class.model_fields[name], value)
        for name, value in given.items()
        if value is not None
    }
    variables = {variable.upper() for variable in os.environ}  # pydantic reads them in either case
    rest = {
        name: _as_text(value)
        for name, value in defaults.values.items()
        if name not in values and variable_of(settings_class, name) not in variables
    }
    try:
        return settings_class(**values, **rest)
    except ValidationError as error:
        sources = dict.fromkeys(rest, defaults.source)
        raise CommandError(_explain(settings_class, error, sources), exit_code=2) from error


def flag_of(name: str) -> str:
    """The flag of a field: `drain_grace_s` is `--drain-grace-s`."""
    return f"--{name.replace('_', '-')}"


def variable_of(settings_class: type[BaseSettings], name: str) -> str:
    """The environment variable of a field."""
    return f"{settings_class.model_config.get('env_prefix', '')}{name}".upper()


def _parameter(
    settings_class: type[BaseSettings], name: str, field: FieldInfo
) -> inspect.Parameter:
    is_switch = _plain_type(field.annotation) is bool
    flag = flag_of(name)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if is_switch else flag,
        help=_help(settings_class, name, field),
        show_default=False,
        metavar=None if is_switch else _metavar(field),
        rich_help_panel=group_of(name),
    )
    kind = bool | None if is_switch else str | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, option],
    )


def _help(settings_class: type[BaseSettings], name: str, field: FieldInfo) -> str:
    notes = [f"env: {variable_of(settings_class, name)}"]
    if field.is_required():
        notes.append("required")
    elif field.default is not None and field.default_factory is None:
        notes.append(f"default: {_shown(field.default)}")
    # Typer reads brackets at a line's start as markup; parentheses are always text.
    return f"{field.description or ''} ({'; '.join(notes)})".strip()


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, list | tuple | dict):
        return orjson.dumps(default, default=str).decode()
    return str(default) if str(default) else "empty"


def _metavar(field: FieldInfo) -> str:
    return _METAVARS.get(_plain_type(field.annotation), "JSON" if _is_table(field) else "TEXT")


def _plain_type(annotation: Any) -> Any:
    """The type without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [each for each in get_args(annotation) if each is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def _is_table(field: FieldInfo) -> bool:
    plain = _plain_type(field.annotation)
    return (get_origin(plain) or plain) in (list, tuple, dict, set, frozenset)


def _is_secret(annotation: Any) -> bool:
    """Whether values of a type, or parts of them, are not to be shown."""
    return annotation is SecretStr or any(map(_is_secret, get_args(annotation)))


def _decoded(name: str, field: FieldInfo, value: Any) -> Any:
    if not isinstance(value, str) or not _is_table(field):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise CommandError(f"{flag_of(name)}: no JSON: {error}", exit_code=2) from error


def _as_text(value: Any) -> Any:
    """A number or a switch of TOML as a flag would give it, so that it is judged alike."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str | list | dict) else str(value)


def _explain(
    settings_class: type[BaseSettings], error: ValidationError, sources: Mapping[str, str]
) -> str:
    parts = []
    for problem in error.errors(include_url=False):
        where = problem["loc"]
        name = str(where[0]) if where else ""
        if name in settings_class.model_fields:
            source = f"{flag_of(name)} ({variable_of(settings_class, name)}): "
            if name in sources:
                source = f"{name} in {sources[name]}: "
            got = f", got {problem['input']!r:.60}"
            secret = _is_secret(settings_class.model_fields[name].annotation)
            parts.append(f"{source}{_words_of(problem)}{'' if secret else got}")
        else:  # settings that do not go together
            parts.append(_words_of(problem))
    return "; ".join(parts)


def _words_of(problem: ErrorDetails) -> str:
    """What is wrong; of our own checks their words alone."""
    return problem["msg"].removeprefix("Value error, ")
