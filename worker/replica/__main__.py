"""Entry of a replica's process: `python -m penstock.worker.replica --control-fd N`."""

from __future__ import annotations

import argparse
import os
import socket
import sys

import setproctitle

from penstock.shared.process.lifecycle import adopt_orphans, die_with_parent
from penstock.shared.process.telemetry import inherit_logging
from penstock.shared.process.tracing import make_tracer
from penstock.worker.control.messages import Start
from penstock.worker.control.replica_end import ControlSocket
from penstock.worker.replica.loop import ReplicaLoop


def main() -> None:
    """Wait for the agent to say what to load, load it, and serve until drained."""
    parser = argparse.ArgumentParser(description="A replica; started by its worker agent.")
    parser.add_argument("--control-fd", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    adopt_orphans()  # what the model starts stays ours, so that it ends with us
    control = ControlSocket(socket.socket(fileno=arguments.control_fd))
    start, *early = control.wait()
    if not isinstance(start, Start):
        sys.exit(f"penstock replica: expected a start message first, got {start.type!r}")
    setproctitle.setproctitle(f"penstock replica {start.model}/{start.version}")
    inherit_logging(
        process="replica",
        worker=start.worker,
        replica=start.replica,
        model=start.model,
        version=start.version,
    )
    tracer = make_tracer("penstock-replica", start.replica, os.environ)
    ReplicaLoop(start, control, tracer).run(early)


if __name__ == "__main__":
    main()
