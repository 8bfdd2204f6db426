"""A document that is read by its template says what it says when it is read as a whole."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.oip.codec import parse_infer
from penstock.gateway.http.oip.templates import (
    LIST_BYTES_MAX,
    TEMPLATE_BYTES_MAX,
    TEMPLATES_MAX,
    Templates,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import PenstockError
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import DOUBLE, interface, spec, x_input

INTEGERS = interface([spec("x", "INT64", -1, 4)], max_batch_size=8)
WIDE = interface([spec("x", "FP32", -1, 500)], max_batch_size=8)


def document(**changes: object) -> bytes:
    return orjson.dumps({"inputs": [x_input(**changes)]})


def whole(text: bytes, model: ModelInterface) -> ParsedInfer | str:
    try:
        return parse_infer(text, None, model)
    except PenstockError as error:
        return error.message


def learned(text: bytes, model: ModelInterface) -> Templates:
    templates = Templates()
    templates.learn(text, parse_infer(text, None, model))
    return templates


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("spaces", [b",", b", "])
def test_another_document_of_the_same_kind(nested: bool, spaces: bytes) -> None:
    first: list[object] = [1, 2, 3, 4]
    second: list[object] = [0.5, -7, 1e-3, 123456]
    texts = [
        document(data=[data] if nested else data).replace(b",", spaces) for data in (first, second)
    ]
    read = learned(texts[0], DOUBLE.interface).read(texts[1])
    assert read == whole(texts[1], DOUBLE.interface)
    assert read is not None


def test_long_lists() -> None:
    rows = np.random.default_rng(1).random((2, 500), dtype=np.float32)
    texts = [document(shape=[1, 500], data=row.tolist()) for row in rows]
    read = learned(texts[0], WIDE).read(texts[1])
    assert read is not None
    assert bytes(read.inputs[0].data) == rows[1].tobytes()


@pytest.mark.parametrize(
    "data",
    ["[1,2,3]", "[1,2,3,true]", "[1,2,3,null]", '[1,2,3,"4"]', "[1,2,3,1e39]", "[1,[2,3,4]]"],
)
def test_what_does_not_fit_is_left_to_be_read_as_a_whole(data: str) -> None:
    templates = learned(document(), DOUBLE.interface)
    text = document().replace(b"[1,2,3,4.5]", data.encode())
    assert templates.read(text) is None


def test_fractions_are_no_integers() -> None:
    templates = learned(document(datatype="INT64", data=[1, 2, 3, 4]), INTEGERS)
    assert templates.read(document(datatype="INT64", data=[1, 2, 3, 4.5])) is None


@pytest.mark.parametrize(
    "text",
    [
        b'{"id":"7","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[9],"data":[1,2,3,4]}]}',
        b'{"parameters":{},"x":{"data":[1,2,3,4]},"inputs":[{"name":"x","datatype":"FP32",'
        b'"shape":[1,4],"data":[1,2,3,4]}]}',
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,4],"data":[[1,2,3,4],[1,2,3,4]]}]}',
    ],
)
def test_what_is_not_simple_is_not_learned(text: bytes) -> None:
    assert len(learned(text, DOUBLE.interface)) == 0


def test_long_documents_and_long_lists_are_left_to_be_read_as_a_whole() -> None:
    wide = interface([spec("x", "FP32", -1, LIST_BYTES_MAX)], max_batch_size=8)
    assert len(learned(document(shape=[1, LIST_BYTES_MAX], data=[1] * LIST_BYTES_MAX), wide)) == 0
    note = {"note": "n" * TEMPLATE_BYTES_MAX}
    assert len(learned(document(parameters=note), DOUBLE.interface)) == 0
    text = document()
    padded = text + b" " * TEMPLATE_BYTES_MAX  # the same document, but too long to be looked up
    assert learned(text, DOUBLE.interface).read(padded) is None
    assert Templates().read_binary(padded + RAW, len(padded)) is None


def test_not_more_are_remembered_than_allowed() -> None:
    templates = Templates()
    for number in range(TEMPLATES_MAX + 10):
        text = document(parameters={"note": number})
        templates.learn(text, parse_infer(text, None, DOUBLE.interface))
    assert len(templates) == TEMPLATES_MAX


PIECES = st.sampled_from(
    [
        '"data":',
        '"data": ',
        "[",
        "]",
        "[1,2,3,4]",
        "[5,6,7,8]",
        ",",
        "{",
        "}",
        '"',
        "\\",
        "1",
        "true",
    ]
)


@examples(300)
@given(
    before=st.lists(PIECES, max_size=4).map("".join),
    after=st.lists(PIECES, max_size=4).map("".join),
    lists=st.lists(
        st.lists(PIECES, max_size=4).map("".join) | st.just("[1,2,3,4]"), min_size=1, max_size=3
    ),
    extra=st.sampled_from(["", ',"data":[0,0,0,0]', ',"parameters":{}']),
)
def test_any_text_says_the_same_both_ways(
    before: str, after: str, lists: list[str], extra: str
) -> None:
    """Learn what can be learned of texts that differ in their list; read all of them again."""
    texts = [
        f'{{"a":"{before}","inputs":[{{"name":"x","datatype":"FP32","shape":[1,4],"data":{data}'
        f'{extra}}}],"b":"{after}"}}'.encode()
        for data in (*lists, "[1.5,2,3,4]")
    ]
    templates = Templates()
    for text in texts * 2:
        read = templates.read(text)
        expected = whole(text, DOUBLE.interface)
        if read is not None:
            assert read == expected
        elif isinstance(expected, ParsedInfer):
            templates.learn(text, expected)


RAW = np.arange(4, dtype=np.float32).tobytes()


def binary(text: bytes, raw: bytes) -> tuple[bytes, int]:
    return text + raw, len(text)


def binary_document(**changes: object) -> bytes:
    entry = x_input(parameters={"binary_data_size": 16}, **changes)
    del entry["data"]
    return orjson.dumps({"inputs": [entry]})


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_binary_data_behind_the_same_document(kind: type[bytes] | type[bytearray]) -> None:
    body, length = binary(binary_document(), RAW)
    templates = Templates()
    templates.learn_binary(kind(body), length, parse_infer(body, length, DOUBLE.interface))
    assert len(templates) == 1
    other, _ = binary(binary_document(), RAW[::-1])
    assert templates.read_binary(kind(other), length) == parse_infer(
        other, length, DOUBLE.interface
    )
    for wrong in (other[:-1], other + b"0", other[1:]):
        assert templates.read_binary(kind(wrong), length) is None


def test_json_data_is_not_taken_for_binary() -> None:
    text = document()
    templates = Templates()
    templates.learn_binary(text, len(text), parse_infer(text, len(text), DOUBLE.interface))
    assert len(templates) == 0
