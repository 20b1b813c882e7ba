"""Events with fields -> lines on standard error, Celery's own among them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any, Final, TextIO

import structlog
from celery.exceptions import Reject
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from worker.contract.printable import printable, printable_lines
from worker.contract.redis.errors import passes, reason_of

_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# They log at `info` what our own events say better.
_CHATTY = ("celery.worker.strategy", "celery.app.trace", "kombu")
_MOST_CAUSES: Final = 5
_INDENT: Final = "  "
# It logs each lost connection, which `worker.service.reconnect` logs with the reason.
_RECONNECTING = "celery.worker.consumer.consumer"


def configure(level: str) -> None:
    """Send every event of at least `level` to standard error, one line each."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # Events below the level cost nothing: there is one for each batch.
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # Without local variables: a traceback is some lines, and holds no settings.
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=_printable_traceback
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=list(_SHARED),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([] if level == "debug" else [_in_one_line]),
                _printable,
                console,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    if level != "debug":
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(_RECONNECTING).setLevel(logging.ERROR)


def _in_one_line(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave out the traceback of errors that pass: it does not matter where Redis was missed."""
    exception = event.get("exc_info")
    if exception is True:
        exception = sys.exc_info()
    error = exception[1] if isinstance(exception, tuple) else exception
    for cause in _causes(error):
        if passes(cause):
            del event["exc_info"]
            event["reason"] = reason_of(cause)
            break
    return event


def _printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape what acts on a terminal, or looks like another line of the log."""
    shown = {
        printable(name): printable_lines(value) if isinstance(value, str) else value
        for name, value in event.items()
    }
    return shown | {"event": _in_lines(str(event.get("event", "")))}


def _in_lines(text: str) -> str:
    # Celery's own messages have several lines; those that follow are seen to follow.
    return printable_lines(text).replace("\n", f"\n{_INDENT}")


def _printable_traceback(stream: TextIO, error: ExcInfo) -> None:
    lines = StringIO()
    structlog.dev.plain_traceback(lines, error)
    stream.write(_in_lines(lines.getvalue()))


def _causes(error: Any) -> Iterator[BaseException]:
    """Yield an exception and what it was raised from, or for: Celery's Reject has a reason."""
    for _ in range(_MOST_CAUSES):
        if not isinstance(error, BaseException):
            return
        yield error
        error = error.reason if isinstance(error, Reject) else error.__cause__
