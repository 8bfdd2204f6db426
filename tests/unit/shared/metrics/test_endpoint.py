"""The port of a process's own metrics."""

from __future__ import annotations

import platform
import socket
from importlib import metadata

import pytest

from penstock.shared.metrics.endpoint import process_registry, serve_metrics
from penstock.shared.process.compiled import is_compiled


def test_every_process_tells_its_build() -> None:
    labels = {
        "version": metadata.version("penstock"),
        "compiled": str(is_compiled()).lower(),
        "python": platform.python_version(),
    }
    assert process_registry().get_sample_value("penstock_build_info", labels) == 1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        named = rf"127\.0\.0\.1:{port} \(Address already in use\).*--metrics-port"
        with pytest.raises(OSError, match=named):
            serve_metrics(process_registry(), "127.0.0.1", port)
