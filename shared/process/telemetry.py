"""Logs: one JSON object per line on standard error, or readable lines on a terminal.

Whoever speaks is in the middle of something, a request for one. So where a line cannot be written,
as on a full disk, the line is lost, and its writer does not notice.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor


def configure_logging(level: str, log_format: str, **context: Any) -> None:
    """Set up logging of this process, once, at its start.

    Args:
        level: a name of the standard levels, such as `info`.
        log_format: `json`, or `console` for people.
        context: fields that every line of this process carries.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer()
        if log_format == "console"
        else structlog.processors.JSONRenderer()
    )
    shared: list[Processor] = [
        _carrying(context),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    log = _LossyLog(sys.stderr)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, log)),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    stream = logging.StreamHandler(log)
    stream.setFormatter(formatter)
    logging.basicConfig(handlers=[stream], level=max(number, logging.WARNING), force=True)


def _carrying(context: Mapping[str, Any]) -> Processor:
    """Adds the fields of the process, on whichever thread a line is written."""

    def add(_: object, __: str, event: EventDict) -> EventDict:
        return {**context, **event}

    return add


def inherit_logging(**context: Any) -> None:
    """Set up logging of a process that a service started, as that one's variables tell.

    Args:
        context: fields that every line of this process carries.
    """
    level = os.environ.get("PENSTOCK_LOG_LEVEL", "info")
    configure_logging(level, os.environ.get("PENSTOCK_LOG_FORMAT", "json"), **context)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger that names the part of the process that speaks."""
    return cast(FilteringBoundLogger, structlog.get_logger(component=name))


class _LossyLog:
    """A stream that swallows what it cannot write.

    Args:
        stream: where lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand it to the system."""
        with suppress(OSError):
            self._stream.flush()
