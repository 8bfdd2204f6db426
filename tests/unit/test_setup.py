"""Records with their `__init__` written out, as they are compiled, are the same records."""

from __future__ import annotations

import ast
import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock.shared.process.compiled import is_compiled

ROOT = Path(__file__).parent.parent.parent

SOURCE = '''"""Some records."""

from __future__ import annotations

from dataclasses import dataclass, field

from penstock.shared.wire.records import record


@record
class Point:
    """A point."""

    x: int
    y: int = 2

    def sum(self) -> int:
        return self.x + self.y


@dataclass(slots=True)
class Line:
    points: list[Point] = field(default_factory=list)
    cells: list[int] = field(default_factory=lambda: [0] * 3)
    name: str = field(default="line")


@record
class Nothing:
    """Says all by itself."""


last = 1
'''


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("penstock_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, "records.py", "exec"), names)
    return names


def test_records_are_the_same(setup: ModuleType) -> None:
    ours, spelled = run(SOURCE), run(setup.spelled_out(SOURCE))
    for names in (ours, spelled):
        point, line = names["Point"](1), names["Line"]()
        assert (point.x, point.y, point.sum()) == (1, 2, 3)
        assert point == names["Point"](x=1, y=2) != replace(point, y=3)
        assert (line.points, line.cells, line.name) == ([], [0, 0, 0], "line")
        assert line.points is not names["Line"]().points
        assert repr(names["Nothing"]()) == "Nothing()"


def test_no_line_moves(setup: ModuleType) -> None:
    before, after = SOURCE.split("\n"), setup.spelled_out(SOURCE).split("\n")
    assert len(before) == len(after)
    assert after.index("last = 1") == before.index("last = 1")


def test_what_has_no_records_is_left_alone(setup: ModuleType) -> None:
    assert setup.spelled_out("last = 1\n") == "last = 1\n"


def test_a_record_has_no_base(setup: ModuleType) -> None:
    source = SOURCE.replace("class Line", "class Line(Point)")
    with pytest.raises(SystemExit, match="Line"):
        setup.spelled_out(source)


def test_all_that_is_listed_is_there(setup: ModuleType) -> None:
    assert all((ROOT / path).is_file() for path in setup.modules())


def test_no_interpreted_class_has_a_compiled_base(setup: ModuleType) -> None:
    names = (path.removesuffix(".py").replace("/", ".") for path in setup.modules())
    compiled = {f"penstock.{name}" for name in names}
    for package in setup.FOLDERS:
        for path in (ROOT / package).rglob("*.py"):
            if str(path.relative_to(ROOT)) in setup.modules():
                continue
            nodes = list(ast.walk(ast.parse(path.read_text())))
            taken = {
                name.asname or name.name
                for node in nodes
                if isinstance(node, ast.ImportFrom) and node.module in compiled
                for name in node.names
            }
            bases = {
                ast.unparse(base).partition("[")[0]
                for node in nodes
                if isinstance(node, ast.ClassDef)
                for base in node.bases
            }
            assert not bases & taken, path


def test_a_wheel_has_one_name(setup: ModuleType) -> None:
    assert {name.partition(".")[0] for name in setup.packages()} == {"penstock"}
    assert {"penstock.gateway.http", "penstock.deploy.local"} <= set(setup.packages())


@pytest.mark.skipif(not os.environ.get("CI"), reason="a machine may be without a C compiler")
def test_the_compiled_form_is_tested() -> None:
    assert is_compiled()
