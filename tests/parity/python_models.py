"""Python models of every shape that MLflow knows: hints, structured columns, odd answers.

All of this module is pickled by value: a replica cannot import these tests.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pydantic
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, DataType, Map, Object, Property

from tests.parity.bodies import Body, document, of_array, of_frame, text
from tests.parity.cases import Case

import_module("cloudpickle").register_pickle_by_value(sys.modules[__name__])

NUMBERS = pd.DataFrame({"a": [1.5, -2.0, 0.25, 9.0], "b": [1, 2, 3, -4]})
IN = Schema([ColSpec("double", "a"), ColSpec("long", "b")])


def saved(model: Any, signature: Any = None, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        mlflow.pyfunc.save_model(
            str(folder), python_model=model(), signature=signature, pip_requirements=[], **options
        )

    return make


def answering(predict: Callable[[Any], Any]) -> Callable[[], PythonModel]:
    """A model that answers so to what it is given."""

    def made() -> PythonModel:
        class Answering(PythonModel):  # type: ignore[misc]
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # hints are read by MLflow
                return predict(model_input)

        return Answering()

    return made


def answers(
    name: str,
    predict: Callable[[Any], Any],
    outputs: Schema | None = None,
    *,
    example: bool = False,
    quick: bool = False,
) -> Case:
    """What a model of numbers may return, with a signature or an example."""
    signature = ModelSignature(IN, outputs)
    options = {"input_example": NUMBERS} if example else {}
    make = saved(answering(predict), signature, **options)
    return Case(f"answers-{name}", make, lambda: of_frame(NUMBERS, (1, 3)), quick=quick)


def columns(
    name: str,
    schema: Schema,
    rows: Sequence[dict[str, Any]],
    *,
    more: Sequence[Body] = (),
    quick: bool = False,
) -> Case:
    """A model that tells what it is given, row by row, in the columns of a signature."""

    def tell(frame: Any) -> Any:
        return [
            {str(name): repr(value) for name, value in row.items()}
            for row in frame.to_dict(orient="records")
        ]

    def bodies() -> list[Body]:
        return [*of_frame(pd.DataFrame(list(rows)), (1, 3)), *more]

    return Case(
        f"columns-{name}", saved(answering(tell), ModelSignature(schema)), bodies, quick=quick
    )


def sums(frame: Any) -> Any:
    return frame["a"] + frame["b"]


ANSWERS = [
    answers("array", lambda frame: sums(frame).to_numpy(), Schema([ColSpec("double")]), quick=True),
    answers(
        "named-series",
        lambda frame: sums(frame).rename("total"),
        Schema([ColSpec("double", "total")]),
    ),
    answers("nameless-series", lambda frame: sums(frame), Schema([ColSpec("double")])),
    answers(
        "list", lambda frame: sums(frame).tolist(), Schema([ColSpec("double", "y")]), quick=True
    ),
    answers("list-of-mixed-numbers", lambda frame: [1, 2.5, 3][: len(frame)]),
    answers("list-of-lists", lambda frame: [[x, x * 2] for x in frame["a"]]),
    answers("ragged", lambda frame: [[x] * (i + 1) for i, x in enumerate(frame["a"])]),
    answers(
        "list-of-texts", lambda frame: [f"{x}" for x in frame["a"]], Schema([ColSpec("string")])
    ),
    answers(
        "texts-with-none",
        lambda frame: [None if i % 2 else "x" for i in range(len(frame))],
        Schema([ColSpec("string")]),
    ),
    answers(
        "series-with-none",
        lambda frame: pd.Series(["x", None, "z"][: len(frame)]),
        Schema([ColSpec("string", "s")]),
    ),
    answers("list-of-objects", lambda frame: [{"y": x, "n": 1} for x in frame["a"]], quick=True),
    answers("objects-of-objects", lambda frame: [{"y": {"z": [x]}} for x in frame["a"]]),
    answers(
        "frame",
        lambda frame: pd.DataFrame({"y": frame["a"], "z": frame["b"]}),
        Schema([ColSpec("double", "y"), ColSpec("long", "z")]),
        quick=True,
    ),
    answers(
        "frame-in-another-order",
        lambda frame: pd.DataFrame({"z": frame["b"], "y": frame["a"]}),
        Schema([ColSpec("double", "y"), ColSpec("long", "z")]),
    ),
    answers(
        "frame-with-one-more",
        lambda frame: pd.DataFrame({"y": frame["a"], "more": 1}),
        Schema([ColSpec("double", "y")]),
        quick=True,
    ),
    answers(
        "frame-of-texts",
        lambda frame: pd.DataFrame({"y": frame["a"], "s": ["ü"] * len(frame)}),
        Schema([ColSpec("double", "y"), ColSpec("string", "s")]),
    ),
    answers("frame-of-arrays", lambda frame: pd.DataFrame({"y": [np.arange(3.0)] * len(frame)})),
    answers("frame-of-nullable", lambda frame: pd.DataFrame({"y": frame["b"].astype("Int64")})),
    answers(
        "frame-of-times",
        lambda frame: pd.DataFrame({"t": pd.date_range("2024-01-01", periods=len(frame))}),
        Schema([ColSpec("datetime", "t")]),
    ),
    answers(
        "frame-of-no-times",
        lambda frame: pd.DataFrame({"t": [pd.NaT] * len(frame)}),
        Schema([ColSpec("datetime", "t")]),
    ),
    answers(
        "frame-of-zoned-times",
        lambda frame: pd.DataFrame(
            {"t": pd.date_range("2024-01-01", periods=len(frame), tz="Asia/Tokyo")}
        ),
        Schema([ColSpec("datetime", "t")]),
    ),
    answers("dates", lambda frame: [datetime.date(2024, 2, 29)] * len(frame)),
    answers(
        "nan",
        lambda frame: np.array([np.nan, np.inf, 1.0])[: len(frame)],
        Schema([ColSpec("double")]),
    ),
    answers("one-number", lambda frame: 4.5),
    answers("one-text", lambda frame: "done"),
    answers("nothing", lambda frame: None),
    answers("one-object", lambda frame: {"y": 1, "why": {"rules": ["a", None]}}),
    answers(
        "object-of-arrays", lambda frame: {"y": sums(frame).to_numpy(), "n": np.arange(len(frame))}
    ),
    answers(
        "object-of-lists", lambda frame: {"y": sums(frame).tolist(), "n": list(range(len(frame)))}
    ),
    answers("tuple", lambda frame: (1, "x")),
    answers("integers", lambda frame: frame["b"].to_numpy(), Schema([ColSpec("long")])),
    answers(
        "integers-for-doubles", lambda frame: frame["b"].to_numpy(), Schema([ColSpec("double")])
    ),
    answers("floats-for-longs", lambda frame: frame["a"].to_numpy(), Schema([ColSpec("long")])),
    answers("booleans", lambda frame: (frame["a"] > 0).to_numpy()),
    answers("matrix", lambda frame: np.outer(frame["a"], [1.0, 2.0])),
    answers(
        "matrix-by-column",
        lambda frame: np.outer(frame["a"], [1.0, 2.0]),
        Schema([ColSpec("double", "u"), ColSpec("double", "v")]),
    ),
    answers("single-precision", lambda frame: frame["a"].to_numpy().astype(np.float32)),
    answers("by-example", lambda frame: pd.DataFrame({"y": frame["a"]}), example=True),
    answers("one-row-fewer", lambda frame: sums(frame).to_numpy()[1:]),
    answers("set", lambda frame: {1, 2}),
]

ALL_KINDS = Schema(
    [
        ColSpec(kind, kind)
        for kind in (
            "boolean",
            "integer",
            "long",
            "float",
            "double",
            "string",
            "binary",
            "datetime",
        )
    ]
)
KINDS = [
    {
        "boolean": True,
        "integer": 7,
        "long": 2**40,
        "float": 0.5,
        "double": 1e300,
        "string": "süß",
        "binary": b"\x00\xff",
        "datetime": pd.Timestamp("2024-02-29T12:30:00"),
    },
    {
        "boolean": False,
        "integer": -7,
        "long": -1,
        "float": -0.25,
        "double": 0.1,
        "string": "",
        "binary": b"",
        "datetime": pd.Timestamp("1999-12-31"),
    },
]
TIMES = Schema([ColSpec("datetime", "t")])
ODD_TIMES = [
    document(f"time {value!r}", {"dataframe_records": [{"t": value}]})
    for value in (
        "2024-01-02T03:04:05Z",
        "2024-01-02T03:04:05+09:00",
        "2024-01-02",
        "0001-01-01",
        "9999-12-31",
        "",
        "x",
        None,
        1704164645000,
        1.5,
        True,
    )
]
NESTED = Object(
    [
        Property("name", DataType.string),
        Property("marks", Array(DataType.double)),
        Property("more", Map(DataType.long), required=False),
    ]
)
OPTIONAL = Schema(
    [
        ColSpec("double", "x"),
        ColSpec("double", "d", required=False),
        ColSpec("long", "n", required=False),
        ColSpec("string", "s", required=False),
        ColSpec(Array(DataType.string), "tags", required=False),
    ]
)
FULL = {"x": 1.0, "d": 2.0, "n": 3, "s": "t", "tags": ["a", "b"]}

COLUMNS = [
    columns("all-kinds", ALL_KINDS, KINDS, quick=True),
    columns("times", TIMES, [{"t": pd.Timestamp("2024-01-02T03:04:05")}], more=ODD_TIMES),
    columns(
        "arrays",
        Schema([ColSpec(Array(DataType.double), "v"), ColSpec("string", "s")]),
        [{"v": [1.0, 2.5], "s": "x"}, {"v": [3.0], "s": "y"}],
        quick=True,
        more=[
            document("integers in an array", {"inputs": {"v": [[1, 2]], "s": ["x"]}}),
            document("a text in an array", {"inputs": {"v": [["1"]], "s": ["x"]}}),
            document("null for an array", {"dataframe_records": [{"v": None, "s": "x"}]}),
            document("an empty array", {"dataframe_records": [{"v": [], "s": "x"}]}),
            document("no array", {"dataframe_records": [{"v": 1.0, "s": "x"}]}),
        ],
    ),
    columns(
        "arrays-of-arrays",
        Schema([ColSpec(Array(Array(DataType.long)), "m")]),
        [{"m": [[1, 2], [3]]}, {"m": [[4]]}],
    ),
    columns(
        "objects",
        Schema([ColSpec(NESTED, "o")]),
        [{"o": {"name": "a", "marks": [1.0], "more": {"k": 1}}}, {"o": {"name": "b", "marks": []}}],
        quick=True,
        more=[
            document("a missing member", {"dataframe_records": [{"o": {"name": "a"}}]}),
            document(
                "a surplus member",
                {"dataframe_records": [{"o": {"name": "a", "marks": [], "z": 1}}]},
            ),
            document("a wrong member", {"dataframe_records": [{"o": {"name": 1, "marks": []}}]}),
        ],
    ),
    columns(
        "lists-of-objects",
        Schema([ColSpec(Array(NESTED), "os")]),
        [{"os": [{"name": "a", "marks": [1.0]}]}, {"os": []}],
    ),
    columns(
        "maps",
        Schema([ColSpec(Map(DataType.double), "m")]),
        [{"m": {"a": 1.0}}, {"m": {"b": 2.0, "c": 3.0}}],
    ),
    columns(
        "any", Schema([ColSpec(AnyType(), "x")]), [{"x": [1, "a", None, {"b": []}]}, {"x": "text"}]
    ),
    columns(
        "optional",
        OPTIONAL,
        [FULL, FULL],
        quick=True,
        more=[
            document("only what is needed", {"dataframe_records": [{"x": 1.0}]}),
            document(
                "nulls",
                {"dataframe_records": [{"x": 1.0, "d": None, "n": None, "s": None, "tags": None}]},
            ),
            document(
                "nulls in some rows",
                {
                    "dataframe_records": [
                        FULL,
                        {**FULL, "d": None, "n": None, "s": None, "tags": None},
                    ]
                },
            ),
            document("without a needed one", {"dataframe_records": [{"d": 1.0}]}),
        ],
    ),
    columns(
        "one-nameless",
        Schema([ColSpec("double")]),
        [{"0": 1.0}],
        more=[document("inputs bare", {"inputs": [1.0, 2.0]})],
    ),
]


class Order(pydantic.BaseModel):
    item: str
    count: int = 1
    notes: list[str] | None = None


def hinted(
    name: str, model: Callable[[], Any], said: Sequence[Any], *, quick: bool = False
) -> Case:
    """A model whose signature is made of the type hints of its code."""

    def bodies() -> list[Body]:
        return [
            document(f"inputs {number}", {"inputs": each}) for number, each in enumerate(said)
        ] + [
            document("instances", {"instances": said[0]}),
            document("a table", {"dataframe_split": {"columns": ["x"], "data": [[1]]}}),
            document("an empty list", {"inputs": []}),
            document("params", {"inputs": said[0], "params": {"x": 1}}),
        ]

    return Case(f"hints-{name}", saved(model), bodies, quick=quick)


def texts_to_texts() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[str], params=None) -> list[str]:  # type: ignore[no-untyped-def]
            return [each.upper() for each in model_input]

    return Model()


def floats_to_floats() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[float], params=None) -> list[float]:  # type: ignore[no-untyped-def]
            return [each * 2 for each in model_input]

    return Model()


def lists_to_lists() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[list[float]], params=None) -> list[list[float]]:  # type: ignore[no-untyped-def]
            return [each[::-1] for each in model_input]

    return Model()


def objects_to_objects() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[dict[str, int]], params=None) -> list[dict[str, int]]:  # type: ignore[no-untyped-def]
            return [{**each, "n": len(each)} for each in model_input]

    return Model()


def orders_to_orders() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[Order], params=None) -> list[Order]:  # type: ignore[no-untyped-def]
            return [Order(item=each.item * each.count, notes=each.notes) for each in model_input]

    return Model()


def texts_to_nothing_said() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[str], params=None):  # type: ignore[no-untyped-def]
            return {"said": model_input}

    return Model()


def counting() -> PythonModel:
    """Tells what it is given, in numbers: a row's missing cells, and its text's length."""

    def predict(frame: Any) -> Any:
        texts = frame["s"] if "s" in frame else [None] * len(frame)
        sizes = [len(text) if isinstance(text, str) else 100 for text in texts]
        counts = frame.isna().sum(axis=1) * 1000 + sizes
        return counts.to_numpy() + frame["x"].fillna(0).to_numpy()

    return answering(predict)()


TOLD = [
    pd.DataFrame({"a": [float(n), -float(n), n + 0.5], "b": [n, n + 1, 7 * n]}) for n in range(12)
]


def telling_texts(folder: Path) -> None:
    """A model with some texts missing, and that takes its time, so that batches form."""

    def predict(frame: Any) -> Any:
        time.sleep(0.005)
        texts = [
            None if b % 3 == 0 else f"{a} {b}" for a, b in zip(frame["a"], frame["b"], strict=True)
        ]
        return pd.DataFrame({"text": texts, "number": frame["a"].to_numpy()})

    signature = ModelSignature(IN, Schema([ColSpec("string", "text"), ColSpec("double", "number")]))
    saved(answering(predict), signature, input_example=pd.concat(TOLD[:4]))(folder)


COUNTED = Schema(
    [
        ColSpec("double", "x"),
        ColSpec("string", "s", required=False),
        ColSpec("long", "n", required=False),
    ]
)
COUNTS = pd.DataFrame({"x": [1.0, 2.0], "s": ["a", "bcd"], "n": [1, 2]})


def counted() -> list[Body]:
    row = {"x": 1.0, "s": "a", "n": 1}
    values: list[dict[str, Any]] = [
        *[{"s": each} for each in (None, "", 5)],
        *[{"n": each} for each in (None, 3.0, 3.5, "3", True, 2**63)],
        *[{"x": each} for each in (None, "1.5", True, 10**400)],
    ]
    odd = [{**row, **each} for each in values] + [{"x": 1.0}, {"x": 1.0, "n": 2}, {"n": 2}]
    cells = [
        *["1.5,,1", "1.5,a,", ",NA,1", "1,a,1.0", "1_0,a,1", '1,"a ""b"" c",1', " 1 , a ,1"],
        *["1,null,1", "inf,a,1", "0x10,a,1", "1,a,+1", '1,"a\nb",1', "1,a,1,9", "1,a", "1,a, 1"],
        *[
            "1e3,a,1",
            "1,#N/A,1",
            "1,nan,1",
            "-inf,a,1",
            "NaN,a,1",
            "1,'a',1",
            "1,true,1",
            "1, NA,1",
        ],
        *[
            "1,a,1e2",
            "1,a,9223372036854775808",
            "1.,a,1",
            "\u0661,a,1",
            "1,a,0x1",
            "1 2,a,1",
            "1,a ,01",
        ],
        *["\t1,a,1", "1,<NA>,1", "1,1.0,1", "infinity,a,1", '1,"",1', '1,"NA",1', "1,a,true"],
    ]
    texts = [f"x,s,n\n{each}\n" for each in cells] + [
        "s,x\na,1\n",
        "x,s,n\r\n1,a,1\r\n",
        "x,s,n\r1,a,1\r",
        "x;s;n\n1;a;1\n",
        "x,s,n\n\n1,a,1\n\n",
        "\ufeffx,s,n\n1,a,1\n",
        "x,s,n\n",
        "x, s,n\n1,a,1\n",
        "x,s,n,x\n1,a,1,2\n",
        "x,s,n,\n1,a,1,\n",
        "x,s,n\n1,a,1",
        "x,s,n\n1,a,1\n2,b,\n",
    ]
    records = [*enumerate(odd)]
    return [
        *of_frame(COUNTS, (1, 3)),
        *[document(f"record {n}: {each}", {"dataframe_records": [each]}) for n, each in records],
        *[document(f"inputs {n}: {each}", {"inputs": each}) for n, each in records],
        *[document(f"instances {n}: {each}", {"instances": [each, row]}) for n, each in records],
        *[text(f"csv {n}: {each!r}", each, "text/csv") for n, each in enumerate(texts)],
    ]


HINTS = [
    hinted("texts", texts_to_texts, [["a", "ü"], ["x"], "bare", [1], [None]], quick=True),
    hinted("floats", floats_to_floats, [[1.5, 2.0], [1], ["x"], [True]]),
    hinted("lists", lists_to_lists, [[[1.0, 2.0], [3.0]], [[]], [1.0]]),
    hinted("objects", objects_to_objects, [[{"a": 1}, {"b": 2, "c": 3}], [{"a": "x"}], [{}]]),
    hinted(
        "pydantic",
        orders_to_orders,
        [
            [{"item": "a", "count": 2}],
            [{"item": "b", "notes": ["x"]}, {"item": "c"}],
            [{"count": 1}],
            [{"item": "a", "more": 1}],
        ],
        quick=True,
    ),
    hinted("no-output", texts_to_nothing_said, [["a"], ["b", "c"]]),
]

PARAMS = ParamSchema(
    [
        ParamSpec("scale", "double", 1.0),
        ParamSpec("times", "long", 1),
        ParamSpec("label", "string", "x"),
        ParamSpec("weights", "double", [1.0, 2.0], (-1,)),
        ParamSpec("deep", "boolean", False),
    ]
)


def with_params() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return [repr(sorted((params or {}).items()))] * len(model_input)

    return Model()


def said_params() -> list[Body]:
    row = {"dataframe_records": [{"a": 1.0, "b": 2}]}
    said: list[Any] = [
        {},
        {"scale": 2.5},
        {"scale": 2},
        {"times": 2.0},
        {"label": "ü"},
        {"label": 1},
        {"weights": [3.0]},
        {"weights": [1, 2]},
        {"weights": 1.0},
        {"deep": True},
        {"other": 1},
        {"scale": None},
        {"scale": "x"},
        [],
        "x",
        None,
    ]
    return [document(f"params {each!r}", {**row, "params": each}) for each in said]


def raising(error: Callable[[], Exception]) -> Callable[[], Any]:
    def predict(frame: Any) -> Any:
        if (frame["b"] > 2).any():
            raise error()
        return frame["a"].to_numpy()

    return answering(predict)


def raising_texts() -> Any:
    class Model(PythonModel):  # type: ignore[misc]
        def predict(self, model_input: list[str], params=None) -> list[str]:  # type: ignore[no-untyped-def]
            raise ValueError("unknown " + model_input[0])

    return Model()


def mixing(folder: Path) -> None:
    """A model in whose frames one row may change how the others are worded, and the trial does not
    see it: a number that is missing, and a column that only some rows have."""
    table = {"a": 1, "bb": 2, "ccc": 3, "dd": 4, "e": 5}

    def predict(frame: Any) -> Any:
        time.sleep(0.005)
        texts = list(frame["t"])
        rows = [
            {"label": each, "code": None if each.startswith("zz") else table.get(each, 9)}
            | ({"why": "odd"} if each.startswith("zy") else {})
            for each in texts
        ]
        return pd.DataFrame(rows)

    inputs = Schema([ColSpec("string", "t")])
    outputs = Schema([ColSpec("string", "label"), ColSpec("long", "code")])
    example = pd.DataFrame({"t": list(table)})
    saved(answering(predict), ModelSignature(inputs, outputs), input_example=example)(folder)


MIXED = [
    pd.DataFrame({"t": each}) for each in (["ccc", "a", "dd"], ["zzq"], ["zy"], ["e"], ["bb", "zz"])
]


def coded(folder: Path) -> None:
    """A model from code, with a package of its own beside it."""
    source = folder.parent / "src"
    (source / "helper_of_parity").mkdir(parents=True, exist_ok=True)
    (source / "helper_of_parity" / "__init__.py").write_text("def twice(x):\n    return x * 2\n")
    script = source / "model.py"
    script.write_text(
        "import mlflow\n"
        "from helper_of_parity import twice\n\n"
        "class Model(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return twice(model_input['a']).to_numpy()\n\n"
        "mlflow.models.set_model(Model())\n"
    )
    sys.path.insert(0, str(source))
    try:
        mlflow.pyfunc.save_model(
            str(folder),
            python_model=str(script),
            code_paths=[str(source / "helper_of_parity")],
            signature=ModelSignature(IN),
            pip_requirements=[],
        )
    finally:
        sys.path.remove(str(source))


TENSORS = ModelSignature(
    Schema(
        [
            TensorSpec(np.dtype("float32"), (-1, 2), "left"),
            TensorSpec(np.dtype("int64"), (-1,), "right"),
        ]
    )
)


def of_tensors() -> Any:
    def predict(given: Any) -> Any:
        return {"sum": given["left"].sum(axis=1) + given["right"], "twice": given["left"] * 2}

    return answering(predict)()


def with_index(index: Any) -> Body:
    split = {"index": index, "columns": ["a", "b"], "data": [[1.0, 1], [2.0, 2]]}
    return document(f"index {index}", {"dataframe_split": split})


ODD_INDEX = [with_index(index) for index in ([0, 1], [5, 6], ["p", "q"], [0, 0], None)]
BLANKS = ["t\n \nb\n", "t\n\t\nb\n", "t\n\n b\n", "t\na b\n", 't\n" "\n']


def lengths(frame: Any) -> Any:
    return [len(each) for each in frame["t"]]


def indexed(frame: Any) -> Any:
    counted = [position == place for place, position in enumerate(frame.index)]
    return frame["a"].to_numpy() + np.where(counted, 0.0, 1000.0)


DOUBLES = Schema([ColSpec("double")])
INTEGER, FLOAT, TEXT = (Schema([ColSpec(kind)]) for kind in ("integer", "float", "string"))
LENGTHS = ModelSignature(Schema([ColSpec("string", "t")]), Schema([ColSpec("long")]))

STRANGE = [
    answers("numbers-for-texts", lambda frame: frame["b"].tolist(), TEXT),
    answers("a-column-for-a-vector", lambda frame: frame["a"].to_numpy().reshape(-1, 1), DOUBLES),
    answers("beyond-integers", lambda frame: (frame["b"] * 3_000_000_000).to_numpy(), INTEGER),
    answers("beyond-floats", lambda frame: frame["a"].to_numpy() * 1e39, FLOAT),
    answers("below-floats", lambda frame: frame["a"].to_numpy() * 1e-46, FLOAT),
    Case(
        "index",
        saved(answering(indexed), ModelSignature(IN, DOUBLES), input_example=NUMBERS),
        lambda: [*of_frame(NUMBERS, (1, 3)), *ODD_INDEX],
    ),
    Case(
        "blank-lines",
        saved(answering(lengths), LENGTHS),
        lambda: [text(f"csv {each!r}", each, "text/csv") for each in BLANKS],
    ),
    Case(
        "halves-of-characters",
        saved(raising_texts),
        lambda: [document(f"inputs {each!r}", {"inputs": [each]}) for each in ("\ud800", "x")],
        quick=True,
    ),
]

OTHERS = [
    *STRANGE,
    Case(
        "counting",
        saved(
            counting,
            ModelSignature(COUNTED, Schema([ColSpec("double")])),
            input_example=COUNTS,
        ),
        counted,
        quick=True,
    ),
    Case("params", saved(with_params, ModelSignature(IN, params=PARAMS)), said_params, quick=True),
    Case(
        "raises",
        saved(raising(lambda: ValueError("three is too much"))),
        lambda: of_frame(NUMBERS, (1, 3)),
        quick=True,
    ),
    Case(
        "raises-signed",
        saved(
            raising(lambda: ValueError("three is too much")),
            ModelSignature(IN, Schema([ColSpec("double")])),
        ),
        lambda: of_frame(NUMBERS, (1, 3)),
    ),
    Case(
        "raises-mlflows",
        saved(raising(lambda: MlflowException("no such thing", RESOURCE_DOES_NOT_EXIST))),
        lambda: of_frame(NUMBERS, (1, 3)),
        quick=True,
    ),
    Case(
        "raises-mlflows-internal",
        saved(raising(lambda: MlflowException("broken", INTERNAL_ERROR))),
        lambda: of_frame(NUMBERS, (1, 3)),
    ),
    Case("from-code", coded, lambda: of_frame(NUMBERS, (1, 3))),
    Case(
        "unsigned",
        saved(answering(lambda given: [repr(given)])),
        lambda: [
            *of_frame(NUMBERS, (1, 3)),
            *of_array(NUMBERS.to_numpy(), (1, 3)),
            document("inputs one text", {"inputs": "x"}),
            document("inputs one object", {"inputs": {"x": "y"}}),
            document("messages", {"messages": [{"role": "user", "content": "hi"}]}),
            document("prompt", {"prompt": "hi", "n": 2}),
            document("input", {"input": ["hi"]}),
            text("CSV with a name twice", "a,a\n1,2\n", "text/csv"),
            document(
                "a name twice", {"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}
            ),
        ],
        quick=True,
    ),
    Case(
        "tensors",
        saved(of_tensors, TENSORS),
        lambda: [
            document(
                "inputs by name", {"inputs": {"left": [[1.5, 2.0], [3.0, 4.0]], "right": [1, 2]}}
            ),
            document("instances by name", {"instances": [{"left": [1.5, 2.0], "right": 1}]}),
            document("inputs missing", {"inputs": {"left": [[1.5, 2.0]]}}),
            document(
                "inputs of another shape", {"inputs": {"left": [[1.5, 2.0, 3.0]], "right": [1]}}
            ),
            document("floats for integers", {"inputs": {"left": [[1.5, 2.0]], "right": [1.5]}}),
            document("a table", {"dataframe_records": [{"left": [1.5, 2.0], "right": 1}]}),
        ],
    ),
]

CASES = [replace(case, served=False) for case in (*ANSWERS, *COLUMNS, *HINTS, *OTHERS)]
