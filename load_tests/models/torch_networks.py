"""Two networks of the sizes that people know, in plain torch, with random weights.

They cost what ResNet-50 (v1.5, 25.6 million parameters) and BERT-base (110 million, with its
pooler) cost, layer for layer; what they answer means nothing. Images come as FP32, tokens as
INT64, and FP32 is what comes out, whatever the weights are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4
BRANCH_SCALE = 0.3
"""Of the last normalization of a block, so that sums over all blocks stay small in bf16, too."""

WEIGHT_STD = 0.02
NORM_EPS = 1e-12
"""As BERT has them."""


@dataclass(frozen=True)
class ResNetSize:
    """A network for square images of three channels; by default ResNet-50.

    Attributes:
        blocks: in each stage; every stage but the first halves the image and doubles the width.
        width: of the first stage.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    pixels: int = 224
    classes: int = 1000


@dataclass(frozen=True)
class BertSize:
    """An encoder of token sequences of one length; by default BERT-base."""

    vocabulary: int = 30522
    positions: int = 512
    tokens: int = 128
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    feed_forward: int = 3072


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(_convolution(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU()),
            *(_convolution(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU()),
            _convolution(width, width * EXPANSION, 1),
        )
        self.last = nn.BatchNorm2d(width * EXPANSION)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width * EXPANSION:
            self.shortcut = nn.Sequential(
                _convolution(channels, width * EXPANSION, 1, stride),
                nn.BatchNorm2d(width * EXPANSION),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape, or that of the next stage."""
        return functional.relu(self.last(self.branch(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """`x`: [n, 3, pixels, pixels]; returns scores of the classes."""

    def __init__(self, size: ResNetSize) -> None:
        super().__init__()
        channels = size.width
        self.stem = nn.Sequential(
            _convolution(3, channels, 7, 2),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks = []
        for stage, count in enumerate(size.blocks):
            width = size.width << stage
            for block in range(count):
                blocks.append(Bottleneck(channels, width, 2 if stage and not block else 1))
                channels = width * EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, size.classes)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        features: Tensor = self.blocks(self.stem(x.to(self.head.weight.dtype)))
        scores: Tensor = self.head(features.mean((2, 3)))
        return scores.float()


class EncoderLayer(nn.Module):
    """Attention of all tokens to all, then a feed-forward network; normalized after each."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.heads = size.heads
        self.query = nn.Linear(size.hidden, size.hidden)
        self.key = nn.Linear(size.hidden, size.hidden)
        self.value = nn.Linear(size.hidden, size.hidden)
        self.together = nn.Linear(size.hidden, size.hidden)
        self.attended = nn.LayerNorm(size.hidden, NORM_EPS)
        self.wide = nn.Linear(size.hidden, size.feed_forward)
        self.narrow = nn.Linear(size.feed_forward, size.hidden)
        self.fed = nn.LayerNorm(size.hidden, NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        query, key, value = (self._split(of(x)) for of in (self.query, self.key, self.value))
        heads = functional.scaled_dot_product_attention(query, key, value)
        x = self.attended(x + self.together(heads.transpose(1, 2).flatten(2)))
        out: Tensor = self.fed(x + self.narrow(functional.gelu(self.wide(x))))
        return out

    def _split(self, x: Tensor) -> Tensor:
        rows, tokens, hidden = x.shape
        return x.view(rows, tokens, self.heads, hidden // self.heads).transpose(1, 2)


class Bert(nn.Module):
    """`x`: ids, [n, tokens], of sequences that fill it; returns the pooled first token."""

    def __init__(self, size: BertSize) -> None:
        super().__init__()
        self.tokens = size.tokens
        self.words = nn.Embedding(size.vocabulary, size.hidden)
        self.positions = nn.Embedding(size.positions, size.hidden)
        self.segments = nn.Embedding(2, size.hidden)
        self.embedded = nn.LayerNorm(size.hidden, NORM_EPS)
        self.layers = nn.Sequential(*(EncoderLayer(size) for _ in range(size.layers)))
        self.pooler = nn.Linear(size.hidden, size.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        places = self.positions.weight[: self.tokens] + self.segments.weight[0]
        hidden: Tensor = self.layers(self.embedded(self.words(x) + places))
        pooled: Tensor = self.pooler(hidden[:, 0])
        return pooled.tanh().float()


def make_network(
    size: ResNetSize | BertSize, dtype: torch.dtype, seed: int, inputs: Tensor
) -> nn.Module:
    """A network for inference on the CPU, with weights of a type, from a seed.

    Args:
        inputs: what it will be asked. Normalized by what it sees of them, as training leaves it,
            a deep network of random weights tells one from another.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = shell(size)
        module.apply(_draw)
    if isinstance(module, ResNet):
        with torch.no_grad():
            module.train()(inputs)
    return module.eval().requires_grad_(False).to(dtype)


def shell(size: ResNetSize | BertSize) -> nn.Module:
    """A network as torch initializes it."""
    return ResNet(size) if isinstance(size, ResNetSize) else Bert(size)


def parameters_count(module: nn.Module) -> int:
    """How many there are to be learnt."""
    return sum(parameter.numel() for parameter in module.parameters())


def _convolution(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)


def _draw(module: Any) -> None:
    """Weights as one would train from; the shortcuts of a deep network are not to drown."""
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0  # all of the one batch that it sees
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=WEIGHT_STD)
    elif isinstance(module, EncoderLayer):
        for child in module.children():
            if isinstance(child, nn.Linear):
                nn.init.normal_(child.weight, std=WEIGHT_STD)
                nn.init.zeros_(child.bias)
    elif isinstance(module, Bottleneck):
        nn.init.constant_(module.last.weight, BRANCH_SCALE)
