"""How do daemons speak? One JSON object a line on stderr: time, level, event, and what it is about."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Once per process. What other libraries log by `logging` comes out in the same shape, warnings and worse."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.dict_tracebacks,
    ]
    threshold = logging.getLevelNamesMapping()[level.upper()]
    target = stream or sys.stderr
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_line)],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(target),
        cache_logger_on_first_use=stream is None,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_line),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(threshold, logging.WARNING))


def _line(event: Any, **_: Any) -> str:
    """A value that JSON has no word for is written as its `repr`: a log line must never fail its writer."""
    try:
        return _json(event)
    except (TypeError, ValueError):
        return _json({ascii(key)[1:-1]: _sayable(value) for key, value in event.items()})


def _sayable(value: Any) -> Any:
    try:
        _json(value)
        return value
    except (TypeError, ValueError):
        return ascii(value)


def _json(value: Any) -> str:
    return orjson.dumps(value, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
