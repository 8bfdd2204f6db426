"""What `penstock up` prints once everything runs: URLs, and commands to paste."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from penstock.deploy.local.system.system_file import SystemFile
from penstock.registry_sync.sources.types import ROLE_TAG

DEMO_MODEL = "digits"
DEMO_INPUT = "image"

# fmt: off
TEST_IMAGE = (
    0, 0, 0, 15, 12,  1, 0, 0,
    0, 0, 5, 16, 16,  6, 0, 0,
    0, 0, 2, 16, 16,  3, 0, 0,
    0, 0, 2, 16, 16,  1, 0, 0,
    0, 0, 6, 16, 13,  0, 0, 0,
    0, 0, 1, 16, 16,  2, 0, 0,
    0, 0, 3, 16, 15,  3, 0, 0,
    0, 0, 0, 15, 16,  1, 0, 0,
)
# fmt: on
"""The first image of the test split, a one; here, so that the launcher needs no scikit-learn."""

TEST_IMAGE_LABEL = 1


def predict_command(url: str) -> str:
    """Classify a real image."""
    image = {
        "name": DEMO_INPUT,
        "shape": [1, len(TEST_IMAGE)],
        "datatype": "FP32",
        "data": TEST_IMAGE,
    }
    return _post(f"{url}/v2/models/{DEMO_MODEL}/infer", {"inputs": [image]})


def swap_command(mlflow_uri: str, role: str = ROLE_TAG) -> str:
    """Tag version 2 stable in MLflow."""
    body = {"name": DEMO_MODEL, "version": "2", "key": role, "value": "stable"}
    return _post(f"{mlflow_uri.rstrip('/')}/api/2.0/mlflow/model-versions/set-tag", body)


def status_command(url: str) -> str:
    """Ask a gateway what it serves."""
    return f"curl -s {shlex.quote(f'{url}/v2/models/{DEMO_MODEL}')}"


def describe_system(
    system: SystemFile,
    logs: Path,
    webhook_secret: Path | None,
    *,
    demo: bool,
    role: str = ROLE_TAG,
) -> str:
    """Where everything is, and with `demo` three commands that work when pasted.

    Args:
        system: what runs.
        logs: their folder.
        webhook_secret: the file with it; None: the operator has one of their own, or none.
        demo: whether the demo's model is there.
        role: the tag that names a version stable.
    """
    lines = [
        "",
        "Penstock is running.",
        f"  gateway   {system.url}  (API: {system.url}/docs)",
        _registry_line(system),
    ]
    if system.metrics_url:
        lines.append(f"  metrics   {system.metrics_url}")
    if webhook_secret is not None:
        lines.append(f"  webhooks  signed by the secret in {shlex.quote(str(webhook_secret))}")
    lines.append(f"  logs      tail -F {shlex.quote(str(logs))}/*.log")
    if demo:
        lines += [
            "",
            "Classify an image of a handwritten one:",
            f"  {predict_command(system.url)}",
            "",
            "Swap to version 2 by a tag in MLflow; within seconds answers say model_version 2:",
            f"  {swap_command(system.mlflow_uri, role)}",
            "",
            "See what is served:",
            f"  {status_command(system.url)}",
        ]
    return "\n".join([*lines, "", "Ctrl-C drains and ends everything."])


def _registry_line(system: SystemFile) -> str:
    if system.models:
        return f"  models    {shlex.quote(system.models)}  (a folder; no MLflow server is started)"
    return f"  MLflow    {system.mlflow_uri}"


def _post(url: str, body: object) -> str:
    text = json.dumps(body, separators=(",", ":"))
    header = "-H 'content-type: application/json'"
    return f"curl -s {shlex.quote(url)} {header} -d {shlex.quote(text)}"
