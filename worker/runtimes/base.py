"""The seam between a replica and the library that executes its model."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from penstock.shared.contracts.deployment import ModelInterface, Returns
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import AnyArray, Buffer, Tensor
from penstock.worker.runtimes.mlflow_model import MLmodel
from penstock.worker.session.outcomes import FailureKind


class ModelLoadError(Exception):
    """A model cannot be loaded.

    Args:
        message: for the operator.
        invalid: True if no retry can help.
    """

    def __init__(self, message: str, *, invalid: bool = False) -> None:
        super().__init__(message)
        self.invalid = invalid


class ExecutionError(Exception):
    """An execution failed; the message is for the log."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Form:
    """In which form a model returned what it did, as far as JSON shows it.

    Attributes:
        returns: as `penstock.shared.contracts.deployment.ModelInterface` has it.
        keys: members of its objects, as JSON has them.
        kinds: of its columns, or of all of it: what changes these changes how JSON has the values.
        exact: whether tensors of the model's outputs say all of it.
    """

    returns: Returns = ""
    keys: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    exact: bool = False


UNKNOWN = Form()


class BodyScorer(Protocol):
    """Reads and answers bodies in the words of MLflow's scoring server."""

    def score(self, body: Buffer, parameters: Parameters) -> Tensor:
        """The answer, or why the body is refused.

        Raises:
            ExecutionError: if the model failed.
        """
        ...


class RowWords(Protocol):
    """Executes requests together, and words their answers as MLflow's scoring server does."""

    def __call__(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters, rows: Sequence[int]
    ) -> list[Tensor]:
        """An answer for each request.

        Args:
            inputs, parameters: as for `Runtime.execute`.
            rows: of each request, in order.

        Raises:
            ExecutionError: if it failed.
            RowsMisfitError: if what was returned cannot be divided.
        """
        ...


class RowsMisfitError(ValueError):
    """What a model returned has other rows than were executed."""


class Runtime(Protocol):
    """A loaded model.

    Attributes:
        interface: what it takes and gives; `max_batch_size` as the settings ask, or less. The
            warm-up lowers it to what the model can run.
        provider: what executes it in truth.
        static_rows: the one batch size that the model takes, or None if it takes any; the warm-up
            may find one out.
        unbatched: why its graph says that requests must not share an execution; empty if it says
            nothing of the kind.
        coarse: whether it computes in BF16, so that its answers are only as precise as that.
        may_be_static: whether it may take one batch size that nothing tells of, as a traced module.
        any_thread: whether it may be executed on one thread now and on another later. No code that
            comes with a model is to be surprised by that.
        runs_code: whether code that came with the model runs, which needs the packages that the
            model asks for.
        scorer: answers bodies that no gateway made tensors of; None: nothing does.
        form: of what it has returned so far; None: nothing yet.
        words: executes requests whose answers are to be worded here; None: nothing does.
    """

    interface: ModelInterface
    provider: str
    static_rows: int | None
    any_thread: bool
    runs_code: bool
    unbatched: str
    coarse: bool
    may_be_static: bool

    @property
    def scorer(self) -> BodyScorer | None: ...

    @property
    def form(self) -> Form | None: ...

    @property
    def words(self) -> RowWords | None: ...

    def opened(self) -> Runtime | None:
        """The same model with its outputs left open, if all that it answered so far is something
        else than its signature says; None: it need not be.
        """
        ...

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray] | Mapping[str, AnyArray]:
        """Run one batch.

        Args:
            inputs: an array for every input of the interface, by name, save for optional ones that
                the requests left out.
            parameters: what all requests of the batch say beside their inputs.

        Returns:
            an array for every output, in the interface's order; by name, if the interface leaves
            open what it takes or gives.

        Raises:
            ExecutionError: if it failed.
        """
        ...


@runtime_checkable
class StreamingRuntime(Runtime, Protocol):
    """A loaded model that may give an answer in parts: it does if its interface says so."""

    def stream(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Generator[object]:
        """Run one request of one row, in steps.

        Args:
            inputs: as for `execute`.
            parameters: what the request says beside its inputs.

        Yields:
            what the model yields, arrays for a library's frames; it may change what it yielded
            when it goes on. To close the generator ends the model's own.

        Raises:
            ExecutionError: if it failed.
        """
        ...


class Loader(Protocol):
    """Opens the model in a folder."""

    def __call__(
        self,
        folder: Path,
        mlmodel: MLmodel | None,
        /,
        *,
        max_batch_size: int,
        device: str,
        threads: int,
        allow_cpu_fallback: bool,
        may_execute: bool = True,
    ) -> Runtime:
        """Load the model, of which MLflow says what `mlmodel` says.

        Args:
            may_execute: whether it may be executed to find out what nothing says of it.

        Raises:
            ModelLoadError: if it cannot be loaded.
        """
        ...
