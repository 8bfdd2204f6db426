"""What a job came to, as a file: the answer's JSON, or a picture of its first output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.jobs.png import grey_png

PICTURE = ".png"
SCALE = 16
"""A pixel of the model becomes a square of so many."""

IMAGES_MAX = 64
"""Images side by side in one picture; more are left out."""


def write_result(answer: bytes, output: Path) -> None:
    """Write an answer of the inference protocol to a file, by its name's ending.

    Args:
        answer: JSON.
        output: `.png`: its first output as grey images side by side; else the answer as it is.

    Raises:
        CommandError: if the file cannot be written, or the output is no picture.
    """
    data = picture_of(answer) if output.suffix.lower() == PICTURE else answer
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}") from error


def picture_of(answer: bytes) -> bytes:
    """A PNG of an answer's first output, numbers from 0 (black) to 1 (white).

    Args:
        answer: its first output is [height, width], or [images, height, width].

    Raises:
        CommandError: if it is not.
    """
    try:
        output = orjson.loads(answer)["outputs"][0]
        images: NDArray[Any] = np.array(output["data"], np.float64).reshape(output["shape"])
        images = images.reshape(-1, *images.shape[-2:])[:IMAGES_MAX]
        return grey_png(np.concatenate(list(images), axis=1), SCALE)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CommandError(
            f"the result is no picture ({error}); name a file without .png"
        ) from None
