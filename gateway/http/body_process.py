"""The process that reads large bodies: `python -m penstock.gateway.http.body_process FD`.

As `penstock.gateway.http.app` does for the gateway, it puts together what knows no front, which is
`penstock.gateway.http.bodies.process`, and the fronts' formats.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.gateway.http.bodies.process import Read, main
from penstock.gateway.http.oip.codec import parse_infer
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import RawHeaders
from penstock.gateway.http.scoring.formats import read_kserve, read_mlflow
from penstock.gateway.http.server.headers import json_length_of
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.tensors import Buffer


def read_infer(
    body: Buffer, headers: RawHeaders, interface: ModelInterface, max_elements: int
) -> ParsedInfer:
    """Tensors that fit the model, from a request of the Open Inference Protocol."""
    return parse_infer(body, json_length_of(headers), interface, max_elements)


READERS: Mapping[str, Read] = {"oip": read_infer, "mlflow": read_mlflow, "kserve": read_kserve}
"""By the name of the payload format."""

if __name__ == "__main__":
    main(READERS)
