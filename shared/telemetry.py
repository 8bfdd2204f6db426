"""Logs: one JSON object per line on standard error, or readable lines on a terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor


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
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**context)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(formatter)
    logging.basicConfig(handlers=[stream], level=max(number, logging.WARNING), force=True)


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
