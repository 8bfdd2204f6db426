"""`penstock demo-diffusion`: train a small generative model, and log it to MLflow.

What is logged is `penstock.deploy.local.demo.diffusion_model`, the weights, and nothing of
Penstock.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, Schema, TensorSpec
from rich.console import Console
from rich.progress import Progress
from sklearn.svm import SVC

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.demo import diffusion_model
from penstock.deploy.local.demo.diffusion_model import DIGITS, SIDE, WEIGHTS, Weights, draw
from penstock.deploy.local.demo.diffusion_training import PIXEL_MAX, train
from penstock.deploy.local.demo.digits import Digits, load_split
from penstock.deploy.local.demo.versions import log_versions
from penstock.deploy.local.system.system_file import read_system
from penstock.registry_sync.sources.mlflow_source import configure_client

MODEL = "digits-diffusion"
MLFLOW_TIMEOUT_S = 30.0

CHECK_IMAGES_OF_EACH = 10
CHECK_STEPS = 50

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec("long", "digit"),
            ColSpec("long", "steps", required=False),
            ColSpec("long", "seed", required=False),
        ]
    ),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, SIDE, SIDE), "image")]),
)


def run_demo_diffusion(mlflow_uri: str | None, data_dir: Path, training_steps: int) -> int:
    """Train and log the model, unless that was done before; returns 0.

    Raises:
        CommandError: if there is no MLflow, or it does not take the model.
    """
    uri = mlflow_uri or read_system(data_dir).mlflow_uri
    if not uri:
        raise CommandError(f"the system on {data_dir} follows a folder; name an MLflow server")
    configure_client(MLFLOW_TIMEOUT_S)
    mlflow.set_tracking_uri(uri)
    log = partial(log_diffusion, training_steps=training_steps)
    try:
        log_versions(MlflowClient(), MODEL, {"1": log}, load_split())
    except MlflowException as error:
        raise CommandError(f"MLflow at {uri}: {error.message:.300}") from error
    return 0


def log_diffusion(digits: Digits, training_steps: int) -> None:
    """Train the model for so many steps, say how well it draws, and log it."""
    weights = _trained(digits, training_steps)
    share = recognised(weights, digits)
    print(f"{MODEL}: {share:.0%} of its images are classified as the digit that was asked for")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / f"{WEIGHTS}.npz"
        np.savez(archive, allow_pickle=False, **weights)
        mlflow.pyfunc.log_model(
            name=MODEL,
            python_model=diffusion_model.__file__,
            artifacts={WEIGHTS: str(archive)},
            signature=SIGNATURE,
            registered_model_name=MODEL,
            pip_requirements=["numpy", "pandas"],
        )


def recognised(weights: Weights, digits: Digits) -> float:
    """Which share of drawn images a classifier of real ones takes for the digit asked for."""
    classifier = SVC(gamma="scale").fit(digits.train_images, digits.train_labels)
    asked = np.repeat(np.arange(DIGITS), CHECK_IMAGES_OF_EACH)
    steps = np.full_like(asked, CHECK_STEPS)
    *_, images = draw(weights, asked, steps, np.arange(len(asked)))
    return float(classifier.score((images + 1) * (PIXEL_MAX / 2), asked))


def _trained(digits: Digits, steps: int) -> Weights:
    with Progress(console=Console(highlight=False, markup=False)) as progress:
        task = progress.add_task(f"training {MODEL}", total=steps)
        return train(digits, steps, partial(progress.advance, task))
