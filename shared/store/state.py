"""The control plane's store: desired state, reports that expire, and the leader lease.

`StateStore` is the seam. `RedisStateStore` is what runs; unit tests and the simulation have one in
memory that obeys the same contract (tests/contract runs one suite over both). Every write is one
Lua script and may be repeated without harm, because a client that lost an answer sends again.

A server that is full (of jobs, say) must not stop rollouts, or have live workers taken for gone. It
refuses a script's first write if that may grow, but no later one, so every script begins with a
write that frees; what we keep is small, and bounded by who reports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from redis.exceptions import RedisError

from penstock.shared.contracts.deployment import Deployment, GatewayReport, SyncReport, WorkerReport
from penstock.shared.contracts.errors import LeaseLostError, StateStoreError
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.history import EVENTS_MAX, HISTORY_TTL_S, HistoryEvent, ModelPast
from penstock.shared.contracts.ids import new_system_id
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.waits import cancellable
from penstock.shared.store.client import connect
from penstock.shared.store.keys import Keys
from penstock.shared.store.subscription import SILENCE_S, Subscription
from penstock.shared.store.url import without_password

FINDINGS_TTL_S = 90 * 86_400.0
"""How long a finding is kept unread: revisions vanish, and some come back after weeks."""

PLACES_MAX = 64
"""Most findings of one revision: environments change with each upgrade of a package."""

TRIALS_TTL_S = 365 * 86_400.0
"""How long trials are remembered after the last was asked for; what is deployed has its own."""

TRIALS_MAX = 10_000
"""Most models whose trials are remembered."""


TURNED_OFF_MAX = 10_000
"""Most versions that are turned off in the store at a time. None of them expires, since it would
serve again: beyond, another is refused."""


@dataclass(frozen=True)
class Lease:
    """Leadership as it was granted; `token` is higher than any granted before."""

    holder: str
    token: int


class StateStore(Protocol):
    """What the services need of the store. Every method may raise `StateStoreError`."""

    async def deployment(self) -> Deployment:
        """The desired deployment; an empty one if none was ever written."""
        ...

    async def routing(self) -> RoutingTable:
        """The routing table; an empty one (generation 0) if none was ever written."""
        ...

    async def apply(self, lease: Lease, deployment: Deployment, routing: RoutingTable) -> None:
        """Write desired state and routing together.

        Raises:
            LeaseLostError: if `lease` is not the current one; nothing was written.
        """
        ...

    async def report_worker(self, report: WorkerReport, ttl_s: float, *, notify: bool) -> None:
        """Write a worker's report, to vanish after `ttl_s`; `notify` wakes who watches."""
        ...

    async def report_gateway(self, report: GatewayReport, ttl_s: float, *, notify: bool) -> None:
        """Write a gateway's report, to vanish after `ttl_s`; `notify` wakes who watches."""
        ...

    async def report_sync(self, report: SyncReport, ttl_s: float) -> None:
        """Write a registry_sync daemon's report, to vanish after `ttl_s`; nobody is woken."""
        ...

    async def forget_worker(self, name: str) -> None:
        """Remove a worker's report at once."""
        ...

    async def forget_gateway(self, name: str) -> None:
        """Remove a gateway's report at once."""
        ...

    async def forget_sync(self, name: str) -> None:
        """Remove a registry_sync daemon's report at once."""
        ...

    async def workers(self) -> list[WorkerReport]:
        """Reports of live workers, by name."""
        ...

    async def gateways(self) -> list[GatewayReport]:
        """Reports of live gateways, by name."""
        ...

    async def syncs(self) -> list[SyncReport]:
        """Reports of live registry_sync daemons, by name."""
        ...

    async def acquire_lease(self, holder: str, ttl_s: float) -> Lease | None:
        """Become or stay leader for `ttl_s` from now; None while another holds the lease."""
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Give leadership up, if it is still held."""
        ...

    async def findings(self, revision: str) -> dict[str, Finding]:
        """What was found out about a revision, by place (`environment/device`).

        A finding that nobody reads for `FINDINGS_TTL_S` is forgotten.
        """
        ...

    async def put_finding(self, revision: str, place: str, finding: Finding) -> Finding:
        """Keep a finding, unless one is kept that it is not lower than; returns what is kept.

        Where it takes the place of a higher one, who watches is woken, and `findings_lowered` is
        another number than before.
        """
        ...

    async def findings_lowered(self) -> int:
        """How often a finding took a higher one's place: while it is the same, none was lowered."""
        ...

    async def ask_trial(self, model: str, above: int = 0) -> int:
        """Ask for a new trial of a model, and wake who watches.

        Args:
            above: the trial that is deployed, which the store may have lost.

        Returns:
            The number of the trial; higher than any before.
        """
        ...

    async def trials(self) -> dict[str, int]:
        """The last trial that was asked for, by model."""
        ...

    async def system_id(self) -> str:
        """What tells this system from others; the same for all who share this store's namespace."""
        ...

    async def turn_off(self, model: str, versions: Collection[str]) -> None:
        """Turn versions of a model off, and wake who watches.

        Raises:
            StateStoreError: also if there are too many; none of these is turned off then.
        """
        ...

    async def turned_off(self) -> frozenset[tuple[str, str]]:
        """What is turned off, as (model, version)."""
        ...

    async def forget_turned_off(
        self, versions: Collection[tuple[str, str]], lease: Lease | None = None
    ) -> None:
        """Turn versions off no longer, and wake who watches.

        Args:
            versions: as (model, version).
            lease: who decides by what it saw is to hold it.

        Raises:
            LeaseLostError: if `lease` is not the current one; nothing was changed.
        """
        ...

    async def past(self) -> dict[str, ModelPast]:
        """What was last written down of models, by name."""
        ...

    async def write_history(
        self,
        lease: Lease,
        past: Mapping[str, ModelPast | None],
        events: Sequence[HistoryEvent],
    ) -> None:
        """Write down what is known of models and what happened to them, together.

        A second write of the same adds the events again: after a failure, read `past` first.

        Args:
            past: by model; None: it is to be forgotten.
            events: the oldest first; of each model, the last `EVENTS_MAX` are kept.

        Raises:
            LeaseLostError: if `lease` is not the current one; nothing was written.
        """
        ...

    async def history(self, model: str, limit: int = EVENTS_MAX) -> list[HistoryEvent]:
        """The last events of a model, the oldest first."""
        ...

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` after every notified write, until cancelled. Hints may be lost."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


_APPLY = """
redis.call('HDEL', KEYS[1], 'nothing')
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], ARGV[3])
redis.call('PUBLISH', KEYS[4], 'desired')
return 1
"""

_REPORT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 1)
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now + math.ceil(ARGV[3] / 1000), ARGV[1])
if ARGV[4] == '1' then redis.call('PUBLISH', KEYS[3], 'report') end
return 1
"""

_FORGET = """
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[3], 'report')
return 1
"""

_ACQUIRE = """
redis.call('HDEL', KEYS[1], 'nothing')
local holder = redis.call('HGET', KEYS[1], 'holder')
if holder and holder ~= ARGV[1] then return 0 end
local token = redis.call('HGET', KEYS[1], 'token')
if not token then
  token = redis.call('INCR', KEYS[2])
  redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', token)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return tonumber(token)
"""

_RELEASE = """
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""

# Only one of findings is kept at a place, with its rank before it: the lower of two stays. Where
# there are too many places, any other makes room; its next load finds out anew.
_PUT_FINDING = """
redis.call('HDEL', KEYS[1], 'nothing')
local function read(text)
  local merged, rows, finding = string.match(text, '^(%d+) (%d+) (.*)$')
  return tonumber(merged), tonumber(rows), finding
end
local merged, rows, finding = read(ARGV[2])
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if kept then
  local kept_merged, kept_rows, kept_finding = read(kept)
  if merged > kept_merged or (merged == kept_merged and rows >= kept_rows) then
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return kept_finding
  end
  redis.call('INCR', KEYS[2])
  redis.call('PUBLISH', KEYS[3], 'finding')
elseif redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  redis.call('HDEL', KEYS[1], redis.call('HRANDFIELD', KEYS[1]))
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return finding
"""

_FINDINGS = """
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('HGETALL', KEYS[1])
"""

_ASK_TRIAL = """
redis.call('HDEL', KEYS[1], '')
local asked = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0')
local trial = math.max(asked, tonumber(ARGV[2])) + 1
if asked == 0 and redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[4]) then
  redis.call('HDEL', KEYS[1], redis.call('HRANDFIELD', KEYS[1]))
end
redis.call('HSET', KEYS[1], ARGV[1], trial)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], 'trial')
return trial
"""

_SYSTEM_ID = """
redis.call('HDEL', KEYS[2], 'nothing')
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""

_TURN_OFF = """
redis.call('SREM', KEYS[1], '')
local new = 0
for i = 2, #ARGV do new = new + 1 - redis.call('SISMEMBER', KEYS[1], ARGV[i]) end
if redis.call('SCARD', KEYS[1]) + new > tonumber(ARGV[1]) then return 0 end
for i = 2, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('PUBLISH', KEYS[2], 'off')
return 1
"""

_FORGET_TURNED_OFF = """
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
for i = 2, #ARGV do redis.call('SREM', KEYS[2], ARGV[i]) end
redis.call('PUBLISH', KEYS[3], 'off')
return 1
"""

# Past: pairs of model and document, empty where it is forgotten; then events, one for each key.
_WRITE_HISTORY = """
redis.call('HDEL', KEYS[1], 'nothing')
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local pairs_end = 4 + 2 * tonumber(ARGV[4])
for i = 5, pairs_end, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
for i = 3, #KEYS do
  redis.call('RPUSH', KEYS[i], ARGV[pairs_end + i - 2])
  redis.call('LTRIM', KEYS[i], -tonumber(ARGV[2]), -1)
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return 1
"""

Report = TypeVar("Report", bound=BaseModel)


class RedisStateStore:
    """The store on any server that speaks the Redis 7.0 protocol."""

    def __init__(self, redis_url: str, keys: Keys, silence_s: float = SILENCE_S) -> None:
        self._url = redis_url
        self._keys = keys
        self._silence_s = silence_s
        self._redis = connect(redis_url)

    async def deployment(self) -> Deployment:
        raw = await self._answer(self._redis.get(self._keys.deployment))
        return _parse(Deployment, raw) if raw else Deployment()

    async def routing(self) -> RoutingTable:
        raw = await self._answer(self._redis.get(self._keys.routing))
        return _parse(RoutingTable, raw) if raw else RoutingTable()

    async def apply(self, lease: Lease, deployment: Deployment, routing: RoutingTable) -> None:
        keys = [self._keys.lease, self._keys.deployment, self._keys.routing, self._keys.changes]
        documents = [deployment.model_dump_json(), routing.model_dump_json()]
        if not await self._script(_APPLY, keys, [lease.token, *documents]):
            raise LeaseLostError(f"{lease.holder} no longer holds the lease (token {lease.token})")

    async def report_worker(self, report: WorkerReport, ttl_s: float, *, notify: bool) -> None:
        await self._report("worker", report.worker, report, ttl_s, notify)

    async def report_gateway(self, report: GatewayReport, ttl_s: float, *, notify: bool) -> None:
        await self._report("gateway", report.gateway, report, ttl_s, notify)

    async def report_sync(self, report: SyncReport, ttl_s: float) -> None:
        await self._report("sync", report.sync, report, ttl_s, notify=False)

    async def forget_worker(self, name: str) -> None:
        await self._forget("worker", name)

    async def forget_gateway(self, name: str) -> None:
        await self._forget("gateway", name)

    async def forget_sync(self, name: str) -> None:
        await self._forget("sync", name)

    async def workers(self) -> list[WorkerReport]:
        return await self._reports("worker", WorkerReport)

    async def gateways(self) -> list[GatewayReport]:
        return await self._reports("gateway", GatewayReport)

    async def syncs(self) -> list[SyncReport]:
        return await self._reports("sync", SyncReport)

    async def acquire_lease(self, holder: str, ttl_s: float) -> Lease | None:
        keys = [self._keys.lease, self._keys.lease_token]
        token = await self._script(_ACQUIRE, keys, [holder, int(ttl_s * 1000)])
        return Lease(holder, int(token)) if token else None

    async def release_lease(self, lease: Lease) -> None:
        await self._script(_RELEASE, [self._keys.lease], [lease.token])

    async def findings(self, revision: str) -> dict[str, Finding]:
        keys = [self._keys.findings(revision)]
        answer = await self._script(_FINDINGS, keys, [int(FINDINGS_TTL_S * 1000)])
        return {
            place.decode(errors="replace"): _parse(Finding, kept.split(b" ", 2)[-1])
            for place, kept in zip(answer[::2], answer[1::2], strict=True)
        }

    async def put_finding(self, revision: str, place: str, finding: Finding) -> Finding:
        rank = f"{finding.rows_merged} {finding.interface.max_batch_size}"
        content = f"{rank} {finding.model_dump_json()}"
        arguments = [place, content, int(FINDINGS_TTL_S * 1000), PLACES_MAX]
        keys = [self._keys.findings(revision), self._keys.findings_lowered, self._keys.changes]
        return _parse(Finding, await self._script(_PUT_FINDING, keys, arguments))

    async def findings_lowered(self) -> int:
        return int(await self._answer(self._redis.get(self._keys.findings_lowered)) or 0)

    async def ask_trial(self, model: str, above: int = 0) -> int:
        keys = [self._keys.trials, self._keys.changes]
        arguments = [model, above, int(TRIALS_TTL_S * 1000), TRIALS_MAX]
        return int(await self._script(_ASK_TRIAL, keys, arguments))

    async def trials(self) -> dict[str, int]:
        kept = await self._answer(self._redis.hgetall(self._keys.trials))
        try:
            return {model.decode(errors="replace"): int(trial) for model, trial in kept.items()}
        except ValueError as error:
            raise StateStoreError(f"state store holds no valid trials: {error}") from error

    async def system_id(self) -> str:
        keys = [self._keys.system_id, self._keys.lease]
        kept: bytes = await self._script(_SYSTEM_ID, keys, [new_system_id()])
        return kept.decode(errors="replace")

    async def turn_off(self, model: str, versions: Collection[str]) -> None:
        keys = [self._keys.turned_off, self._keys.changes]
        members = [f"{model}/{version}" for version in sorted(versions)]
        if not await self._script(_TURN_OFF, keys, [TURNED_OFF_MAX, *members]):
            raise StateStoreError(f"more than {TURNED_OFF_MAX} versions would be turned off")

    async def turned_off(self) -> frozenset[tuple[str, str]]:
        members = await self._answer(self._redis.smembers(self._keys.turned_off))
        names = (each.decode(errors="replace").rpartition("/") for each in members)
        return frozenset((model, version) for model, _, version in names)

    async def forget_turned_off(
        self, versions: Collection[tuple[str, str]], lease: Lease | None = None
    ) -> None:
        keys = [self._keys.lease, self._keys.turned_off, self._keys.changes]
        members = [f"{model}/{version}" for model, version in sorted(versions)]
        token = lease.token if lease is not None else ""
        if not await self._script(_FORGET_TURNED_OFF, keys, [token, *members]):
            raise LeaseLostError("the lease was lost")

    async def past(self) -> dict[str, ModelPast]:
        kept = await self._answer(self._redis.hgetall(self._keys.past))
        return {
            model.decode(errors="replace"): _parse(ModelPast, raw) for model, raw in kept.items()
        }

    async def write_history(
        self,
        lease: Lease,
        past: Mapping[str, ModelPast | None],
        events: Sequence[HistoryEvent],
    ) -> None:
        keys = [self._keys.lease, self._keys.past]
        keys += [self._keys.history(event.model) for event in events]
        arguments: list[Any] = [lease.token, EVENTS_MAX, int(HISTORY_TTL_S * 1000), len(past)]
        for model, known in past.items():
            arguments += [model, known.model_dump_json() if known is not None else ""]
        arguments += [event.model_dump_json() for event in events]
        if not await self._script(_WRITE_HISTORY, keys, arguments):
            raise LeaseLostError(f"{lease.holder} no longer holds the lease (token {lease.token})")

    async def history(self, model: str, limit: int = EVENTS_MAX) -> list[HistoryEvent]:
        raws = await self._answer(self._redis.lrange(self._keys.history(model), -limit, -1))
        return [_parse(HistoryEvent, raw) for raw in raws]

    async def watch(self, on_change: Callable[[], None]) -> None:
        def tell(_channel: str) -> None:
            on_change()

        await Subscription(self._url, self._keys.changes, tell, self._silence_s).run()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _report(
        self, kind: str, name: str, report: BaseModel, ttl_s: float, notify: bool
    ) -> None:
        keys = [self._keys.index(kind), self._keys.report(kind, name), self._keys.changes]
        arguments = [name, report.model_dump_json(), int(ttl_s * 1000), int(notify)]
        await self._script(_REPORT, keys, arguments)

    async def _forget(self, kind: str, name: str) -> None:
        keys = [self._keys.index(kind), self._keys.report(kind, name), self._keys.changes]
        await self._script(_FORGET, keys, [name])

    async def _reports(self, kind: str, model: type[Report]) -> list[Report]:
        names = await self._answer(self._redis.zrange(self._keys.index(kind), 0, -1))
        if not names:
            return []
        texts = [name.decode(errors="replace") for name in sorted(names)]  # nonsense has no report
        report_keys = [self._keys.report(kind, text) for text in texts]
        raws = await self._answer(self._redis.mget(report_keys))
        return [_parse(model, raw) for raw in raws if raw]

    async def _script(self, source: str, keys: list[str], arguments: list[Any]) -> Any:
        return await self._answer(self._redis.eval(source, len(keys), *keys, *arguments))

    async def _answer(self, command: Any) -> Any:
        try:
            return await cancellable(command)
        except (RedisError, OSError) as error:
            where = without_password(self._url)
            raise StateStoreError(f"state store at {where}: {error}") from error


def _parse(model: type[Report], raw: bytes) -> Report:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise StateStoreError(f"state store holds no valid {model.__name__}: {error}") from error
