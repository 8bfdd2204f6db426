"""How much memory replicas hold, by what the kernel says of their processes when asked.

Read when metrics are scraped: a report names replicas as they were a moment ago, so a process that
is gone is left out, and so is another one that got its number since, which is no child of ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from penstock.shared.contracts.deployment import ReplicaReport

NAMED_REPLICAS_MAX = 200
"""Replicas that metrics name: each life of one is a series."""

OTHERS = ("", "", "")
"""What all further replicas are added up under; no model has this name."""

_PARENT, _RESIDENT_PAGES = 1, 21
"""Places in /proc/PID/stat behind the command's name, from 0."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

ReplicaLabel: TypeAlias = tuple[str, str, str]
"""Model, version and replica."""


def resident_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Resident memory of a child of this process; None if it is none, or is gone."""
    try:
        stat = (proc / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if int(fields[_PARENT]) != os.getpid():
        return None
    return int(fields[_RESIDENT_PAGES]) * _PAGE_BYTES or None  # of what has ended, nothing


def by_replica(reports: Iterable[ReplicaReport]) -> Iterator[tuple[ReplicaLabel, int]]:
    """The memory of each replica that has a process."""
    for report in reports:
        size_bytes = resident_bytes(report.pid) if report.pid is not None else None
        if size_bytes is not None:
            yield (report.model, report.version, report.replica), size_bytes


def largest_named(
    sizes: Mapping[ReplicaLabel, int], named_max: int = NAMED_REPLICAS_MAX
) -> dict[ReplicaLabel, int]:
    """What is shown: the largest by name, the others added up under empty names."""
    order = iter(sorted(sizes, key=lambda label: (-sizes[label], label)))
    shown = {label: sizes[label] for label in islice(order, named_max)}
    shown[OTHERS] = sum(sizes[label] for label in order)
    return shown
