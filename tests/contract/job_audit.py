"""What a job store holds, read key by key: to compare, and to check indexes against records."""

from __future__ import annotations

from typing import Any

from redis import Redis

from penstock.shared.jobs.record import HELD, TRANSITIONS, JobState
from penstock.shared.store.keys import Keys

PRIORITY_MS = 1 << 43

Contents = dict[str, Any]


def contents(client: Redis, keys: Keys) -> Contents:
    """All keys of the jobs, by the rest of their names."""
    prefix = f"{keys.jobs}:"
    names = list(client.scan_iter(f"{prefix}*", count=1000))
    with client.pipeline(transaction=False) as together:
        for name in names:
            together.type(name)
        kinds = together.execute()
        for name, kind in zip(names, kinds, strict=True):
            _ask(together, name, kind)
        held = together.execute()
    return {
        name.decode().removeprefix(prefix): dict(one) if kind == b"zset" else one
        for name, kind, one in zip(names, kinds, held, strict=True)
    }


def _ask(client: Any, key: bytes, kind: bytes) -> None:
    match kind:
        case b"string":
            client.get(key)
        case b"hash":
            client.hgetall(key)
        case b"set":
            client.smembers(key)
        case b"zset":
            client.zrange(key, 0, -1, withscores=True)
        case b"list":
            client.lrange(key, 0, -1)
        case b"stream":
            client.xrange(key)
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


def audit(client: Redis, keys: Keys) -> Contents:
    """Check that indexes, counts and bytes are what the records say, and nothing else is there."""
    there = contents(client, keys)
    jobs = {name[4:]: _text(there[name]) for name in there if name.startswith("job:")}
    expected = _indexes(jobs) | {"counts": _counts(jobs, there)}
    derived = ("queue", "leases", "retained", "spares", "expiring", "list:", "models", "counts")
    actual = {name: held for name, held in there.items() if name.startswith(derived)}
    assert _comparable(actual) == _comparable(expected)
    for name in there:
        kind, _, job_id = name.partition(":")
        if kind in ("payload", "result", "events"):
            assert job_id in jobs, f"{name} has no record"
    for job_id, job in jobs.items():
        assert int(job.get("bytes", 0)) == _bytes_of(job_id, there), job_id
        assert ("holder" in job) == (job["state"] in HELD)
    return there


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _indexes(jobs: dict[str, dict[str, str]]) -> Contents:
    found: Contents = {}

    def add(name: str, job_id: str, score: float | str) -> None:
        found.setdefault(name, {})[job_id.encode()] = float(score)

    for job_id, job in jobs.items():
        state, queue = job["state"], f"{job['model']}/{job['revision']}"
        add(f"list:{job['model']}:{state}", job_id, 0)
        found.setdefault("models", set()).add(job["model"].encode())
        if state == JobState.QUEUED:
            suspect = 10 * PRIORITY_MS if int(job.get("deaths", 0)) else 0
            score = int(job["priority"]) * PRIORITY_MS + int(job["queued_ms"])
            add(f"queue:{queue}", job_id, suspect + score)
            found.setdefault("queues", set()).add(queue.encode())
            if "expires_ms" in job:
                add("expiring", job_id, job["expires_ms"])
        elif state in HELD:
            add("leases", job_id, job["lease_expires_ms"])
        else:
            add("retained", job_id, job["collect_ms"])
            may_give_way = state in (JobState.CANCELED, JobState.EXPIRED)
            if may_give_way and "payload_size" in job and "payload_blob" not in job:
                add("spares", job_id, job["finished_ms"])
            if "dead" in job:
                add(f"list:{job['model']}:dead", job_id, 0)
    return found


def _counts(jobs: dict[str, dict[str, str]], there: Contents) -> dict[bytes, bytes]:
    states = [job["state"] for job in jobs.values()]
    counts = {state.value: states.count(state.value) for state in TRANSITIONS}
    counts["jobs"] = len(jobs)
    counts["bytes"] = sum(_bytes_of(job_id, there) for job_id in jobs)
    return {name.encode(): str(value).encode() for name, value in counts.items()}


def _bytes_of(job_id: str, there: Contents) -> int:
    kept = sum(len(there.get(f"{kind}:{job_id}", b"")) for kind in ("payload", "result"))
    events = there.get(f"events:{job_id}", [])
    return kept + sum(len(fields.get(b"body", b"")) for _, fields in events)


def _comparable(found: Contents) -> Contents:
    """Counts without those that are 0, and without when reclaims were."""
    counts = found.get("counts", {})
    kept = {
        name: value
        for name, value in counts.items()
        if value != b"0" and name not in (b"reclaimed_ms", b"grace_until_ms")
    }
    return found | {"counts": kept}
