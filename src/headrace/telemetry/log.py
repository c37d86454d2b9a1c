"""Structured events on standard error: one clear line each, JSON or made for eyes.

An event is a short sentence in the past or present ("worker died"), its facts are fields.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
Logger = structlog.typing.FilteringBoundLogger


def configure(level: str = "info", style: str = "auto", *, process: str = "", stream: TextIO | None = None) -> None:
    """Set this process's log up; `style` is "auto", "console" or "json", `process` names the speaker."""
    out = stream or sys.stderr
    console = style == "console" or (style == "auto" and out.isatty())
    threshold = LEVELS[level]
    finish: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )

    def speaker(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if process:
            event["process"] = process
        return event

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
            speaker,
            *finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(
        level=max(threshold, logging.WARNING), stream=out, format="%(levelname)s %(name)s: %(message)s", force=True
    )


def get_logger(name: str) -> Logger:
    """A logger whose events carry `component=name`; what `configure` sets later holds for it too."""
    logger: Logger = structlog.get_logger(component=name)
    return logger
