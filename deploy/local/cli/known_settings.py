"""All settings of all processes by the command that takes them, and their variables.

A variable that nobody knows is most likely misspelt, and would otherwise do nothing in silence.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping

from pydantic_settings import BaseSettings

from penstock.deploy.local.cli.settings_flags import variable_of
from penstock.deploy.local.up.settings import UpSettings
from penstock.gateway.settings import GatewaySettings
from penstock.registry_sync.settings import SyncSettings
from penstock.shared.process.lifecycle import PARENT_PID_ENV
from penstock.worker.settings import WorkerSettings

PREFIX = "PENSTOCK_"

SETTINGS: Mapping[str, type[BaseSettings]] = {
    "up": UpSettings,
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "registry-sync": SyncSettings,
}
"""What each long-running command takes."""

_OTHERS = (
    "PENSTOCK_CONFIG",
    "PENSTOCK_URL",  # of commands that call a gateway
    PARENT_PID_ENV,
    "PENSTOCK_NODE_NAME",
    "PENSTOCK_COMPILE",  # of the build
    "PENSTOCK_TEST_REDIS_SERVER",  # of the tests
    "PENSTOCK_TESTS_NEED_NAMESPACES",
    "PENSTOCK_PEER_RUN",  # of the load tests
)
"""Variables that are no settings of a process."""

_OF_KUBERNETES = re.compile(
    r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
"""What Kubernetes adds to every container for a Service whose name begins with ours."""

_LINK = re.compile(r"(tcp|udp|sctp)://")
"""How the value of its `<SERVICE>_PORT` begins, which is named like a setting."""


def known_variables() -> frozenset[str]:
    """Every variable that some part of Penstock reads."""
    ours = {
        variable_of(settings_class, name)
        for settings_class in SETTINGS.values()
        for name in settings_class.model_fields
    }
    return frozenset(ours.union(_OTHERS))


def warnings_of(environ: Mapping[str, str]) -> Iterator[str]:
    """A line for each variable that looks like ours and is not; values are not shown.

    None for a child of `penstock up`, which has said so.
    """
    if PARENT_PID_ENV in environ:
        return
    known = known_variables()
    for name, value in sorted(environ.items()):
        variable = name.upper()  # settings are read in either case
        if variable.startswith(PREFIX) and variable not in known and not _is_link(variable, value):
            guess = nearest(variable, known, PREFIX)
            yield f"{name} is no variable of Penstock, and does nothing{guess}"


def nearest(name: str, known: Collection[str], prefix: str = "") -> str:
    """`; did you mean ...?` with the known name that is most like this one, or nothing.

    A prefix that all have makes none of them more alike.
    """
    bare = sorted(each.removeprefix(prefix) for each in known)
    found = difflib.get_close_matches(name.removeprefix(prefix), bare, n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def _is_link(variable: str, value: str) -> bool:
    """Whether Kubernetes made it."""
    return bool(_OF_KUBERNETES.fullmatch(variable) or _LINK.match(value))
