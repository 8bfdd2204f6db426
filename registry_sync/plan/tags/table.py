"""All tags (pure).

A tag is one row in here. A setting has beside it one field in
`penstock.shared.contracts.deployment`, whose default is the tag's: in `ReplicaSettings` if a
replica must be started anew for it, so that a change makes another revision; in `InPlaceSettings`
if what runs can follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from penstock.registry_sync.plan.roles import OFF, STABLE
from penstock.registry_sync.plan.tags.readers import (
    Device,
    Either,
    Integer,
    Number,
    Reader,
    Text,
    Words,
)
from penstock.registry_sync.sources.types import (
    MESSAGE_TAG,
    OWNER_TAG,
    PREFIX,
    ROLE_TAG,
    STATUS_TAG,
    Status,
)
from penstock.shared.contracts.deployment import InPlaceSettings, ReplicaSettings

_DAY_S = 86_400.0
_REPLICAS = Integer(1, 1024)
_DURATION = Number("milliseconds", 1, _DAY_S * 1000)


class On(StrEnum):
    """What a tag stands on."""

    BOTH = "model, version"  # a version's wins over its model's
    VERSION = "version"


class Writer(StrEnum):
    """Who writes a tag."""

    OPERATOR = "operator"
    PENSTOCK = "Penstock"


class Change(StrEnum):
    """What becomes of what runs when a setting is changed."""

    NEW_REVISION = "new revision"  # loaded beside what serves, and swapped as `swap` says
    IN_PLACE = "in place"


@dataclass(frozen=True)
class Tag:
    """One tag.

    Attributes:
        name: what follows the prefix.
        reader: how its text is read and checked, with its unit.
        meaning: for operators, in one sentence; names and values are in backticks.
        kept_as: its field in the contract, where that has another name.
        absent: what holds where nothing is said and the contract has None; empty: nothing does.
        setting: or else the setting of a process that holds then, with its command.
        places: a change of it changes how many replicas there are to be, or when.
        more: a document with more of it, in docs/.
    """

    name: str
    reader: Reader
    meaning: str
    kept_as: str = ""
    absent: str = ""
    setting: str = ""
    places: bool = False
    on: On = On.BOTH
    writer: Writer = Writer.OPERATOR
    more: str = ""

    @cached_property
    def field(self) -> str:
        """Its field in the contract; empty: it is no setting."""
        name = self.kept_as or self.name
        return name if name in _DEFAULTS else ""

    @property
    def change(self) -> Change | None:
        """What a change does; None for what is no setting."""
        if not self.field:
            return None
        return (
            Change.NEW_REVISION if self.field in ReplicaSettings.model_fields else Change.IN_PLACE
        )

    @property
    def default(self) -> str:
        """What holds where nothing is said, for people; empty for what only Penstock writes."""
        if self.writer is Writer.PENSTOCK:
            return ""
        value = _DEFAULTS.get(self.field)
        if value is None:
            return self.setting or self.absent or self.said(None)
        return f"{value:g}" if isinstance(value, float) else str(value)

    def said(self, value: object) -> str:
        """A value of it, as an operator would write it."""
        return self.reader.unset or "none" if value is None else str(value)


_DEFAULTS: dict[str, object] = {
    name: field.default
    for name, field in (ReplicaSettings.model_fields | InPlaceSettings.model_fields).items()
}

TAGS = (
    Tag(
        name=ROLE_TAG.removeprefix(PREFIX),
        reader=Words((STABLE, OFF)),
        meaning="`stable`: this version answers, and of several the highest one; `off`: it does "
        "not, whatever aliases say.",
        on=On.VERSION,
    ),
    Tag(
        name="max_batch_size",
        reader=Integer(1, 65536),
        meaning="Most rows in one execution; requests of more run in pieces.",
        more="models.md",
    ),
    Tag(
        name="max_queue_delay_ms",
        reader=Number("milliseconds", 0, 60_000),
        meaning="Longest that an idle model waits for a fuller batch, where that pays.",
    ),
    Tag(
        name="timeout_ms",
        reader=_DURATION,
        setting="gateway --default-timeout-s",
        meaning="Deadline of a call that states none.",
    ),
    Tag(
        name="replicas",
        reader=Either(("each",), _REPLICAS),
        places=True,
        meaning="Replicas in all, or `each`: one per matching worker.",
    ),
    Tag(
        name="device",
        reader=Device(),
        meaning="Where its replicas run: `cpu`, one GPU such as `cuda:0`, or by what is there.",
    ),
    Tag(
        name="threads",
        reader=Either(("auto",), Integer(1, 1024), none="auto"),
        absent="cores / local replicas",
        meaning="Threads of the runtime.",
    ),
    Tag(
        name="env",
        kept_as="environment",
        reader=Words(("inherit", "isolated")),
        meaning="`inherit`: the worker's packages; `isolated`: an environment from the model's own "
        "`requirements.txt`.",
    ),
    Tag(
        name="swap",
        reader=Words(("surge", "replace")),
        places=True,
        meaning="`surge`: load beside the old version, then flip; `replace`: end the old one "
        "first.",
    ),
    Tag(
        name="queue_timeout_ms",
        reader=_DURATION,
        meaning="A call that was not begun by then gets 503 (`queue_timeout`).",
        more="tail.md",
    ),
    Tag(
        name="execution_timeout_ms",
        reader=_DURATION,
        meaning="A replica that executes one batch for longer is killed and replaced.",
        more="tail.md",
    ),
    Tag(
        name="hedge",
        reader=Either(("auto", "off"), Number("milliseconds", 0, _DAY_S * 1000, above=True)),
        meaning="Second attempts for slow calls: `auto` (after the learned p95), `off`, or after "
        "so many milliseconds.",
        more="tail.md",
    ),
    Tag(
        name="hedge_budget",
        reader=Number("a share", 0, 1),
        meaning="Second attempts, as a share of all calls.",
        more="tail.md",
    ),
    Tag(
        name="jobs",
        reader=Words(("shared", "only", "off"), unset="shared"),
        meaning="`shared`: takes calls and jobs; `only`: jobs alone; `off`: calls alone.",
        more="jobs.md",
    ),
    Tag(
        name="job_replicas",
        reader=_REPLICAS,
        places=True,
        meaning="Replicas beyond those of `replicas`, for jobs alone, of a model that streams and "
        "is `shared`.",
        more="jobs.md",
    ),
    Tag(
        name="job_concurrency",
        reader=Integer(1, 65536),
        absent="two batches",
        meaning="Most jobs that a replica holds at a time.",
        more="jobs.md",
    ),
    Tag(
        name="job_slice_ms",
        reader=_DURATION,
        absent="by measure",
        meaning="Longest that a batch with jobs in it is to take, beside calls.",
        more="jobs.md",
    ),
    Tag(
        name="drain_timeout_s",
        reader=Number("seconds", 0, _DAY_S),
        setting="worker --drain-grace-s",
        meaning="How long a job that runs may hold up the end of a replica that drains.",
        more="jobs.md",
    ),
    Tag(
        name="batching",
        reader=Words(("auto", "on", "off"), unset="auto"),
        meaning="Whether requests share executions: `auto`: where a trial shows that they may; "
        "`on`: always; `off`: never.",
        more="models.md",
    ),
    Tag(
        name="warmup",
        reader=Words(("auto", "off"), unset="auto"),
        meaning="`off`: the model is not executed before its first request, so it is neither tried "
        "nor, with `batching` on `auto`, batched.",
        more="models.md",
    ),
    Tag(
        name=STATUS_TAG.removeprefix(PREFIX),
        reader=Words(tuple(each.value for each in Status)),
        meaning="What became of the version; an edit is overwritten at the next look.",
        on=On.VERSION,
        writer=Writer.PENSTOCK,
    ),
    Tag(
        name=MESSAGE_TAG.removeprefix(PREFIX),
        reader=Text("a sentence or three"),
        meaning="Why it has this status, and what the operator should mend.",
        on=On.VERSION,
        writer=Writer.PENSTOCK,
    ),
    Tag(
        name=OWNER_TAG.removeprefix(PREFIX),
        reader=Text("an id, a namespace and a host"),
        meaning="Which system wrote the status.",
        on=On.VERSION,
        writer=Writer.PENSTOCK,
    ),
)
"""Every tag, in the order in which unreadable values are reported."""

SETTINGS = tuple(tag for tag in TAGS if tag.field)
"""Those that say how a version is to be served."""

NO_SETTINGS = frozenset(PREFIX + tag.name for tag in TAGS if not tag.field)
"""The others, as they are called in here."""
