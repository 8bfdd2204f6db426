"""What a model says of one tensor that it takes or gives."""

from __future__ import annotations

from penstock.shared.contracts.document import Document


class TensorSpec(Document):
    """What a model takes or gives under one name.

    Attributes:
        name: the tensor's name.
        datatype: an Open Inference Protocol datatype.
        shape: one entry per dimension, -1 where any size will do.
        optional: an input that requests may leave out.
        text: elements of BYTES that are to be UTF-8, since the model takes them as text.
        structured: elements of BYTES are JSON texts, since no tensor carries what they say.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False
    text: bool = False
    structured: bool = False

    def describe(self) -> str:
        """As in error messages: `FP32[-1,64]`."""
        return f"{self.datatype}{list(self.shape)}".replace(" ", "")
