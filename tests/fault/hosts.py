"""Hosts made of network namespaces: each with an address of its own, all on one bridge.

The bridge lies in a namespace of its own too, so that packet filters of this machine see nothing of
it; this machine is one more host on it, with the first address. What lies here needs root and
iproute2, and is taken away again with the namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.shared.process.lifecycle import environment_of_child
from tests.e2e.system import own_environment

REQUIRED = "PENSTOCK_TESTS_NEED_NAMESPACES"
"""Set where these tests must not be skipped (`.ci/run`)."""

PENSTOCK = [sys.executable, "-P", "-m", "penstock.deploy.local"]
END_S = 30.0


def why_no_namespaces() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "`ip` is missing: install iproute2"
    probe = f"ps{os.getpid()}probe"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if done.returncode:
        return f"no network namespaces here: {done.stderr.strip()}"
    _ip("netns", "del", probe)
    return ""


def need_namespaces() -> None:
    """Skip, or fail where it is said that these tests must run."""
    reason = why_no_namespaces()
    if reason and os.environ.get(REQUIRED):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@dataclass
class Host:
    """A namespace with an address."""

    namespace: str
    port: str
    address: str


@dataclass
class Network:
    """All hosts, and the processes that run on them; a context manager."""

    logs: Path
    hosts: dict[str, Host] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def _tag(self) -> str:
        return f"ps{os.getpid()}"

    @property
    def _hub(self) -> str:
        return f"{self._tag}hub"

    @property
    def address(self) -> str:
        """Of this machine; the net is one that RFC 2544 set aside for tests of networks."""
        return self._address(1)

    def _address(self, number: int) -> str:
        return f"198.18.{os.getpid() % 250}.{number}"

    def __enter__(self) -> Network:
        _ip("netns", "add", self._hub)
        _ip("-n", self._hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "br0", "up")
        ours = f"{self._tag}h"
        _ip("link", "add", ours, "type", "veth", "peer", "name", "root", "netns", self._hub)
        self._plug("root")
        _ip("addr", "add", f"{self.address}/24", "dev", ours)
        _ip("link", "set", ours, "up")
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()
            process.wait()
        for namespace in (self._hub, *(host.namespace for host in self.hosts.values())):
            _ip("netns", "del", namespace)

    def add(self, name: str) -> Host:
        """A new host."""
        number = len(self.hosts) + 2
        host = Host(f"{self._tag}{name}", f"port{number}", self._address(number))
        _ip("netns", "add", host.namespace)
        self.hosts[name] = host
        peer = ["peer", "name", host.port, "netns", self._hub]
        _ip("-n", host.namespace, "link", "add", "eth0", "type", "veth", *peer)
        self._plug(host.port)
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        return host

    def _plug(self, port: str) -> None:
        _ip("-n", self._hub, "link", "set", port, "master", "br0", "up")

    def cut(self, host: Host) -> None:
        """Pull the host's cable."""
        _ip("-n", self._hub, "link", "set", host.port, "down")

    def mend(self, host: Host) -> None:
        """Put it back."""
        _ip("-n", self._hub, "link", "set", host.port, "up")

    def run(
        self, host: Host | None, name: str, service: Sequence[str], settings: Mapping[str, object]
    ) -> subprocess.Popen[bytes]:
        """Start a service of ours on a host, or here."""
        variables = {f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}
        inside = ["ip", "netns", "exec", host.namespace] if host is not None else []
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*inside, *PENSTOCK, *service],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment_of_child(), **own_environment(), **variables}
                | {"PENSTOCK_PARENT_PID": str(os.getpid())},
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def log_of(self, name: str) -> str:
        """What a service has logged."""
        return (self.logs / f"{name}.log").read_text(errors="replace")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
