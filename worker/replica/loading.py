"""Loads a replica's model, on the executor's thread, the main one: what comes of it is told, never
raised."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.shared.contracts.deployment import Batching
from penstock.shared.contracts.findings import Finding
from penstock.shared.process.telemetry import get_logger
from penstock.worker.control.messages import Start
from penstock.worker.environments.requirements import installed_versions, read_requirements, unmet
from penstock.worker.replica.failure_log import FailureLog
from penstock.worker.runtimes.base import UNKNOWN, ModelLoadError, Runtime
from penstock.worker.runtimes.mlflow_model import MLmodel
from penstock.worker.runtimes.registry import describe, load_runtime
from penstock.worker.session.latency_model import LatencyModel
from penstock.worker.trial.example import read_body, read_example, shown_example
from penstock.worker.trial.rows import Row
from penstock.worker.trial.warmup import WarmUp, execute_once

failure_log = FailureLog(get_logger("replica"), time.monotonic)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and what its warm-up taught.

    Attributes:
        fresh: whether this load made the finding; False: it was known.
        unmet: what it asks for and has not; empty: nothing.
    """

    runtime: Runtime
    latency: LatencyModel
    finding: Finding
    fresh: bool
    unmet: str = ""


@dataclass(frozen=True)
class NotLoaded:
    """A model that cannot be loaded, in words for the operator."""

    message: str
    invalid: bool


def load(start: Start) -> Loaded | NotLoaded:
    """Load and warm up the model; never raises."""
    try:
        loaded = _load(start)
        return replace(loaded, unmet=_unmet(Path(start.model_path), loaded.runtime))
    except ModelLoadError as error:
        failure_log.tell_load(error, invalid=error.invalid)
        return NotLoaded(str(error), error.invalid)
    except BaseException as error:  # whatever a model's own code raises while it loads; it may exit
        failure_log.tell_load(error, invalid=False)
        return NotLoaded(f"{type(error).__name__}: {error}", invalid=False)


def _unmet(folder: Path, runtime: Runtime) -> str:
    """Which requirements are not met; what is installed is looked at only if there are any."""
    wanted = read_requirements(folder)
    return unmet(wanted, installed_versions(), runs_code=runtime.runs_code) if wanted else ""


def _load(start: Start) -> Loaded:
    folder, settings = Path(start.model_path), start.settings
    mlmodel = describe(folder)
    acts = mlmodel is not None and mlmodel.acts
    runtime = load_runtime(
        folder,
        mlmodel,
        max_batch_size=settings.max_batch_size,
        device=start.device,
        threads=settings.threads or 1,
        allow_cpu_fallback=start.allow_cpu_fallback,
        may_execute=settings.warmup != "off" and not acts,
    )
    example = read_example(folder, mlmodel, runtime.interface.inputs)
    body = read_body(folder, mlmodel)
    known = start.finding
    batching = settings.batching or "auto"
    if known is not None and fits(known, runtime) and holds(known, batching):
        take(runtime, known)
        if (
            settings.warmup == "off"
            or acts
            or execute_once(runtime, known, example, _for_open(runtime, body))
        ):
            return Loaded(runtime, latency_of(known), known, fresh=False)
        del runtime  # two of them need not fit
        runtime = _again(start, mlmodel)
    return _tried(start, runtime, mlmodel, example, body)


def _tried(
    start: Start, runtime: Runtime, mlmodel: MLmodel | None, example: Row | None, body: bytes
) -> Loaded:
    """The model with what a trial finds out about it; its outputs are left open where its answers
    are something else than its signature says."""
    settings = start.settings
    warm_up = WarmUp(
        runtime,
        settings.batching or "auto",
        settings.warmup or "auto",
        example,
        acts=mlmodel is not None and mlmodel.acts,
        device=start.device,
        body=_for_open(runtime, body),
    )
    try:
        found = warm_up.find_out()
        opened = runtime.opened()
    except ModelLoadError:
        opened = runtime.opened()
        if opened is None:
            raise
    if opened is not None:
        return _tried(start, opened, mlmodel, example, body)
    finding = worded(found, runtime)
    interface = finding.interface.model_copy(update={"example": shown_example(body)})
    finding = finding.model_copy(update={"interface": interface})
    take(runtime, finding)
    return Loaded(runtime, latency_of(finding), finding, fresh=True)


def _for_open(runtime: Runtime, body: bytes) -> bytes | None:
    """The author's example for a model that takes or gives what no tensor carries; None for others,
    which are tried with tensors."""
    interface = runtime.interface
    return body if interface.scoring == "all" and not interface.max_batch_size else None


def _again(start: Start, mlmodel: MLmodel | None) -> Runtime:
    """The model as it was before a finding was applied that turned out not to hold."""
    return load_runtime(
        Path(start.model_path),
        mlmodel,
        max_batch_size=start.settings.max_batch_size,
        device=start.device,
        threads=start.settings.threads or 1,
        allow_cpu_fallback=start.allow_cpu_fallback,
    )


def worded(finding: Finding, runtime: Runtime) -> Finding:
    """A finding with the form in which the model returns, and who words MLflow's answers by it.

    Replicas that run a model's own code do, since only they see what it returns each time. Answers
    in many pieces are put together of tensors, if these say all (a text may be missing). Where the
    form is not known, replicas read the bodies, too.
    """
    interface, form = finding.interface, runtime.form or UNKNOWN
    if not interface.scoring:
        return finding
    names = [spec.name for spec in interface.outputs]
    fitting = not form.keys or len(form.keys) == len(names)
    if interface.scoring == "all" or not form.returns or not fitting:
        update: dict[str, object] = {"scoring": "all"}
        return finding.model_copy(update={"interface": interface.model_copy(update=update)})
    by_name = set(names) == set(form.keys)
    update = {"returns": form.returns, "keys": tuple(names) if by_name else form.keys}
    if runtime.words is not None:
        texts = any(spec.datatype == "BYTES" for spec in interface.outputs)
        exact = form.exact and not texts
        update |= {"kinds": form.kinds, "exact": exact}
        if finding.static_rows is None:
            update |= {"scoring": "rows", "keys": form.keys}
        elif not exact:
            update["scoring"] = "all"
    return finding.model_copy(update={"interface": interface.model_copy(update=update)})


def fits(finding: Finding, runtime: Runtime) -> bool:
    """Whether a finding is one of the model that was loaded."""
    known, loaded = finding.interface, runtime.interface
    return (known.platform, known.parameters, known.streams, bool(known.scoring)) == (
        loaded.platform,
        loaded.parameters,
        loaded.streams,
        bool(loaded.scoring),
    ) and all(
        [(spec.name, spec.datatype, spec.shape[1:]) for spec in ours]
        == [(spec.name, spec.datatype, spec.shape[1:]) for spec in theirs]
        for ours, theirs in ((known.inputs, loaded.inputs), (known.outputs, loaded.outputs))
    )


def holds(finding: Finding, batching: Batching) -> bool:
    """Whether a finding says enough: older ones do not tell which requests it is about."""
    return batching == "on" or not finding.merges or finding.tried is not None


def take(runtime: Runtime, finding: Finding) -> None:
    """Have the runtime run as was found."""
    runtime.interface = finding.interface
    runtime.static_rows = finding.static_rows


def latency_of(finding: Finding) -> LatencyModel:
    """What a finding tells of execution times."""
    latency = LatencyModel()
    for rows, seconds in finding.timings:
        latency.observe((finding.shape, ()), rows, seconds)
    return latency
