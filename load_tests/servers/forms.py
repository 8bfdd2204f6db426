"""Whether two checkouts of Penstock can be compared: both compiled, or neither, and not the same.

Compiled code takes a quarter less processor time: a pair of one of each says nothing of a change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from load_tests.server import ServerError

_ASK = """
import importlib, json, pathlib, sys
shared, codec = map(importlib.import_module, sys.argv[1:])
checkout = pathlib.Path(shared.__file__).resolve().parent.parent
print(json.dumps([str(checkout), not codec.__file__.endswith(".py")]))
"""

ENTRY = "penstock.deploy.local"
"""What `python -m` starts."""

OLD_ENTRY = "deploy.local"
"""The same in checkouts from before our packages were in one."""


_LOADED = {
    ENTRY: ("penstock.shared", "penstock.shared.wire.codec"),
    OLD_ENTRY: ("shared", "shared.wire"),
}
"""A package that tells where it lies, and a module that is compiled with the others."""


def entry_of(checkout: Path) -> str:
    """What starts the Penstock of a checkout.

    Raises:
        ServerError: if it is none.
    """
    if not (checkout / "shared" / "__init__.py").is_file():
        raise ServerError(f"{checkout} is no checkout of Penstock")
    return ENTRY if (checkout / "penstock").exists() else OLD_ENTRY


@dataclass(frozen=True)
class Form:
    """What an interpreter finds of Penstock: in which checkout, and whether it is compiled."""

    checkout: Path
    compiled: bool

    def __str__(self) -> str:
        return f"{self.checkout} is {'compiled' if self.compiled else 'interpreted'}"


def form_of(environment: Mapping[str, str], entry: str = ENTRY) -> Form:
    """What is started by an entry, with these variables beside our own.

    Raises:
        ServerError: if nothing can be.
    """
    command = [sys.executable, "-P", "-c", _ASK, *_LOADED[entry]]
    asked = subprocess.run(
        command, env=os.environ | dict(environment), capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        last = asked.stderr.strip().rpartition("\n")[2]
        raise ServerError(f"Penstock cannot be imported from the checkout: {last}")
    checkout, compiled = json.loads(asked.stdout)
    return Form(Path(checkout), compiled)


def check_pair(ours: Form, theirs: Form) -> None:
    """See that both are of one form, and are two.

    Raises:
        ServerError: if not, with what to do.
    """
    if ours.checkout == theirs.checkout:
        raise ServerError(f"both are {ours.checkout}: name another checkout")
    if ours.compiled != theirs.compiled:
        slow = theirs if ours.compiled else ours
        raise ServerError(
            f"{ours}, but {theirs}; compare like with like: compile {slow.checkout} too "
            "(PENSTOCK_COMPILE=1 python setup.py build_ext --inplace in it), or run "
            "`make interpreted` in the other"
        )
