"""Names of the keys in Redis.

    {penstock}:deployment        JSON of `Deployment`
    {penstock}:routing           JSON of `RoutingTable`
    {penstock}:lease             hash: holder, token; expires with the lease
    {penstock}:lease:token       counter of lease tokens, never reset
    {penstock}:workers           sorted set of worker names by expiry (server time, seconds)
    {penstock}:worker:<name>     JSON of `WorkerReport`
    {penstock}:gateways          sorted set of gateway names by expiry
    {penstock}:gateway:<name>    JSON of `GatewayReport`
    {penstock}:syncs             sorted set of registry_sync daemons by expiry
    {penstock}:sync:<name>       JSON of `SyncReport`
    {penstock}:findings:<revision>  hash: finding by place (environment/device); expires unread
    {penstock}:trials            hash: new trials asked for, by model; expires
    {penstock}:system            the system's own id, which tells it from others on one registry
    {penstock}:turned-off        set: `model/version`: what `penstock off` ended
    {penstock}:past              hash: JSON of `ModelPast` by model
    {penstock}:history:<model>   list: JSON of `HistoryEvent`, the last ones; expires
    {penstock}:changes           channel: the kind of what was written; a hint to read again
    {penstock}:jobs:...          the jobs; shared/jobs/lua/prelude.lua has their names

All keys of a namespace share a hash tag, so that a script may touch several of them in Redis
Cluster too. The namespace lets systems share a Redis.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.shared.contracts.ids import ReplicaId


@dataclass(frozen=True)
class Keys:
    """Key names of one namespace."""

    namespace: str = "penstock"

    def _key(self, rest: str) -> str:
        return f"{{{self.namespace}}}:{rest}"

    @property
    def deployment(self) -> str:
        return self._key("deployment")

    @property
    def routing(self) -> str:
        return self._key("routing")

    @property
    def lease(self) -> str:
        return self._key("lease")

    @property
    def lease_token(self) -> str:
        return self._key("lease:token")

    @property
    def trials(self) -> str:
        return self._key("trials")

    @property
    def system_id(self) -> str:
        """What tells the system from others."""
        return self._key("system")

    @property
    def turned_off(self) -> str:
        """Versions that `penstock off` ends."""
        return self._key("turned-off")

    def findings(self, revision: str) -> str:
        """What was found out about a revision."""
        return self._key(f"findings:{revision}")

    @property
    def findings_lowered(self) -> str:
        """How often a finding took a higher one's place."""
        return self._key("lowered-findings")

    @property
    def past(self) -> str:
        """What is known of models, to tell the next event from it."""
        return self._key("past")

    def history(self, model: str) -> str:
        """What happened to a model."""
        return self._key(f"history:{model}")

    @property
    def changes(self) -> str:
        return self._key("changes")

    @property
    def jobs(self) -> str:
        """What the names of all keys of the jobs begin with."""
        return self._key("jobs")

    def job_changed(self, job_id: str) -> str:
        """The channel of one job's events."""
        return self._key(f"jobs:changed:{job_id}")

    def job_queue(self, model: str, revision: str) -> str:
        """The channel that tells of new jobs for one revision of a model."""
        return self._key(f"jobs:wake:{model}/{revision}")

    def job_holder(self, holder: ReplicaId) -> str:
        """The channel that tells a holder of jobs to beat, since one of them is to be canceled."""
        return self._key(f"jobs:beat:{holder}")

    def index(self, kind: str) -> str:
        """The sorted set of `workers`, `gateways` or `syncs`."""
        return self._key(f"{kind}s")

    def report(self, kind: str, name: str) -> str:
        """The report of one worker, gateway or daemon."""
        return self._key(f"{kind}:{name}")
