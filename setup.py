"""Compiles what requests pass through (pyproject.toml lists it) if PENSTOCK_COMPILE is 1.

mypyc does it. Everything runs without it; compiled, a request takes about a quarter less processor
time (docs/design.md). `PENSTOCK_COMPILE=1 pip install .` makes a wheel with it, `make compiled`
puts it beside the sources of a checkout. Where there is no C compiler, a line says so, and nothing
is compiled.

mypyc makes structs of classes, but calls the `__init__` that dataclasses make as any interpreted
one, which takes longer than all the rest of a record. So what is compiled is a copy of the
packages in which records have theirs written out, without moving a line.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
COPY = ROOT / "build" / "compiled"
FOLDERS = ("shared", "gateway", "worker", "registry_sync", "deploy")
"""What `penstock` consists of; each folder `x` is the package `penstock.x`."""

COMPILED_FOLDERS = ("shared", "gateway", "worker")
GROUP = "penstock.shared.compiled_modules"
"""Names the library that holds all of it. In `shared`, because that is where replicas in isolated
environments find it, too."""

BUILDING = frozenset({"build_ext", "bdist_wheel", "editable_wheel"})
"""Commands that need what is compiled; others only ask for names and versions."""

MYPYC = "mypy[mypyc]>=2.0,<3"
TYPE_CHECKS = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports"]
"""`make check` is where types are checked strictly: a newer numpy must not end an installation."""

FUTURE = "from __future__ import annotations\n"
AND_DATACLASS = "from __future__ import annotations; from dataclasses import dataclass as spelled\n"


def modules() -> list[str]:
    """Paths of what is compiled, from the root."""
    patterns = _pyproject()["tool"]["penstock"]["compiled"]
    found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    return [str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py"]


def packages() -> list[str]:
    """Names of all packages, without those of tests, which are not installed."""
    include = [pattern for folder in FOLDERS for pattern in (folder, f"{folder}.*")]
    return [f"penstock.{name}" for name in find_packages(str(ROOT), include=include)]


def spelled_out(source: str) -> str:
    """The source with the `__init__` of its records written out, on the line after each class."""
    lines = [*source.split("\n"), ""]
    records = [
        (node, decorator)
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
        for decorator in node.decorator_list
        if _makes_record(decorator)
    ]
    for node, decorator in records:
        assert node.end_lineno is not None
        if lines[node.end_lineno]:
            raise SystemExit(f"record {node.name} is not followed by an empty line")
        if any("Generic" not in ast.unparse(base) for base in node.bases):
            raise SystemExit(f"record {node.name} has a base, whose fields are not seen here")
        lines[decorator.lineno - 1] = "@spelled(init=False)"
        lines[node.end_lineno] = f"    {_init_of(node)}"
    spelled = "\n".join(lines[:-1])
    return spelled.replace(FUTURE, AND_DATACLASS, 1) if records else source


def _makes_record(decorator: ast.expr) -> bool:
    """Whether it is `@record`, or `@dataclass(slots=True)`, its like that may be changed."""
    return ast.unparse(decorator) in ("record", "dataclass(slots=True)")


def _init_of(record: ast.ClassDef) -> str:
    parameters, statements = ["self"], []
    for field in record.body:
        if not isinstance(field, ast.AnnAssign):
            continue
        name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
        value, default, made = name, field.value, None
        if isinstance(default, ast.Call) and ast.unparse(default.func) == "field":
            options = {option.arg: option.value for option in default.keywords}
            default, made = options.get("default"), options.get("default_factory")
        if made is not None:
            parameters.append(f"{name}: {annotation} | None = None")
            value = f"({ast.unparse(made)})() if {name} is None else {name}"
        else:
            equals = "" if default is None else f" = {ast.unparse(default)}"
            parameters.append(f"{name}: {annotation}{equals}")
        statements.append(f"self.{name} = {value}")
    return f"def __init__({', '.join(parameters)}) -> None: {'; '.join(statements) or 'pass'}"


def has_compiler() -> bool:
    """Whether C can be compiled against this Python."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write("#include <Python.h>\n")
        source.flush()
        try:
            include = sysconfig.get_path("include")
            subprocess.run(
                [*command, f"-I{include}", "-fsyntax-only", source.name],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def extensions() -> list[Any]:
    """What setuptools is to compile; it takes about a minute."""
    from mypyc.build import mypycify  # noqa: PLC0415 - there only where this is wanted

    paths = modules()
    for folder in COMPILED_FOLDERS:
        shutil.copytree(
            ROOT / folder,
            COPY / "penstock" / folder,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
            dirs_exist_ok=True,
        )
    (COPY / "penstock" / "__init__.py").touch()  # mypy takes it for where packages begin
    for path in paths:
        (COPY / "penstock" / path).write_text(spelled_out((ROOT / path).read_text()))
    with contextlib.chdir(COPY):  # tracebacks name files as they are named from here
        made = mypycify(
            [*TYPE_CHECKS, *[f"penstock/{path}" for path in paths]],
            opt_level="2",
            debug_level="0",
            target_dir=str(COPY / "c"),
            group_name=GROUP,
        )
    for extension in made:
        extension.sources = [os.path.relpath(source, ROOT) for source in extension.sources]
        extension.depends = []
    return made


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def main() -> None:
    """What setuptools calls."""
    options: dict[str, Any] = {
        "packages": packages(),
        "package_dir": {f"penstock.{folder}": folder for folder in FOLDERS},
    }
    if os.environ.get("PENSTOCK_COMPILE") == "1":
        if not has_compiler():
            print("penstock: no C compiler; it is not compiled, and slower", file=sys.stderr)
        elif "egg_info" in sys.argv:  # pip asks what is needed first
            options["setup_requires"] = [MYPYC, *needed_types()]
        elif not BUILDING.isdisjoint(sys.argv):
            options["ext_modules"] = extensions()
    setup(**options)


def needed_types() -> list[str]:
    """Packages whose types say what the code means."""
    project = _pyproject()["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["gateway"]]


if __name__ == "__main__":
    main()
