"""A process that downloads one model into the artifact cache and ends.

    python -m penstock.shared.artifacts.fetch CACHE_DIR < FetchRequest > FetchOutcome

It exists because the download is long, blocks, and imports MLflow, none of which belongs into a
service (`penstock.shared.process.child_task`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from setproctitle import setproctitle

from penstock.shared.artifacts.cache import FetchOutcome, FetchRequest
from penstock.shared.artifacts.folder import ArtifactError, CacheFolder
from penstock.shared.contracts.deployment import ArtifactManifest, ArtifactSource
from penstock.shared.process.child_task import answer

MESSAGE_LENGTH_MAX = 400
"""Longest error that is passed on: how what MLflow says begins, for the operator. Its first line
may be a heading that names no reason."""

MLFLOW_LEFTOVER = "registered_model_meta"
"""MLflow's client adds this file to what it downloads; it is no part of the model."""

MODELS_SCHEME = "models:/"

_PLAIN_NAME = re.compile(r"[\w.\- ]+")

ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""How MLflow's client behaves here, unless the environment says otherwise: a failure is soon told
to registry_sync or the agent, which try again with a backoff of their own."""


def fetch(disk: CacheFolder, request: FetchRequest) -> ArtifactManifest:
    """Download, hash, compare and publish, unless somebody else just did.

    Raises:
        ArtifactError: if anything is not as it should be.
    """
    return disk.obtain(
        request.source, request.manifest, lambda folder: _download(request.source, folder)
    )


def odd_name_in(uri: str) -> tuple[str, str] | None:
    """Name and version in `models:/NAME/VERSION`, if MLflow would not find the name in there."""
    if not uri.startswith(MODELS_SCHEME):
        return None
    name, _, version = uri.removeprefix(MODELS_SCHEME).rpartition("/")
    return None if not name or _PLAIN_NAME.fullmatch(name) else (name, version)


def _download(source: ArtifactSource, folder: Path) -> Path:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Takes seconds, and whoever waited for another's download does not need it.
    import mlflow  # noqa: PLC0415

    mlflow.set_tracking_uri(source.tracking_uri)
    mlflow.set_registry_uri(source.tracking_uri)
    try:
        named = odd_name_in(source.uri)
        if named is None:
            uri = source.uri
        else:  # its characters would mean something in a URI
            client = mlflow.MlflowClient(source.tracking_uri, source.tracking_uri)
            uri = client.get_model_version_download_uri(*named)
        path = mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=source.tracking_uri
        )
    except Exception as error:  # MLflow lets everything through: its own, requests', cloud SDKs'
        text = " ".join(str(error).split())
        message = f"{type(error).__name__}: {text}"[:MESSAGE_LENGTH_MAX]
        raise ArtifactError(f"it could not be downloaded: {message}") from error
    written = Path(path)
    if not written.is_dir():
        raise ArtifactError("it is a single file, not a model's folder")
    (written / MLFLOW_LEFTOVER).unlink(missing_ok=True)
    return written


def _outcome(cache: Path, request: FetchRequest) -> FetchOutcome:
    setproctitle(f"penstock fetch {request.source.uri.rpartition('@')[2]}")
    try:
        return FetchOutcome(manifest=fetch(CacheFolder(cache), request))
    except ArtifactError as error:
        return FetchOutcome(error=error.message)
    except OSError as error:
        return FetchOutcome(error=f"the cache cannot be written: {error.strerror}")


def main() -> None:
    """Read a request, fetch, write the outcome."""
    answer(FetchRequest, _outcome)


if __name__ == "__main__":
    main()
