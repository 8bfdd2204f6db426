"""What the GPU scenario runs: which networks, how large, on which device."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from load_tests.measuring.session import SAMPLES, Size
from load_tests.models.small import SEED
from load_tests.models.torch_networks import BertSize, ResNetSize
from load_tests.server import Inputs, NotHereError

TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""As shares of the largest element. FP32 on a GPU: a convolution may use TF32, of 10 bits, in one
batch size and not in another."""

PATCHES = 7
"""On an edge of an image, which has a colour of its own: pure noise would all look alike."""

HOW_ON_CPU = "python -m load_tests run gpu --device cpu --size small"


@dataclass(frozen=True)
class Case:
    """One network with weights of one type.

    Attributes:
        swapped: whether a swap is measured, too.
    """

    name: str
    size: ResNetSize | BertSize
    dtype: torch.dtype
    swapped: bool = True

    @property
    def tolerance(self) -> float:
        """See `TOLERANCES`."""
        return TOLERANCES[self.dtype]

    def samples(self) -> Sequence[Inputs]:
        """Inputs of one row each."""
        rng = np.random.default_rng(SEED)
        if isinstance(self.size, ResNetSize):
            return [_image(rng, self.size.pixels) for _ in range(SAMPLES)]
        shape = (1, self.size.tokens)
        return [rng.integers(0, self.size.vocabulary, shape) for _ in range(SAMPLES)]


@dataclass(frozen=True)
class Plan:
    """What is done with each case.

    Attributes:
        batches: sizes at which torch alone is tried; the best becomes the limit of ours.
        alone_s: of each such trial.
        warm_up_s: of ours; to verify its answers warms it up, too.
        swap_s: of the load around the swap; loading the new version is to fit in.
        swap_rps_max: limit of its rate: all answers are kept, and on a CPU loading a version takes
            the time that answers would take.
    """

    cases: Sequence[Case]
    concurrencies: Sequence[int]
    batches: Sequence[int]
    alone_s: float
    warm_up_s: float
    swap_s: float
    swap_rps_max: float


RESNET50, BERT_BASE = ResNetSize(), BertSize()
RESNET_SMALL = ResNetSize(blocks=(1, 1), width=16, pixels=56, classes=10)
BERT_SMALL = BertSize(1000, 64, tokens=32, hidden=64, layers=2, heads=4, feed_forward=128)

PLANS = {
    Size.FULL: Plan(
        cases=[
            Case("resnet50-fp32", RESNET50, torch.float32),
            Case("resnet50-bf16", RESNET50, torch.bfloat16),
            Case("bert-base-fp32", BERT_BASE, torch.float32),
            Case("bert-base-bf16", BERT_BASE, torch.bfloat16),
        ],
        concurrencies=(1, 4, 16, 64, 256),
        batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
        alone_s=0.5,
        warm_up_s=2.0,
        swap_s=40.0,
        swap_rps_max=1000.0,
    ),
    Size.SMALL: Plan(
        cases=[
            Case("resnet-small-fp32", RESNET_SMALL, torch.float32, swapped=False),
            Case("bert-small-bf16", BERT_SMALL, torch.bfloat16),
        ],
        concurrencies=(1, 16),
        batches=(1, 4, 16),
        alone_s=0.05,
        warm_up_s=0.0,
        swap_s=10.0,
        swap_rps_max=50.0,
    ),
}


def chosen_device(asked: str, size: Size, gpus: int) -> str:
    """Where to run.

    Args:
        asked: `cpu`, `cuda:N`, or empty: the first GPU.
        gpus: how many PyTorch sees.

    Raises:
        NotHereError: if that is not to be had, saying what is.
    """
    if asked == "cpu":
        if size is not Size.SMALL:
            raise NotHereError(f"full models on a CPU take hours; to try it: {HOW_ON_CPU}")
        return asked
    found = re.fullmatch(r"cuda:(\d{1,3})", asked or "cuda:0")
    if found is None:
        raise NotHereError(f"--device {asked!r} is neither cpu nor cuda:N")
    if int(found[1]) >= gpus:
        sees = f"sees {gpus} GPU(s)" if gpus else "sees no GPU"
        raise NotHereError(f"PyTorch {sees}; to try the scenario on a CPU: {HOW_ON_CPU}")
    return found[0]


def chosen_cases(names: Sequence[str], size: Size) -> Sequence[Case]:
    """The cases of these names, or all.

    Raises:
        NotHereError: if there is no such case.
    """
    cases = PLANS[size].cases
    known = [case.name for case in cases]
    if unknown := set(names) - set(known):
        wrong = ", ".join(sorted(unknown))
        raise NotHereError(f"{wrong}: none of {', '.join(known)}")
    return [case for case in cases if not names or case.name in names]


def describe_device(device: str) -> str:
    """Its name, for readers of results."""
    if device == "cpu":
        return "the CPU"
    return f"{device}, {torch.cuda.get_device_name(device)}"


def _image(rng: np.random.Generator, pixels: int) -> Inputs:
    colour = rng.normal(0, 1, (1, 3, 1, 1))
    patches = rng.normal(0, 0.3, (1, 3, PATCHES, PATCHES))
    noise = rng.normal(0, 0.2, (1, 3, pixels, pixels))
    edge = pixels // PATCHES
    image = colour + np.kron(patches, np.ones((edge, edge))) + noise
    return image.astype(np.float32)
