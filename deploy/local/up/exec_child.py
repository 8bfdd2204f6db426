"""Become another program that ends with its parent: `python -m penstock.deploy.local.up.exec_child
PROGRAM...`.

The kernel keeps the parent-death signal over an exec, so programs that know nothing of it (valkey,
MLflow) get it too.
"""

from __future__ import annotations

import os
import sys

from penstock.shared.process.lifecycle import PARENT_PID_ENV, die_with_parent


def main() -> None:
    """Ask for the signal, forget who the parent is, exec."""
    die_with_parent()
    os.environ.pop(PARENT_PID_ENV, None)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
