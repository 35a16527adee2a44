"""One line per decision and per state change: constant text, everything variable in a field.

JSON lines when stderr is not a terminal; the same form for the records of libraries.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import structlog

#: Field names used across services, so that one query finds a thing everywhere.
FIELDS: Final = (
    "service",
    "node",
    "node_id",
    "instance",
    "instance_id",
    "command_id",
    "epoch",
    "run",
    "incarnation",
    "term",
    "state",
    "why",
    "took_s",
    "loop",
    "queue",
    "message_type",
    "digest",
)


def configure(service: str, level: str = "info") -> None:
    """Set up structlog and the standard library's logging, once, in the command's entry point."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    )
    tail: list[Any] = [] if terminal else [structlog.processors.dict_tracebacks]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *tail,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("aio_pika", "aiormq", "aiosqlite", "httpx2", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service)
