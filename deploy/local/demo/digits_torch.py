"""The demo's model `digits-torch`: a small network, in PyTorch's own exported format.

Imported only where torch is installed.
"""

from __future__ import annotations

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from penstock.deploy.local.demo.digits import Digits

MODEL = "digits-torch"
PIXEL_MAX = 16.0
STEPS = 150

SIGNATURE = ModelSignature(
    # Without a name, as MLflow's own scoring wants it; Penstock takes the graph's: `image`.
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 64))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 10), "logits")]),
)


def log(digits: Digits) -> None:
    """Train and log it."""
    network = _trained(digits)
    with torch.inference_mode():
        labels = network(torch.from_numpy(digits.test_images)).argmax(dim=1).numpy()
    accuracy = float(np.mean(labels == digits.test_labels))
    print(f"{MODEL}: accuracy {accuracy:.3f} on {len(labels)} test images")
    mlflow.pytorch.log_model(
        network,
        name=MODEL,
        signature=SIGNATURE,
        # PyTorch takes a size of one for fixed: with two rows, any number will do.
        input_example=digits.test_images[:2],
        registered_model_name=MODEL,
        pip_requirements=[],
    )


class _Network(torch.nn.Module):
    """One hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image / PIXEL_MAX)
        return logits


def _trained(digits: Digits) -> torch.nn.Module:
    torch.manual_seed(0)
    network = _Network()
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval()
