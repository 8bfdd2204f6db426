"""Loads a replica's model, on the executor's thread: what comes of it is told, never raised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.telemetry import get_logger
from worker.control import Start
from worker.latency_model import LatencyModel
from worker.runtimes.base import ModelLoadError, Runtime
from worker.runtimes.registry import load_runtime
from worker.warmup import warm_up

log = get_logger("replica")


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and what its warm-up taught."""

    runtime: Runtime
    latency: LatencyModel


@dataclass(frozen=True)
class NotLoaded:
    """A model that cannot be loaded, in words for the operator."""

    message: str
    invalid: bool


def load(start: Start) -> Loaded | NotLoaded:
    """Load and warm up the model; never raises."""
    try:
        runtime = load_runtime(
            Path(start.model_path),
            max_batch_size=start.settings.max_batch_size,
            device=start.device,
            threads=start.settings.threads or 1,
            allow_cpu_fallback=start.allow_cpu_fallback,
        )
        latency = LatencyModel()
        warm_up(runtime, latency)
    except ModelLoadError as error:
        return NotLoaded(str(error), error.invalid)
    except Exception as error:  # whatever a model's own code raises while it loads
        log.exception("loading failed")
        return NotLoaded(f"{type(error).__name__}: {error}", invalid=False)
    return Loaded(runtime, latency)
