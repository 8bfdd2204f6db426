"""Small models of several flavors, saved by MLflow itself as a logged model lies in the registry.

Classes are made inside functions, so that they are pickled by value: a replica cannot import these
tests, as it could not import a user's notebook.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from sklearn.linear_model import LinearRegression

WIDTH = 3


def tensors(*specs: tuple[Any, tuple[int, ...], str | None]) -> Schema:
    """One side of a signature of tensors."""
    return Schema([TensorSpec(np.dtype(dtype), shape, name) for dtype, shape, name in specs])


def vectors(dtype: Any = np.float32, out: int = 2) -> ModelSignature:
    """[-1, WIDTH] in, [-1, out] out, without names."""
    return ModelSignature(
        inputs=tensors((dtype, (-1, WIDTH), None)), outputs=tensors((dtype, (-1, out), None))
    )


def network() -> torch.nn.Module:
    """Two sums of its three inputs: `x0 + 2 * x1` and `x1 + 2 * x2`."""

    class Sums(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            weights = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 2.0]])
            self.weights = torch.nn.Parameter(weights)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.weights)

    return Sums()


def exported(folder: Path, example_rows: int) -> Path:
    """MLflow's default: a torch.export program, static if the example has one row."""
    mlflow.pytorch.save_model(
        network(),
        str(folder),
        signature=vectors(),
        input_example=np.zeros((example_rows, WIDTH), np.float32),
        pip_requirements=[],
    )
    return folder


def scripted(folder: Path, rows: int | None = None) -> Path:
    """TorchScript; traced for so many rows, or scripted for any."""
    jit: Any = torch.jit
    inner: Any = network()
    if rows is None:
        return _pickled(folder, jit.script(inner))

    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> Any:
            return self.inner(x.reshape(rows or 1, WIDTH))

    return _pickled(folder, jit.trace(Fixed(), torch.zeros(rows, WIDTH)))


def eager(folder: Path) -> Path:
    """A pickled module, without a word on its outputs."""
    signature = ModelSignature(inputs=vectors().inputs)
    return _pickled(folder, network(), signature)


def two_outputs(folder: Path) -> Path:
    """A pickled module that returns a dict, with inputs and outputs by name."""

    class Two(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"product": a * b, "sum": a + b}

    one = (np.float32, (-1,))
    signature = ModelSignature(
        inputs=tensors((*one, "b"), (*one, "a")), outputs=tensors((*one, "sum"), (*one, "product"))
    )
    return _pickled(folder, Two(), signature)


def _pickled(folder: Path, module: Any, signature: ModelSignature | None = None) -> Path:
    mlflow.pytorch.save_model(
        module,
        str(folder),
        signature=signature or vectors(),
        serialization_format="pickle",
        pip_requirements=[],
    )
    return folder


def regression(folder: Path) -> Path:
    """scikit-learn: the sum of three numbers."""
    model = LinearRegression().fit(np.eye(WIDTH), np.ones(WIDTH))
    model.coef_, model.intercept_ = np.ones(WIDTH), 0.0
    signature = ModelSignature(
        inputs=tensors((np.float64, (-1, WIDTH), None)), outputs=tensors((np.float64, (-1,), None))
    )
    mlflow.sklearn.save_model(model, str(folder), signature=signature, pip_requirements=[])
    return folder


def python_model(
    folder: Path,
    predict: Any,
    signature: ModelSignature | None,
    requirements: list[str] | None = None,
    example: Any = None,
) -> Path:
    """A custom PythonModel whose `predict` is a function of (input, params)."""

    class Custom(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return predict(model_input, params)

    mlflow.pyfunc.save_model(
        str(folder),
        python_model=Custom(),
        signature=signature,
        pip_requirements=requirements or [],
        input_example=example,
    )
    return folder


def scaled(folder: Path) -> Path:
    """y = x * scale, where `scale` is a parameter of the request."""
    signature = ModelSignature(
        inputs=tensors((np.float64, (-1,), "x")),
        outputs=tensors((np.float64, (-1,), "y")),
        params=ParamSchema([ParamSpec("scale", "double", 2.0)]),
    )
    return python_model(folder, lambda x, params: {"y": x["x"] * params["scale"]}, signature)


def people(folder: Path) -> Path:
    """A data frame of all kinds of columns in; a frame out."""

    def predict(frame: Any, params: Any) -> Any:
        frame["pay"] = frame["pay"] * frame["factor"] + frame.get(
            "bonus", 0
        )  # writes into its input
        frame["label"] = frame["name"] + frame["born"].dt.strftime("/%Y")
        frame["grown"] = frame["age"] >= 18
        return frame[["pay", "label", "grown", "born"]]

    columns = [
        ColSpec("double", "pay"),
        ColSpec("float", "factor"),
        ColSpec("integer", "age"),
        ColSpec("string", "name"),
        ColSpec("datetime", "born"),
        ColSpec("long", "bonus", required=False),
    ]
    out = [
        ColSpec("double", "pay"),
        ColSpec("string", "label"),
        ColSpec("boolean", "grown"),
        ColSpec("datetime", "born"),
    ]
    return python_model(folder, predict, ModelSignature(Schema(columns), Schema(out)))


def centring(folder: Path) -> Path:
    """y = pay * share; less the mean if a parameter says so, or `share` is missing."""

    def predict(frame: Any, params: Any) -> Any:
        pay = frame["pay"]
        if params["normalize"] or "share" not in frame:
            pay = pay - pay.mean()
        return {"y": (pay * frame.get("share", 1.0)).to_numpy()}

    columns = [ColSpec("double", "pay"), ColSpec("double", "share", required=False)]
    signature = ModelSignature(
        Schema(columns),
        Schema([ColSpec("double", "y")]),
        ParamSchema([ParamSpec("normalize", "boolean", False)]),
    )
    return python_model(folder, predict, signature)


NUMBERS = ModelSignature(
    inputs=tensors((np.float64, (-1,), None)), outputs=tensors((np.float64, (-1,), None))
)


def moody(folder: Path) -> Path:
    """y = 10 * x; 77 makes it raise, 78 exit, 79 return a row too few, 99 end the process."""

    def predict(x: Any, params: Any) -> Any:
        import os  # noqa: PLC0415 - runs in the replica
        import sys  # noqa: PLC0415

        if 77 in x:
            raise RuntimeError("77 is too much")
        if 78 in x:
            sys.exit("78 is too much")
        if 99 in x:
            os._exit(1)
        return (x * 10)[: len(x) - 1 if 79 in x else None]

    return python_model(folder, predict, NUMBERS)


def napping(folder: Path, signature: ModelSignature | None = None) -> Path:
    """y = x, after a sleep of as many ms as the largest |x| says; below 0 the lock is held.

    Takes NUMBERS, or what `signature` says.
    """

    def predict(x: Any, params: Any) -> Any:
        import ctypes  # noqa: PLC0415 - runs in the replica
        import time  # noqa: PLC0415

        if x.min() < 0:
            ctypes.PyDLL(None).usleep(int(-x.min() * 1000))
        else:
            time.sleep(float(x.max()) / 1000)
        return x

    return python_model(folder, predict, signature or NUMBERS)


def painting(folder: Path, begun: Path | None = None) -> Path:
    """Yields x, 2 x, ... with progress between, for as many steps of 0.1 s as x says.

    Below 0 there is one step, of -x seconds. The file `begun` is there once the first has begun.
    """
    noted = str(begun) if begun is not None else ""

    class Painting(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

        def predict_stream(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import time  # noqa: PLC0415 - runs in the replica

            if noted:
                open(noted, "w").close()  # noqa: PTH123 - runs in the replica
            number = float(np.ravel(model_input)[0])  # MLflow hands over the row itself
            steps = max(int(number), 1)
            for step in range(1, steps + 1):
                time.sleep(0.1 if number > 0 else -number)
                yield {"progress": step / steps, "message": f"step {step}"}
                yield np.array([number * step])

    mlflow.pyfunc.save_model(
        str(folder), python_model=Painting(), signature=NUMBERS, pip_requirements=[]
    )
    return folder


def drawing(folder: Path) -> Path:
    """Yields 1,000 numbers, 8 kB, for as many steps of 0.1 s as its input says."""
    signature = ModelSignature(
        inputs=tensors((np.float64, (-1,), None)), outputs=tensors((np.float64, (-1, 1_000), None))
    )

    class Drawing(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return np.zeros((len(model_input), 1_000))

        def predict_stream(self, context: Any, model_input: Any, params: Any = None) -> Any:
            import time  # noqa: PLC0415 - runs in the replica

            for step in range(int(np.ravel(model_input)[0])):
                time.sleep(0.1)
                yield np.full((1, 1_000), float(step))

    mlflow.pyfunc.save_model(
        str(folder), python_model=Drawing(), signature=signature, pip_requirements=[]
    )
    return folder


def widening(folder: Path) -> Path:
    """y = x, repeated 100,000 times in each row: 800 kB."""
    signature = ModelSignature(
        inputs=tensors((np.float64, (-1,), None)),
        outputs=tensors((np.float64, (-1, 100_000), None)),
    )

    def predict(x: Any, params: Any) -> Any:
        return np.repeat(x[:, None], 100_000, axis=1)

    return python_model(folder, predict, signature)


def hungry(folder: Path) -> Path:
    """y = 10 * x; more than 8 rows are too much for its memory, or 2 if one of them is 33."""

    def predict(x: Any, params: Any) -> Any:
        if len(x) > (2 if 33 in x else 8):
            raise MemoryError
        return x * 10

    return python_model(folder, predict, NUMBERS)


def sleepy(folder: Path, ms: float, slow_ms: float = 0.0, slow_share: float = 0.0) -> Path:
    """y = 10 * x after a sleep of `ms`, whatever the batch; of `slow_ms` for a share of batches."""
    rng = random.Random(1)

    def predict(x: Any, params: Any) -> Any:
        import time  # noqa: PLC0415 - runs in the replica

        time.sleep((slow_ms if rng.random() < slow_share else ms) / 1000)
        return x * 10

    return python_model(folder, predict, NUMBERS)


def straying(folder: Path) -> Path:
    """y = 10 * x; 30 takes 0.3 s, 55 holds the interpreter for 5 s, 99 never ends."""

    def predict(x: Any, params: Any) -> Any:
        import ctypes  # noqa: PLC0415 - runs in the replica
        import time  # noqa: PLC0415

        if 30 in x:
            time.sleep(0.3)
        if 55 in x:
            ctypes.PyDLL(None).usleep(5_000_000)
        while 99 in x:
            pass
        return x * 10

    return python_model(folder, predict, NUMBERS)


def noting(folder: Path, ms: float, notes: Path) -> Path:
    """y = 10 * x after a sleep of `ms`, with a line in the file `notes` for each x."""
    path = str(notes)

    def predict(x: Any, params: Any) -> Any:
        import time  # noqa: PLC0415 - runs in the replica

        with open(path, "a") as file:  # noqa: PTH123 - appended at once, whoever else does
            file.write("".join(f"{number}\n" for number in x))
        time.sleep(ms / 1000)
        return x * 10

    return python_model(folder, predict, NUMBERS)
