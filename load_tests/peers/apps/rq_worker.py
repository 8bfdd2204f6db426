"""A worker of RQ: `python rq_worker.py fork|simple`.

`fork` is RQ's own, which forks a process for each job. `simple` is its `SimpleWorker`, which does
not, and so has no way to end a job that hangs. Either has the model loaded before its first job.
"""

from __future__ import annotations

import sys

import rq_app
from redis import Redis
from rq import Queue, SimpleWorker, Worker

KINDS = {"fork": Worker, "simple": SimpleWorker}


def main() -> None:
    """Work until SIGTERM."""
    rq_app.load()
    connection = Redis.from_url(rq_app.URL)
    worker = KINDS[sys.argv[1]]([Queue(connection=connection)], connection=connection)
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main()
