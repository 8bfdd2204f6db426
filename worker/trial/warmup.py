"""Executes a freshly loaded model before it gets traffic: what it is found to be, and how quick.

The first load of a revision tries it (`penstock.worker.trial`): whether its requests may share
executions, which batch sizes it takes where nothing says so, and how long each size takes. That is
its `Finding`. Every later load is told the finding and executes the largest size once, to allocate
what the first calls would pay for.

What the sizes say of a model that takes any number of rows:
    all ran                 the limit is as set
    out of memory           the limit is the largest that ran before
    refused                 likewise
    too large to be made    the limit stays as set, and they are not tried
    one only                a static batch size: others are padded to it; if that is one, a request
                            of several rows is executed row by row
    none                    the model cannot be served; unless its inputs were guessed (text, open
                            sizes), which it may well refuse, while it takes those of clients

What is found under conditions that may well not recur holds for this load alone
(`Finding.chance`): time ran out before anything was shown, or memory did that others use too
(`penstock.worker.replica.short_of_memory`), or what was refused runs when it is tried once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock.shared.contracts.deployment import Batching, WarmUpPolicy
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.tensors import shape_fits
from penstock.worker.replica.short_of_memory import by_chance
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError, Runtime
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial.invented import invented_inputs, is_guess
from penstock.worker.trial.rows import Row, candidates
from penstock.worker.trial.trial import (
    TRIAL_S_MAX,
    AloneRuns,
    Answers,
    Proof,
    RunFailedError,
    Runner,
    UnprovenError,
    check_different,
    check_enough,
    check_rows,
    check_sizes,
    prove_open,
    prove_static,
    rows_max,
    run_alone,
    run_without,
    shape_key,
    tiled,
)
from penstock.worker.trial.unbatched import unbatched

RUNS_PER_SIZE = 2
"""The first run of a size pays for its allocations; the second one tells its time."""

NO_BATCH_DIMENSION = "not every input and output begins with an open dimension"

REFUSED = 400
"""The lowest HTTP status of answers that are none."""

LACKS_PACKAGE = ("ModuleNotFoundError", "ImportError")
"""How what code raises begins that imports a package which is not there."""

OPEN = "its signature leaves open what a request holds"

TRIED_AGAIN = "the next load tries again"

OVERRIDE = "to batch it all the same, set penstock.batching = on"

log = get_logger("warmup")


@dataclass
class WarmUp:
    """One load's way to a finding.

    Args:
        runtime: what was loaded; its interface has the limit that is set, or 0 if its graph and
            signature know no batch dimension.
        batching, policy: as the operator has it.
        example: rows of the model's author.
        acts: it does things when it is called, so nobody calls it but clients.
        device: `cpu` or `cuda:N`.
        body: of a model that takes what no tensor carries: the author's example as MLflow's server
            would get it, or empty. None: it is no such model.
    """

    runtime: Runtime
    batching: Batching = "auto"
    policy: WarmUpPolicy = "auto"
    example: Row | None = None
    acts: bool = False
    device: str = "cpu"
    body: bytes | None = None
    timings: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._runner = Runner(self.runtime)
        self._last: Answers = ()
        self._has_example = self.example is not None
        self._limit = self.runtime.interface.max_batch_size
        self._static = self.runtime.static_rows
        self._shape: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
        self._lowered = ""
        self._chance = False
        self._sets: list[tuple[str, ...]] = []

    def find_out(self) -> Finding:
        """Try the model.

        Raises:
            ModelLoadError: if it cannot be served.
        """
        if self.policy == "off" or self.acts:
            return self._untried()
        if self.body is not None:
            return self._answered()
        if self._limit == 0:
            return self._alone_only(self.runtime.unbatched or NO_BATCH_DIMENSION)
        if self.batching == "off":
            return self._alone_only("its tag batching is off")
        try:
            if self.batching == "auto" and self.runtime.unbatched:
                raise UnprovenError(self.runtime.unbatched)
            return self._tried()
        except UnprovenError as error:
            if self.batching == "on":
                return self._batched()
            chance = not error.shown and self._is_chance()
            reason = f"{error}; {TRIED_AGAIN}" if chance else str(error)
            return self._alone_only(f"{reason}; {OVERRIDE}", chance=chance)

    def _answered(self) -> Finding:
        """What is known of a model that takes what no tensor carries: how its example goes."""
        reason = f"{self.runtime.unbatched}, so that outputs are as they come"
        finding = unbatched(self._finding(), reason if self.runtime.unbatched else OPEN)
        if not self.body:
            return finding
        trouble = ""
        for _ in range(RUNS_PER_SIZE):
            trouble = trouble or body_fails(self.runtime, self.body)
        if not trouble:
            return finding
        reason = f"{finding.reason}; it refuses its own input_example: {trouble[:200]}"
        return finding.model_copy(update={"reason": reason})

    def _is_chance(self) -> bool:
        """Whether another load may well find otherwise, where nothing was shown."""
        return self._runner.spent_s > TRIAL_S_MAX or self._failed_by_chance()

    def _failed_by_chance(self) -> bool:
        """Whether what failed last was short of memory that others use, or runs now."""
        if self._runner.failed is None:
            return False
        batch, kind = self._runner.failed
        if kind is FailureKind.OUT_OF_MEMORY:
            return by_chance(self.device)
        try:
            self._runner.execute(batch)
        except RunFailedError:
            return False
        return True

    def _untried(self) -> Finding:
        """What can be said of a model that must not be executed."""
        why = "it acts when it is called" if self.acts else "its tag warmup is off"
        if self.batching == "on" and self._limit and not self.acts:
            return self._batched()
        reason = f"{why}, so it was not tried" if self._limit else ""
        return unbatched(self._finding(), reason if self.batching != "off" else "")

    def _tried(self) -> Finding:
        inputs = self.runtime.interface.inputs
        if self._static is None:
            alone = self._run_alone(1)
            if not alone.rows:
                self._find_static(alone)
                if self._static is None:
                    raise UnprovenError(f"it refused all made-up rows ({alone.refusal[:200]})")
        if self._static is not None:
            return self._tried_static()
        if self.batching == "auto":
            self._check_alone(alone)
            check_enough(alone, inputs)
        if self._limit > 1:
            self._prove_together(alone)
        if self.batching == "auto":
            self._check_different(alone)
        if self._static is None:
            self._take_sizes(alone)
        if self.batching == "auto":
            self._sets.append(tuple(alone.rows[0]))
            self._leave_out(alone)
        return self._batched()

    def _leave_out(self, alone: AloneRuns) -> None:
        """Compare once more without the inputs that requests may leave out.

        Where that shows nothing good, requests without them are not batched, and others are.
        """
        optional = {spec.name for spec in self.runtime.interface.inputs if spec.optional}
        optional &= alone.rows[0].keys()
        if not optional or len(optional) == len(alone.rows[0]) or self._limit < 2:
            return
        try:
            fewer = run_without(self._runner, alone, optional)
            self._check_alone(fewer)
            check_enough(fewer, self.runtime.interface.inputs)
            proof, most = self._proof(fewer), min(self._limit, rows_max(fewer.rows[0]))
            prove_open(proof, len(fewer.rows), most)
            proof.holds_for([position % fewer.ordinary for position in range(most)])
            self._check_different(fewer)
        except (UnprovenError, RunFailedError) as error:
            log.info("requests without optional inputs are not batched", reason=str(error)[:500])
        else:
            self._sets.append(tuple(fewer.rows[0]))

    def _tried_static(self) -> Finding:
        assert self._static is not None
        alone = self._run_alone(self._static)
        if not alone.rows:
            raise self._refused(alone) from alone.refused
        self._time(alone.ordinary_rows(), self._static)
        if self.batching == "auto":
            self._check_alone(alone)
            if self._static > 1:
                check_enough(alone, self.runtime.interface.inputs)
                self._prove(alone, static=self._static)
                self._check_different(alone)
                self._sets.append(tuple(alone.rows[0]))
        return self._batched()

    def _run_alone(self, static: int) -> AloneRuns:
        inputs = self.runtime.interface.inputs
        try:
            alone = run_alone(self._runner, inputs, self.example, static=static)
            if not alone.rows and self.example is not None:
                self.example = None  # what its own model refuses is none
                alone = run_alone(self._runner, inputs, None, static=static)
            return alone
        except RunFailedError as error:
            raise ModelLoadError(
                f"the model failed its warm-up with {static} row(s): {error.reason}"
            ) from error

    def _refused(self, alone: AloneRuns) -> Exception:
        """What it means that no row was taken."""
        if self._is_guess(alone.refusal, batches=True):
            return UnprovenError(f"it refused all made-up rows ({alone.refusal[:200]})")
        rows = self._static or 1
        return ModelLoadError(f"the model failed its warm-up with {rows} row(s): {alone.refusal}")

    def _is_guess(self, refusal: str, *, batches: bool) -> bool:
        """Whether the model may well refuse just what was made up: code may, whatever it says that
        it takes, if its author gave no example; but no input makes it lack a package."""
        if refusal.startswith(LACKS_PACKAGE):
            return False
        if self.runtime.runs_code and not self._has_example:
            return True
        return is_guess(self.runtime.interface.inputs, batches=batches)

    def _find_static(self, alone: AloneRuns) -> None:
        """No row runs alone: look for the one size that does."""
        specs = self.runtime.interface.inputs
        row = next(candidates(specs, self.example, 1, careful=self._runner.careful), None)
        if row is None:
            return
        sizes = [size for size in _sizes(self._limit)[1:] if size <= rows_max(row)]
        sizes = [size for size in sizes if self._runs([row] * size)]
        if len(sizes) == 1:
            self._static = self._limit = sizes[0]
            self.runtime.static_rows = sizes[0]
            self._log_limit(f"only batches of {sizes[0]} rows run")
        elif not self._is_guess(alone.refusal, batches=True):
            raise self._refused(alone) from alone.refused

    def _runs(self, rows: Sequence[Row]) -> bool:
        try:
            self._runner.run(rows)
        except RunFailedError:
            return False
        return True

    def _check_alone(self, alone: AloneRuns) -> None:
        names = [spec.name for spec in self.runtime.interface.outputs]
        rows = self._static or 1
        for answers in alone.answers:
            for name, answer in zip(names, answers, strict=True):
                check_rows(name, answer, rows)

    def _check_different(self, alone: AloneRuns) -> None:
        interface = self.runtime.interface
        check_different(alone)
        check_sizes(alone, interface.inputs, interface.outputs)

    def _prove_together(self, alone: AloneRuns) -> None:
        """Compare; where no two rows run together, the batch size is a static one."""
        try:
            self._runner.run(tiled(alone.rows, 2))
        except RunFailedError as error:
            if error.kind is FailureKind.OUT_OF_MEMORY:
                self._lower(1, error.reason)
                return
            if not self.runtime.may_be_static or self._any_pair_runs(alone):
                raise UnprovenError(
                    f"rows that run alone fail together ({error.reason[:200]})"
                ) from error
            self._static = self.runtime.static_rows = 1
            self._time(alone.ordinary_rows(), 1)
            return
        if self.batching == "auto":
            self._prove(alone, static=None)

    def _any_pair_runs(self, alone: AloneRuns) -> bool:
        return any(self._runs([row, row]) for row in alone.rows)

    def _prove(self, alone: AloneRuns, *, static: int | None) -> None:
        proof, count = self._proof(alone), len(alone.rows)
        try:
            if static is None:
                self._prove_open(proof, count, rows_max(alone.rows[0]))
            else:
                prove_static(proof, count, static)
        except RunFailedError as error:
            raise UnprovenError(
                f"rows that run alone fail together ({error.reason[:200]})"
            ) from error

    def _prove_open(self, proof: Proof, count: int, most_made: int) -> None:
        """With as many rows together as memory allows, and as a trial may make."""
        while self._limit > 1:
            try:
                prove_open(proof, count, min(self._limit, most_made))
            except RunFailedError as error:
                if error.kind is not FailureKind.OUT_OF_MEMORY:
                    raise
                most = min(self._limit, most_made, count)
                self._lower((most + 1) // 2 if most > 2 else 1, error.reason)
            else:
                return

    def _proof(self, alone: AloneRuns) -> Proof:
        names = [spec.name for spec in self.runtime.interface.outputs]
        return Proof(self._runner, alone, names, coarse=self.runtime.coarse)

    def _take_sizes(self, alone: AloneRuns) -> None:
        """Run sizes up to the limit, and lower it to what runs."""
        rows = alone.ordinary_rows()
        for size in _sizes(self._limit):
            if size > rows_max(rows[0]) or self._runner.spent_s > TRIAL_S_MAX:
                return
            try:
                self._time(rows, size)
                if self.batching == "auto":
                    self._compare_size(alone, size)
            except RunFailedError as error:
                self._lower(max(size // 2, 1), error.reason)
                return

    def _compare_size(self, alone: AloneRuns, size: int) -> None:
        """What follows from one more row shows in the first batch that has it."""
        self._proof(alone).compare(
            self._last, [position % alone.ordinary for position in range(size)]
        )

    def _time(self, rows: Sequence[Row], size: int) -> None:
        for _ in range(RUNS_PER_SIZE):
            self._last = self._runner.run(tiled(rows, size))
        self._note(rows[0], size, lead=1)

    def _note(self, row: Row, rows: int, lead: int) -> None:
        datatypes = {spec.name: spec.datatype for spec in self.runtime.interface.inputs}
        self._shape = shape_key(row, datatypes, lead)
        self.timings.append((rows, self._runner.took_s))

    def _lower(self, limit: int, reason: str) -> None:
        self._limit = limit
        self._chance = self._failed_by_chance() or self._chance
        self._lowered = f"batches have at most {limit} row(s): {reason[:200]}"
        if self._chance:
            self._lowered += f"; {TRIED_AGAIN}"
        self._log_limit(reason)

    def _log_limit(self, reason: str) -> None:
        log.warning(
            "the model runs smaller batches than it may",
            max_batch_size=self._limit,
            static=self._static is not None,
            reason=reason[:500],
        )

    def _finding(self) -> Finding:
        # Row by row, a request may have as many rows as the operator allows.
        limit = self._limit if self._static in (None, 1) else self._static
        interface = self.runtime.interface.model_copy(update={"max_batch_size": limit})
        return Finding(
            interface=interface,
            static_rows=self._static,
            merges=True,
            tried=tuple(self._sets) if self.batching == "auto" else None,
            shape=self._shape,
            timings=tuple(self.timings),
        )

    def _batched(self) -> Finding:
        finding = self._finding()
        if self._static != 1:
            update = {"reason": self._lowered, "chance": self._chance}
            return finding.model_copy(update=update)
        reason = (
            "one row at a time: its batch size is fixed at 1 (PyTorch fixes it where the "
            "input_example has one row: log it with two)"
        )
        return finding.model_copy(update={"merges": False, "reason": reason})

    def _alone_only(self, reason: str, *, chance: bool = False) -> Finding:
        """Not batched; one request, if one can be made up, is run to warm it up.

        Args:
            chance: the next load may well find otherwise.
        """
        finding = unbatched(self._finding(), reason)
        inputs = finding.interface.inputs
        request = _fitting(self.example, inputs) or invented_inputs(inputs, None)
        self.timings.clear()
        if request is not None:
            try:
                for _ in range(RUNS_PER_SIZE):
                    self._runner.execute(request)
            except RunFailedError as error:
                if not self._is_guess(error.reason, batches=False):
                    message = f"the model failed its warm-up: {error.reason}"
                    raise ModelLoadError(message) from error
            else:
                self._note(request, 1, lead=0)
        return finding.model_copy(
            update={"shape": self._shape, "timings": tuple(self.timings), "chance": chance}
        )


def _fitting(example: Row | None, inputs: Sequence[TensorSpec]) -> Row | None:
    """The author's example, if it is a request that a model takes whole."""
    if example is None:
        return None
    shapes = {spec.name: spec.shape for spec in inputs}
    fits = all(shape_fits(each.shape, shapes[name]) for name, each in example.items())
    return example if fits else None


def _sizes(limit: int) -> list[int]:
    powers = [1 << power for power in range(limit.bit_length()) if 1 << power < limit]
    return [*powers, limit]


def body_fails(runtime: Runtime, body: bytes) -> str:
    """What comes of a body in MLflow's words, if it is no answer.

    Raises:
        ModelLoadError: if the device is of no more use.
    """
    assert runtime.scorer is not None
    try:
        answer = runtime.scorer.score(body, ())
    except ExecutionError as error:
        if error.kind is FailureKind.FATAL:
            raise ModelLoadError(f"the model failed its warm-up: {error}") from error
        return str(error)
    return "" if answer.shape[-1] < REFUSED else bytes(answer.data).decode()


def execute_once(
    runtime: Runtime, finding: Finding, example: Row | None, body: bytes | None = None
) -> bool:
    """Run the largest size that a finding allows; False if that showed that it does not hold.

    A size that a trial may not make is left out, or a smaller one is run where any will do.

    Args:
        runtime: which runs as was found.
        example: rows of the model's author.
        body: as `WarmUp` has it.
    """
    interface = finding.interface
    if body is not None:
        if body:
            body_fails(runtime, body)
        return True
    runner = Runner(runtime)
    try:
        if interface.max_batch_size:
            row = next(candidates(interface.inputs, example, careful=runner.careful), None)
            static = finding.static_rows
            rows = static or min(finding.rows_merged, rows_max(row or {}))
            if row is not None and 0 < rows <= rows_max(row):
                runner.run([row] * rows)
        else:
            request = _fitting(example, interface.inputs) or invented_inputs(interface.inputs, None)
            if request is not None:
                runner.execute(request)
    except RunFailedError as error:
        refused = error.kind in (FailureKind.INPUT, FailureKind.REFUSED)
        if not (refused and is_guess(interface.inputs, batches=interface.max_batch_size > 0)):
            log.warning("a finding does not hold; the model is tried anew", reason=error.reason)
            return False
    return True
