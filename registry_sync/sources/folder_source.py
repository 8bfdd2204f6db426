"""A folder of models as a `RegistrySource`: for machines without MLflow.

    DIR/<model>/tags.yaml               tags and aliases of the model
    DIR/<model>/status.yaml             what we answer; with another prefix, in a file of its own
    DIR/<model>/<version>/...           a model as MLflow writes it, or a bare model.onnx, model.pt2
    DIR/<model>/<version>/tags.yaml     tags of the version

Nobody announces a change, and files are written in steps. What is in a version is therefore told by
what the file system says of it (`penstock.shared.artifacts.copy.FolderContent`), which becomes the
identity of its source: a file that was edited in place is a new source, whose digest then decides
whether it is a new revision. Everything must have come to rest before it counts (see `settled`);
until then, what counted before does. If we do not know what counted before, since we only just
started, the model is reported with a problem, and what is deployed of it goes on.

Where no version is named stable, the highest one without a role is, unless the operator chose
otherwise. A folder that is suddenly empty is taken for one that is not mounted.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from penstock.registry_sync.plan.model_filter import EVERY_MODEL, ModelFilter
from penstock.registry_sync.plan.roles import OFF, STABLE, role_of
from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.sources.folder_files import (
    STATUS_BYTES_MAX,
    TAGS_BYTES_MAX,
    MalformedError,
    Tags,
    read_statuses,
    read_tags,
    write_statuses,
)
from penstock.registry_sync.sources.folder_listing import (
    DANGLING,
    VERSION,
    Complaints,
    is_dangling,
    list_models,
    list_versions,
    status_file_of,
)
from penstock.registry_sync.sources.folder_reading import ABSENT, Where, look, read
from penstock.registry_sync.sources.settled import Settled
from penstock.registry_sync.sources.types import (
    MESSAGE_TAG,
    OVER,
    OWN_TAGS,
    ROLE_TAG,
    STATUS_TAG,
    NoModelsError,
    ObservedModel,
    ObservedVersion,
    Registry,
    RegistryError,
    StatusUpdate,
    VersionKey,
    tags_of,
    version_order,
)
from penstock.shared.artifacts.copy import TAGS_FILE
from penstock.shared.artifacts.folder import ArtifactError
from penstock.shared.contracts.deployment import FOLDER_SCHEME, ArtifactSource
from penstock.shared.process.clock import Clock

DefaultRole = Literal["latest", "none"]

HANGS = "what lies there does not answer; it is looked at again when it does"

NEVER_S = -1.0
"""The age of what is not known to be old."""

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class _ModelProblemError(Exception):
    """The wishes for a model cannot be told."""


class _UnsettledError(_ModelProblemError):
    """They cannot be told yet."""


@dataclass
class _Poll:
    """One poll: its times, and what it looked at."""

    now: float
    wall: float
    contents: set[VersionKey] = field(default_factory=set)
    tags: set[Path] = field(default_factory=set)


class FolderSource:
    """One folder of models.

    Args:
        aliases: those that are wishes; versions named by others are not read.
        default_role: what the highest version is where none is named stable.
        settle_s: how long a file must have stayed the same before it counts.
        names: how the tags of this system are named.
        admitted: the models that this system follows.
    """

    def __init__(
        self,
        folder: Path,
        aliases: Collection[str],
        clock: Clock,
        *,
        default_role: DefaultRole = "latest",
        settle_s: float = 1.0,
        names: TagNames = DEFAULT_NAMES,
        admitted: ModelFilter = EVERY_MODEL,
    ) -> None:
        self._names = names
        self._admitted = admitted
        self._status_file = status_file_of(names.prefix)
        self._folder = folder.expanduser().absolute()
        self._aliases = frozenset(aliases)
        self._clock = clock
        self._latest = default_role == "latest"
        self._contents: Settled[VersionKey, Where] = Settled(settle_s)
        self._tags: Settled[Path, bytes] = Settled(settle_s)
        self._unwritten: dict[str, Mapping[str, Mapping[str, str]]] = {}
        self._complaints = Complaints()
        self._at = self._folder

    @property
    def place(self) -> str:
        """See `RegistrySource`: what a mount that is away does not answer about."""
        return ascii(str(self._at))[1:-1]

    @property
    def model_at(self) -> str:
        """See `RegistrySource`."""
        return next(iter(self._at.relative_to(self._folder).parts), "")

    def _look_at(self, path: Path) -> None:
        """Remember where we are, should that hang."""
        self._at = path

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        """See `RegistrySource`."""
        self._complaints.begin()
        self._look_at(self._folder)
        try:
            names, anything = list_models(self._folder, self._complaints, without, self._look_at)
        except OSError as error:
            raise RegistryError(f"{self._folder}: {error.strerror}") from error
        if known and not anything:
            raise NoModelsError(f"{self._folder} is empty: is it mounted?")
        poll = _Poll(self._clock.monotonic(), self._clock.wall())
        deployed: dict[str, set[str]] = {}
        for model, version in known:
            deployed.setdefault(model, set()).add(version)
        models = {
            name: self._observed(poll, name, deployed.get(name, ()), hangs=name in without)
            for name in sorted({*filter(self._admitted.admits_name, names), *deployed})
        }
        self._contents.keep(poll.contents)
        self._tags.keep(poll.tags)
        self._unwritten = {name: rows for name, rows in self._unwritten.items() if name in models}
        return {
            name: model
            for name, model in models.items()
            if name in names or model.versions or model.problem
        }

    def write_status(self, update: StatusUpdate) -> None:
        """See `RegistrySource`; if the folder is not ours to write, it is remembered instead."""
        folder = self._folder / update.model
        self._look_at(folder)
        if not folder.is_dir():
            raise RegistryError(f"{folder} is not found")
        there = {
            version: row
            for version, row in self._statuses(update.model).items()
            if VERSION.fullmatch(version) and (folder / version).is_dir()
        }
        before = {} if update.owner else there.get(update.version, {})
        rows = {**there, update.version: {**before, **tags_of(update)}}
        file, fresh = folder / self._status_file, folder / f".{self._status_file}.tmp"
        try:
            fresh.write_bytes(write_statuses(rows))
            fresh.replace(file)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise RegistryError(f"{file}: {error.strerror}") from error
            self._unwritten[update.model] = rows
        else:
            self._unwritten.pop(update.model, None)

    def _statuses(self, model: str) -> Mapping[str, Mapping[str, str]]:
        """The tags of ours by version."""
        unwritten = self._unwritten.get(model)
        if unwritten is not None:
            for version, row in unwritten.items():
                status = f"{row[STATUS_TAG]}: {row[MESSAGE_TAG]}".removesuffix(": ")
                path = self._folder / model / version
                self._complaints.add(path, status, f"{self._status_file} cannot be written")
            return unwritten
        try:
            file = self._folder / model / self._status_file
            return read_statuses(read(file, STATUS_BYTES_MAX)[0])
        except OSError:
            return {}

    # One model

    def _observed(
        self, poll: _Poll, name: str, known: Collection[str], *, hangs: bool
    ) -> ObservedModel:
        if not self._admitted.admits_name(name):
            return ObservedModel(name, left_out=True)
        return self._hanging(name, known) if hangs else self._model(poll, name, known)

    def _model(self, poll: _Poll, name: str, known: Collection[str]) -> ObservedModel:
        self._look_at(self._folder / name)
        statuses: Mapping[str, Mapping[str, str]] = {}
        listed: list[str] = []
        try:
            statuses = self._statuses(name)
            _check_link(self._folder / name)
            listed = list_versions(self._folder / name, self._complaints)
            model_tags = self._read_tags(poll, self._folder / name, "")
            if not self._admitted.admits(name, model_tags.tags):
                return ObservedModel(name, left_out=True)
            wishes = self._wishes(poll, name, {*listed, *known}, known)
            shown = {version for version, row in statuses.items() if not _is_last(row)}
            wanted = self._wanted(model_tags, wishes, {*known, *shown})
            sources = self._sources(poll, name, wanted, known)
            default = ""
            if self._latest and not self._names_stable(model_tags, wishes):
                default = self._name_latest(poll, name, wishes, sources, known)
        except Exception as error:  # whatever is wrong with one model, the others are seen
            if isinstance(error, _UnsettledError) and not known:
                return ObservedModel(name)
            return self._unreadable(name, {*listed, *known}, statuses, _problem(error))
        versions = [
            ObservedVersion(name, version, source, {**wishes[version], **statuses.get(version, {})})
            for version, source in sources.items()
        ]
        return ObservedModel(
            name=name,
            tags=self._names.inward(model_tags.tags),
            aliases=model_tags.aliases,
            versions=tuple(sorted(versions, key=lambda seen: version_order(seen.version))),
            default=default,
        )

    def _hanging(self, name: str, known: Collection[str]) -> ObservedModel:
        return self._unreadable(name, known, {}, HANGS)

    def _unreadable(
        self,
        name: str,
        versions: Collection[str],
        statuses: Mapping[str, Mapping[str, str]],
        problem: str,
    ) -> ObservedModel:
        self._complaints.add(self._folder / name, problem)
        observed = [
            ObservedVersion(name, version, self._source((str(self._folder), "")), row)
            for version in sorted(versions, key=version_order)
            for row in [statuses.get(version, {})]
        ]
        return ObservedModel(name=name, versions=tuple(observed), problem=problem)

    def _wanted(
        self, tags: Tags, wishes: Mapping[str, Mapping[str, str]], also: Collection[str]
    ) -> list[str]:
        """Versions that are named; where an alias names what is not there, one to tell of it."""
        aliased = {tags.aliases[alias] for alias in self._aliases if alias in tags.aliases}
        if not aliased <= wishes.keys():
            aliased |= {max(wishes, key=version_order, default="")}
        return [
            version
            for version, own in wishes.items()
            if role_of(own) or version in aliased or version in also
        ]

    def _names_stable(self, tags: Tags, wishes: Mapping[str, Mapping[str, str]]) -> bool:
        """Whether the operator named something stable, or meant to."""
        named = any(role_of(own) not in ("", OFF) for own in wishes.values())
        return named or any(alias in tags.aliases for alias in self._aliases)

    def _name_latest(
        self,
        poll: _Poll,
        name: str,
        wishes: dict[str, dict[str, str]],
        sources: dict[str, ArtifactSource],
        known: Collection[str],
    ) -> str:
        """Name the highest version stable; returns it, or nothing if there is none."""
        for version in sorted(wishes, key=version_order, reverse=True):
            if role_of(wishes[version]):
                continue
            if version not in sources:
                sources.update(self._sources(poll, name, [version], known))
            if version in sources:
                wishes[version] = {**wishes[version], ROLE_TAG: STABLE}
                return version
        return ""

    # Tags

    def _wishes(
        self, poll: _Poll, name: str, versions: Collection[str], known: Collection[str]
    ) -> dict[str, dict[str, str]]:
        """The tags of each version; one that is new, and is being written, is not there yet."""
        wishes = {}
        for version in sorted(versions, key=version_order):
            folder = self._folder / name / version
            try:
                read_here = self._read_tags(poll, folder, f" of version {version}").tags
                tags = self._names.inward(read_here)
            except _UnsettledError:
                if version in known:
                    raise
                continue
            wishes[version] = {tag: text for tag, text in tags.items() if tag not in OWN_TAGS}
        return wishes

    def _read_tags(self, poll: _Poll, folder: Path, of: str) -> Tags:
        path = folder / TAGS_FILE
        poll.tags.add(path)
        text, changed_at = read(path, TAGS_BYTES_MAX)
        vanished = not text and self._tags.last(path) is not None
        age_s = NEVER_S if vanished else poll.wall - changed_at
        settled = self._tags.see(path, text, poll.now, age_s=age_s)
        if settled is None:
            raise _UnsettledError(f"{TAGS_FILE}{of} is being written")
        try:
            return read_tags(settled)
        except MalformedError as error:
            raise _ModelProblemError(f"{TAGS_FILE}{of}: {error}") from error

    # Content

    def _sources(
        self, poll: _Poll, name: str, versions: Collection[str], known: Collection[str]
    ) -> dict[str, ArtifactSource]:
        """Where the content of these versions is; those without any are left out."""
        sources = {}
        for version in versions:
            where = self._where(poll, (name, version))
            if where is None and version in known:
                raise _ModelProblemError(f"version {version} is being written, or cannot be read")
            if where is not None and where != ABSENT:
                sources[version] = self._source(where)
        return sources

    def _where(self, poll: _Poll, key: VersionKey) -> Where | None:
        """The content that counts; None if nothing is known to have come to rest."""
        poll.contents.add(key)
        path = self._folder / key[0] / key[1]
        self._look_at(path)
        try:
            _check_link(path)
            where, changed_at = look(path)
        except FileNotFoundError:  # it changes as we look
            return self._contents.last(key)
        except (OSError, ArtifactError, _ModelProblemError) as error:
            self._complaints.add(path, _problem(error))
            return self._contents.last(key)
        vanished = where == ABSENT and self._contents.last(key) is not None
        age_s = NEVER_S if vanished else poll.wall - changed_at
        settled = self._contents.see(key, where, poll.now, age_s=age_s)
        if settled is None:
            self._complaints.add(path, "it is being written")
        return settled

    def _source(self, where: Where) -> ArtifactSource:
        return ArtifactSource(uri=f"{FOLDER_SCHEME}{where[0]}", tracking_uri="", identity=where[1])


def _is_last(status: Mapping[str, str]) -> bool:
    return status.get(STATUS_TAG) in OVER


def _problem(error: Exception) -> str:
    """What is wrong, for the operator."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, (_ModelProblemError, ArtifactError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _check_link(path: Path) -> None:
    """Look whether a path is a link to what is not there.

    Raises:
        _ModelProblemError: if it is one.
    """
    if is_dangling(path):
        raise _ModelProblemError(DANGLING)
