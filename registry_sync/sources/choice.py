"""Which registry is followed, by the settings. MLflow's client is loaded only if it is."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.folder_source import FolderSource
from penstock.registry_sync.sources.types import RegistryError, RegistrySource
from penstock.shared.process.clock import Clock


def maker_of(settings: SyncSettings, clock: Clock) -> Callable[[], RegistrySource]:
    """What makes the source of the registry to follow, any number of times.

    Raises:
        RegistryError: if it is MLflow, whose client is not installed.
    """
    aliases, names = settings.stable_aliases, TagNames(settings.tag_prefix)
    admitted = settings.model_filter()
    if (folder := settings.models) is not None:
        return lambda: FolderSource(
            folder,
            aliases,
            clock,
            default_role=settings.folder_default_role,
            settle_s=settings.folder_settle_s,
            names=names,
            admitted=admitted,
        )
    try:
        mlflow_source = importlib.import_module("penstock.registry_sync.sources.mlflow_source")
    except ModuleNotFoundError as error:
        raise RegistryError(
            "following MLflow needs its client, which is not installed: "
            "pip install 'penstock[sync]'; a folder is followed by --models"
        ) from error
    mlflow_source.configure_client(settings.mlflow_timeout_s)

    def make() -> RegistrySource:
        source: RegistrySource = mlflow_source.MlflowSource(
            settings.mlflow_uri, aliases, names, admitted
        )
        return source

    return make
