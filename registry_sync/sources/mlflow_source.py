"""MLflow's model registry as a `RegistrySource`.

Which versions are read: those with a role tag, those with a status of ours that is not yet the last
one, those that an alias of ours names, and those that are deployed. The first two are one search
each, and the others are almost always among them, so a poll takes three requests however many
versions there are. Every poll reads all of it: a tag that was edited moves no time stamp, and a
search returns no aliases of versions (models have them).

An MLflow that has no models at all, although some are deployed, is taken for one that lost its
database, or for something else that answers in its stead: a registry is away then, and not empty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from penstock.registry_sync.plan.model_filter import EVERY_MODEL, ModelFilter
from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.sources.causes import explained
from penstock.registry_sync.sources.types import (
    OVER,
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
)
from penstock.shared.contracts.deployment import ArtifactSource

MODELS_PER_PAGE = 1000
VERSIONS_PER_PAGE = 10_000

_NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"

Answer = TypeVar("Answer")


def configure_client(timeout_s: float) -> None:
    """Make this process's MLflow client fail fast, unless the environment says otherwise.

    By default it retries seven times with two minutes each: an outage would block for a quarter of
    an hour, and polling repeats everything anyway.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(timeout_s))))
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


class MlflowSource:
    """One MLflow server.

    Args:
        tracking_uri: as for MLflow's own client.
        aliases: those that are wishes; versions named by others are not read.
        names: how the tags of this system are named.
        admitted: the models that this system follows.
    """

    def __init__(
        self,
        tracking_uri: str,
        aliases: Collection[str],
        names: TagNames = DEFAULT_NAMES,
        admitted: ModelFilter = EVERY_MODEL,
    ) -> None:
        self._names = names
        self._admitted = admitted
        status_tag = names.outward(STATUS_TAG)
        self._queries = (
            f"tags.`{names.outward(ROLE_TAG)}` LIKE '%'",
            " AND ".join(f"tags.`{status_tag}` != '{status.value}'" for status in sorted(OVER)),
        )
        self._tracking_uri = tracking_uri
        self._aliases = frozenset(aliases)
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    @property
    def model_at(self) -> str:
        """See `RegistrySource`: all models come in the same answers."""
        return ""

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        """See `RegistrySource`."""
        return self._guarded(lambda: self._observe(known))

    def write_status(self, update: StatusUpdate) -> None:
        """See `RegistrySource`."""
        self._guarded(lambda: self._write(update))

    def _observe(self, known: Collection[VersionKey]) -> Registry:
        models = list(
            _pages(
                lambda token: self._client.search_registered_models(
                    max_results=MODELS_PER_PAGE, page_token=token
                )
            )
        )
        if known and not models:
            raise NoModelsError(
                f"{self.place} lists no models: did it lose its database? What is deployed goes on "
                "(`penstock off` ends it)"
            )
        names = {model.name for model in models if self._admits(model)}
        there = {model.name for model in models}
        for name in sorted({model for model, _ in known} - there):
            if (unlisted := self._unlisted(name)) is not None:
                models.append(unlisted)
                names |= {name} if self._admits(unlisted) else set()
        versions: dict[VersionKey, ObservedVersion] = {}
        for query in self._queries:
            for found in self._search(query):
                versions[found.model, found.version] = found
        aliased = {
            (model.name, str(version))
            for model in models
            for alias, version in model.aliases.items()
            if alias in self._aliases and model.name in names
        }
        for key in sorted({*aliased, *known} - versions.keys()):
            seen = self._version(*key) if key[0] in names else None
            if seen is not None:
                versions[key] = seen
        by_model: dict[str, list[ObservedVersion]] = {}
        for version in versions.values():
            by_model.setdefault(version.model, []).append(version)
        left_out = {model for model, _ in known} & {model.name for model in models} - names
        return {
            **{name: ObservedModel(name, left_out=True) for name in left_out},
            **{
                model.name: self._model(model, by_model.get(model.name, []))
                for model in models
                if model.name in names
            },
        }

    def _admits(self, model: Any) -> bool:
        return self._admitted.admits(model.name, model.tags)

    def _model(self, model: Any, versions: Iterable[ObservedVersion]) -> ObservedModel:
        return ObservedModel(
            name=model.name,
            tags=self._names.inward(model.tags),
            aliases={alias: str(version) for alias, version in model.aliases.items()},
            versions=tuple(sorted(versions, key=lambda seen: seen.version)),
        )

    def _search(self, query: str) -> list[ObservedVersion]:
        found = _pages(
            lambda token: self._client.search_model_versions(
                query, max_results=VERSIONS_PER_PAGE, page_token=token
            )
        )
        return [self._observed(version) for version in found]

    def _unlisted(self, name: str) -> Any | None:
        """A model that is deployed and was not listed, or None if it was deleted.

        Pages count from the beginning: while others are deleted, one may fall between two of them.
        """
        model = self._found(lambda: self._client.get_registered_model(name))
        self._expect(model is None or model.name == name, name)
        return model

    def _version(self, name: str, version: str) -> ObservedVersion | None:
        found = self._found(lambda: self._client.get_model_version(name, version))
        if found is None:
            return None
        seen = self._observed(found)
        self._expect((seen.model, seen.version) == (name, version), f"{name}/{version}")
        return seen

    def _found(self, get: Callable[[], Any]) -> Any | None:
        try:
            return get()
        except MlflowException as error:
            if error.error_code == _NOT_FOUND:
                return None
            raise

    def _expect(self, told: bool, what: str) -> None:
        """An empty answer, as a proxy gives, is none about what was asked for."""
        if not told:
            raise RegistryError(f"the answer about {what} names something else ({self.place})")

    def _observed(self, version: Any) -> ObservedVersion:
        source = ArtifactSource(
            uri=f"models:/{version.name}/{version.version}",
            tracking_uri=self._tracking_uri,
            # A deleted model that is registered again starts with version 1 again.
            identity=f"{version.creation_timestamp} {version.source}",
        )
        tags = self._names.inward(version.tags)
        changed_ms = version.last_updated_timestamp
        return ObservedVersion(
            version.name,
            str(version.version),
            source,
            tags,
            registered_by=version.user_id or "",
            updated_at=changed_ms / 1000 if changed_ms else None,
        )

    def _write(self, update: StatusUpdate) -> None:
        # The status goes last: with it, the poll that repairs a half-written pair sees both.
        for tag, value in tags_of(update).items():
            name = self._names.outward(tag)
            self._client.set_model_version_tag(update.model, update.version, name, value)

    def _guarded(self, call: Callable[[], Answer]) -> Answer:
        """Call MLflow, and have all that it raises in such a call as one error of ours."""
        try:
            return call()
        except RegistryError:
            raise
        except Exception as error:  # its own, requests', and protobuf's where a proxy answers
            raise RegistryError(explained(error, self.place)) from error

    @property
    def place(self) -> str:
        """See `RegistrySource`; without a password."""
        return f"MLflow at {self._tracking_uri.rpartition('@')[2]}"


def _pages(search: Callable[[str | None], Any]) -> Iterable[Any]:
    token: str | None = None
    while True:
        page = search(token)
        yield from page
        token = page.token
        if not token:
            return
