"""Logs: one JSON object per line, control characters escaped, with the request's id on every line."""

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Send the logs of structlog and of the standard library to standard error; once per process."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # JSON escapes control characters by itself; ensure_ascii also those that turn a terminal's text around.
    render = structlog.processors.JSONRenderer(ensure_ascii=True)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Each request is logged once, by our own middleware.
    logging.getLogger("uvicorn.access").disabled = True


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of that name."""
    made: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return made
