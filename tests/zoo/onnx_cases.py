"""Graphs for ONNX Runtime, in ONNX's own text form, and whether each may be batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

from penstock.shared.wire.tensors import AnyArray
from tests.zoo.cases import BATCHED, NOT_BATCHED, Answers, Batching, Case, Inputs, Library

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '
RNG = np.random.default_rng(5)


def graph(text: str) -> Callable[[Path], Library]:
    """The way to write a graph that is given as text."""

    def make(folder: Path) -> Library:
        folder.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(HEAD + text), str(folder / "model.onnx"))
        return by_runtime(folder)

    return make


def by_runtime(folder: Path) -> Library:
    """ONNX Runtime itself on `folder/model.onnx`."""
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )

    def run(inputs: Inputs) -> Answers:
        return [np.asarray(each) for each in session.run(None, dict(inputs))]

    return run


OPEN_SIGNATURE = """
flavors: {onnx: {data: model.onnx}}
signature:
  inputs:
    '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
  outputs:
    '[{"name": "y", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
"""
"""What an author says who does not know that the graph's batch is a static one."""


def padded(text: str, size: int) -> Callable[[Path], Library]:
    """A graph of a static batch and independent rows: the library runs it as often as it takes."""

    def make(folder: Path) -> Library:
        library = graph(text)(folder)
        (folder / "MLmodel").write_text(OPEN_SIGNATURE)

        def run(inputs: Inputs) -> Answers:
            x = inputs["x"]
            filled = np.concatenate([x, np.zeros((-len(x) % size, *x.shape[1:]), x.dtype)])
            parts = [library({"x": part})[0] for part in np.split(filled, len(filled) // size)]
            return [np.concatenate(parts)[: len(x)]]

        return run

    return make


def dynamically_quantised(folder: Path) -> Library:
    """A product whose activations get one scale for all rows that it is given."""
    text = HEAD + (
        "(float[N,4] x) => (float[N,3] y) <float[4,3] w = {0.3,-1.2,0.7,2.1,0.05,-0.4,1.1,0.9,"
        "-0.6,0.2,0.8,-1.5}> { y = MatMul(x, w) }"
    )
    folder.mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(text), str(folder / "float.onnx"))
    quantize_dynamic(folder / "float.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    (folder / "float.onnx").unlink()
    return by_runtime(folder)


def numbers(*shape: int, dtype: str = "float32") -> AnyArray:
    """Different numbers, most of them below 3."""
    return RNG.normal(size=shape).astype(dtype)


def rows(width: int, dtype: str = "float32") -> list[Inputs]:
    """Four requests of a row, one of three rows, and one of a row of much larger numbers."""
    each = [{"x": numbers(1, width, dtype=dtype)} for _ in range(4)]
    return [
        *each,
        {"x": numbers(3, width, dtype=dtype)},
        {"x": numbers(1, width, dtype=dtype) * 50},
    ]


def whole(dtype: str) -> list[Inputs]:
    """Requests of integers."""
    return [{"x": (request["x"] * 20).astype(dtype)} for request in rows(4)]


def one(
    name: str,
    text: str,
    batching: Batching,
    requests: Sequence[Inputs] | None = None,
    limit: int = 8,
) -> Case:
    """A case of a graph; it takes four columns of FP32 unless its requests are given."""
    return Case(name, graph(text), requests or rows(4), batching, limit)


ONE_TO_FOUR = {"x": np.array([[1, 2, 3, 4]], np.float32)}
STEPS = [{"x": numbers(1, 1, 4, steps)} for steps in (6, 6, 6, 3, 3)]
FINDS = [{"x": np.array([row], np.float32)} for row in ([1, 2, 3, 4], [-1, 2, -1, 0], [-1] * 4)]
SEQUENCES = [{"x": numbers(3, 1, 2)} for _ in range(4)]
TEXTS = [{"x": np.array([[text]], object)} for text in ("Ab", "cD", "", "Grüße")]
FOUR = [{"x": numbers(4, 4)} for _ in range(4)]

LSTM = (
    "<float[1,8,2] w = {0.1,0.2,0.3,0.4,-0.1,-0.2,0.5,0.6,0.1,0.2,0.3,0.4,-0.1,-0.2,0.5,0.6},"
    "float[1,8,2] r = {0.2,0.1,0.4,0.3,-0.2,-0.1,0.6,0.5,0.2,0.1,0.4,0.3,-0.2,-0.1,0.6,0.5}>"
)

CASES = [
    # Rows that are independent.
    one("affine", "(float[N,4] x) => (float[N,4] y) <float s = {2}> { y = Mul(x, s) }", BATCHED),
    one("no-first-axis-name", "(float[?,4] x) => (float[?,4] y) { y = Neg(x) }", BATCHED),
    one("made-up-names", "(float[unk__7,4] x) => (float[unk__9,4] y) { y = Neg(x) }", BATCHED),
    one(
        "exporters-name", "(float[N,4] x) => (float[y_dynamic_axes_1,4] y) { y = Abs(x) }", BATCHED
    ),
    one(
        "softmax-of-columns", "(float[N,4] x) => (float[N,4] y) { y = Softmax<axis=1>(x) }", BATCHED
    ),
    one(
        "mean-of-columns",
        "(float[N,4] x) => (float[N] y) { y = ReduceMean<axes=[1],keepdims=0>(x) }",
        BATCHED,
    ),
    one("argmax", "(float[N,4] x) => (int64[N] y) { y = ArgMax<axis=1,keepdims=0>(x) }", BATCHED),
    one(
        "two-outputs",
        "(float[N,4] x) => (float[N,4] y, bool[N,4] z) "
        "<float t = {0}> { y = Exp(x) z = Greater(x, t) }",
        BATCHED,
    ),
    one(
        "top-of-columns",
        "(float[N,4] x) => (float[N,2] y, int64[N,2] z) <int64[1] k = {2}> "
        "{ y, z = TopK<axis=1>(x, k) }",
        BATCHED,
    ),
    one(
        "fp16", "(float16[N,4] x) => (float16[N,4] y) { y = Tanh(x) }", BATCHED, rows(4, "float16")
    ),
    one(
        "fp64", "(double[N,4] x) => (double[N,4] y) { y = Add(x, x) }", BATCHED, rows(4, "float64")
    ),
    one("int8", "(int8[N,4] x) => (int8[N,4] y) { y = Identity(x) }", BATCHED, whole("int8")),
    one("int64", "(int64[N,4] x) => (int64[N,4] y) { y = Add(x, x) }", BATCHED, whole("int64")),
    one("bool", "(float[N,4] x) => (bool[N,4] y) <float t = {0}> { y = Less(x, t) }", BATCHED),
    one("texts", "(string[N,1] x) => (string[N,1] y) { y = Identity(x) }", BATCHED, TEXTS),
    one(
        "batch-norm",
        "(float[N,4] x) => (float[N,4] y) <float[4] a = {1,2,3,4}, "
        "float[4] b = {0,1,0,1}, float[4] m = {0,0,1,1}, float[4] v = {1,2,1,2}> "
        "{ y = BatchNormalization(x, a, b, m, v) }",
        BATCHED,
    ),
    one(
        "quantised",
        "(float[N,4] x) => (float[N,4] y) <float s = {0.05}, int8 z = {0}> "
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        BATCHED,
    ),
    one(
        "lstm-batch-first",
        "(float[N,3,2] x) => (float[N,3,2] y) " + LSTM + " { t = Transpose<perm=[1,0,2]>(x) "
        "s = LSTM<hidden_size=2>(t, w, r) q = Constant<value = int64[1] {1}>() "
        "u = Squeeze(s, q) y = Transpose<perm=[1,0,2]>(u) }",
        BATCHED,
        [{"x": numbers(count, 3, 2)} for count in (1, 1, 1, 1, 3)],
    ),
    # Static batches.
    Case(
        "one-static-row",
        padded("(float[1,4] x) => (float[1,4] y) { y = Neg(x) }", 1),
        rows(4),
        BATCHED,
    ),
    Case(
        "four-static-rows",
        padded("(float[4,4] x) => (float[4,4] y) { y = Neg(x) }", 4),
        rows(4),
        BATCHED,
        limit=4,
    ),
    one(
        "four-static-rows-mixed",
        "(float[4,4] x) => (float[4,4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }",
        NOT_BATCHED,
        FOUR,
    ),
    # Outputs whose rows are not the batch.
    one(
        "transpose",
        "(float[N,K] x) => (float[K,N] y) { y = Transpose(x) }",
        NOT_BATCHED,
        [ONE_TO_FOUR, *rows(4)],
    ),
    one(
        "transpose-steps",
        "(float[N,1,4,W] x) => (float[T,N,4] y) { "
        "a = Constant<value = int64[1] {1}>() s = Squeeze(x, a) y = Transpose<perm=[2,0,1]>(s) }",
        NOT_BATCHED,
        STEPS,
    ),
    one(
        "finds",
        "(float[N,4] x) => (int64[M,2] y) <float s = {1}> "
        "{ a = Add(x, s) f = NonZero(a) y = Transpose(f) }",
        NOT_BATCHED,
        FINDS,
    ),
    one(
        "finds-nothing-in-zeros",
        "(float[N,4] x) => (int64[M,2] y) { f = NonZero(x) y = Transpose(f) }",
        NOT_BATCHED,
        FINDS,
    ),
    one("another-name", "(float[N,4] x) => (float[M,4] y) { y = Neg(x) }", NOT_BATCHED),
    one(
        "one-output-without-batch",
        "(float[N,4] x) => (float[N,4] y, float[4] z) "
        "{ a = Constant<value = int64[1] {0}>() y = Neg(x) z = ReduceSum<keepdims=0>(x, a) }",
        NOT_BATCHED,
    ),
    one("scalar", "(float[N,4] x) => (float y) { y = ReduceSum<keepdims=0>(x) }", NOT_BATCHED),
    one(
        "constant",
        "(float[N,4] x) => (float[N,4] y, float[K] z) "
        "{ y = Neg(x) z = Constant<value = float[3] {1,2,3}>() }",
        NOT_BATCHED,
    ),
    one(
        "lstm-steps-first",
        "(float[T,1,2] x) => (float[T,1,1,2] y) " + LSTM + " { y = LSTM<hidden_size=2>(x, w, r) }",
        NOT_BATCHED,
        SEQUENCES,
    ),
    one(
        "unique",
        "(float[N] x) => (float[M] y) { y = Unique(x) }",
        NOT_BATCHED,
        [{"x": np.array(each, np.float32)} for each in ([3, 1, 3], [2], [5, 5], [1, 2, 3, 4])],
    ),
    one(
        "boxes",
        "(float[B,N,4] x, float[B,1,N] s) => (int64[M,3] y) <int64 k = {5}, "
        "float i = {0.5}, float t = {0.2}> { y = NonMaxSuppression(x, s, k, i, t) }",
        NOT_BATCHED,
        [
            {"x": np.abs(numbers(1, 3, 4)), "s": np.full((1, 1, 3), score, np.float32)}
            for score in (0.9, 0.1, 0.5, 0.3)
        ],
    ),
    # Rows that depend on each other.
    one(
        "less-the-mean",
        "(float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes=[0]>(x) y = Sub(x, m) }",
        NOT_BATCHED,
    ),
    one(
        "mean-of-rows",
        "(float[N,4] x) => (float[1,4] y) { y = ReduceMean<axes=[0]>(x) }",
        NOT_BATCHED,
    ),
    one(
        "softmax-of-rows",
        "(float[N,4] x) => (float[N,4] y) { y = Softmax<axis=0>(x) }",
        NOT_BATCHED,
    ),
    one(
        "sum-so-far",
        "(float[N,4] x) => (float[N,4] y) <int64 a = {0}> { y = CumSum(x, a) }",
        NOT_BATCHED,
    ),
    one(
        "sorted-rows",
        "(float[N,4] x) => (float[M,4] y) { s = Shape(x) "
        "z = Constant<value = int64 {0}>() g = Gather(s, z) a = Constant<value = int64[1] {0}>() "
        "k = Unsqueeze(g, a) y, i = TopK<axis=0>(x, k) }",
        NOT_BATCHED,
    ),
    one(
        "largest-row",
        "(float[N,4] x) => (float[1,4] y) { y = ReduceMax<axes=[0]>(x) }",
        NOT_BATCHED,
    ),
    one(
        "batch-statistics",
        "(float[N,4] x) => (float[N,4] y) { m = ReduceMean<axes=[0]>(x) "
        "d = Sub(x, m) q = Mul(d, d) v = ReduceMean<axes=[0]>(q) "
        "e = Constant<value = float {0.1}>() w = Add(v, e) s = Sqrt(w) y = Div(d, s) }",
        NOT_BATCHED,
    ),
    Case("dynamically-quantised", dynamically_quantised, rows(4), NOT_BATCHED),
]
