"""`penstock keys DIR`: key pairs by which gateways and workers on several hosts know each other.

One pair for all gateways and one for all workers. Who has a folder with a role's secret key is of
that role; the hosts of the other role need its public key alone.
"""

from __future__ import annotations

from pathlib import Path

import zmq

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.whole_file import write_whole
from penstock.shared.wire.curve import (
    ADMITTED_WORKERS,
    GATEWAY_PUBLIC,
    GATEWAY_SECRET,
    WORKER_PUBLIC,
    WORKER_SECRET,
)

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
FOLDER_MODE = 0o700

EXPLANATION = f"""\
keys are in {{folder}}; name a folder with --keys-dir (PENSTOCK_KEYS_DIR)
  to hosts of gateways:  {GATEWAY_SECRET}  {WORKER_PUBLIC}
  to hosts of workers:   {WORKER_SECRET}  {GATEWAY_PUBLIC}
The secret files let in whoever has them: keep them to those hosts, readable by Penstock alone.
To change the workers' key: put the new public key beside the old one in the gateways' folder (as
any {ADMITTED_WORKERS}), restart the gateways, then give the workers the new secret."""


def make_keys(folder: Path, *, force: bool) -> str:
    """Make both pairs; what to do with them, for people.

    Raises:
        CommandError: if there are keys already and `force` is not set, or the disk refuses.
    """
    pairs = ((GATEWAY_SECRET, GATEWAY_PUBLIC), (WORKER_SECRET, WORKER_PUBLIC))
    there = [name for pair in pairs for name in pair if (folder / name).exists()]
    if there and not force:
        raise CommandError(
            f"{folder} holds {', '.join(there)} already; --force replaces them, and then no "
            "process with the old keys can connect",
            exit_code=2,
        )
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        for secret_name, public_name in pairs:
            public, secret = zmq.curve_keypair()
            write_whole(folder / secret_name, secret + b"\n", SECRET_MODE)
            write_whole(folder / public_name, public + b"\n", PUBLIC_MODE)
    except OSError as error:
        raise CommandError(f"cannot write keys to {folder}: {error.strerror}") from error
    return EXPLANATION.format(folder=folder)
