"""Logs: JSON lines on stderr, one event each; for people on a terminal, the same in colour."""

import asyncio
import logging
import os
import sys

import structlog

_QUIET = ("httpx", "httpcore", "alembic", "huggingface_hub", "filelock", "uvicorn.access")


def configure_logging(process: str, level: str = "info", *, json_lines: bool | None = None) -> None:
    """Sends structlog's and the standard library's logs the same way. `process` names ours in every line.

    `json_lines` None: JSON unless stderr is a terminal.
    """
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        _named(process),
        structlog.processors.StackInfoRenderer(),
    ]
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    renderer: structlog.types.Processor = structlog.processors.JSONRenderer() if as_json else _console()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("temporalio.activity").addFilter(_not_a_cancellation)


def _console() -> structlog.types.Processor:
    # The plain traceback: the pretty one shows local variables, and those may hold prompts and keys.
    plain = structlog.dev.plain_traceback
    return structlog.dev.ConsoleRenderer(
        colors="NO_COLOR" not in os.environ, timestamp_key="ts", exception_formatter=plain
    )


def _named(process: str) -> structlog.types.Processor:
    def add(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        event.setdefault("process", process)
        return event

    return add


def _not_a_cancellation(record: logging.LogRecord) -> bool:
    # The SDK warns, with a traceback, of every endless activity that is let go of: that is their normal end.
    if "unhandled cancel error" in record.getMessage():
        return False
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
