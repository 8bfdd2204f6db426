"""Clients of a queue of jobs: `python submit_jobs.py APP`, with a plan as JSON on standard input.

One client hands in jobs while nothing else is to do, and waits for each; then many clients, a
process each, hand in jobs without a pause. What they saw goes to standard output as JSON.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import sys
import time
from typing import Any

POLL_S = 0.02
PAUSE_S = 0.01
"""Between two jobs of the lonely client, so that each finds an idle worker."""

RESULT_TIMEOUT_S = 60


def alone(app: Any, samples: list[Any], jobs: int) -> list[Any]:
    """For each job milliseconds from submit to its start, and to its result in our hands."""
    client = app.Client()
    client.result(client.submit(samples[0]), RESULT_TIMEOUT_S)  # everything is connected now
    seen = []
    for number in range(jobs):
        sample = number % len(samples)
        begin = time.monotonic()
        started, output = client.result(client.submit(samples[sample]), RESULT_TIMEOUT_S)
        seen.append([(started - begin) * 1e3, (time.monotonic() - begin) * 1e3, sample, output])
        time.sleep(PAUSE_S)
    return seen


def hand_in(app_name: str, plan: dict[str, Any], together: Any) -> list[tuple[float, float]]:
    """One of many clients; when each submit began and ended."""
    client, samples = importlib.import_module(app_name).Client(), plan["samples"]
    client.result(client.submit(samples[0]), RESULT_TIMEOUT_S)  # it is connected, all is imported
    together.wait()
    until, took = time.monotonic() + plan["duration_s"], []
    while (begin := time.monotonic()) < until:
        client.submit(samples[len(took) % len(samples)])
        took.append((begin, time.monotonic()))
    return took


def crowd(app_name: str, app: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """Many clients for a while, then wait until all is done, but not for ever."""
    fork = multiprocessing.get_context("fork")
    with fork.Manager() as manager, fork.Pool(plan["clients"]) as pool:
        share = (app_name, plan, manager.Barrier(plan["clients"]))
        each = pool.starmap(hand_in, [share] * plan["clients"], chunksize=1)
    took = [span for spans in each for span in spans]
    begin, submitted = min(took)[0], max(ended for _, ended in took)
    client, give_up = app.Client(), submitted + plan["drain_s"]
    while (left := client.unfinished()) and time.monotonic() < give_up:
        time.sleep(POLL_S)
    return {
        "submit_ms": [(ended - began) * 1e3 for began, ended in took],
        "submitted_s": submitted - begin,
        "completed": len(took) - left,
        "completed_s": time.monotonic() - begin,
    }


def main() -> None:
    """Both, one after the other."""
    app_name = sys.argv[1]
    plan = json.load(sys.stdin)
    app = importlib.import_module(app_name)
    if plan["clients"]:
        found = crowd(app_name, app, plan)
    else:
        found = {"alone": alone(app, plan["samples"], plan["jobs"])}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
