"""A worker over HTTP: its health, for supervisors, and its metrics, for Prometheus."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

import structlog

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import os_reason, reason
from worker.contract.settings import Settings
from worker.errors import TaggerError

HEALTH: Final = "/healthz"
ALIVE: Final = "/livez"
METRICS: Final = "/metrics"
_PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
ASK_TIMEOUT_S: Final = 5.0

log = structlog.get_logger()


class MonitorPortError(TaggerError):
    """The port for health checks and figures cannot be used."""


class Sources(NamedTuple):
    """Where the answers come from.

    `problem` returns why no work is done, or None; `fatal_problem` why only a restart would help.
    """

    problem: Callable[[], str | None]
    fatal_problem: Callable[[], str | None]
    metrics: Callable[[], bytes]


@contextmanager
def answering(settings: Settings, sources: Sources) -> Iterator[None]:
    """Answer `GET /healthz`, `/livez` and `/metrics` while the block runs, if a port is set.

    Health is 200 if the worker is healthy, else 503; the body is JSON with `ok` and `problem`.
    `/livez` is the same, but stays 200 while Redis is away: a new process could not reach it
    either. Metrics are in Prometheus' text format.

    Raises:
        MonitorPortError: another program has the port.
    """
    if not settings.monitor_port:
        yield
        return
    place = (settings.monitor_host, settings.monitor_port)
    try:
        server = ThreadingHTTPServer(place, _handler(sources))
    except OSError as e:
        raise MonitorPortError(
            N_("health and metrics cannot be served at {address}:{port}: {reason}"),
            address=place[0],
            port=place[1],
            reason=os_reason(e),
        ) from e
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="monitor", daemon=True)
    thread.start()
    log.info("monitor.answering", url=f"http://{place[0]}:{server.server_port}{METRICS}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(settings: Settings) -> str | None:
    """Return what is wrong with the worker of these settings on this host, or None."""
    if not settings.monitor_port:
        return _(
            "there is nobody to ask: WANWU_MONITOR_PORT is not set, or 0, which means no port; set "
            "it as for the worker"
        )
    connection = http.client.HTTPConnection(
        "127.0.0.1", settings.monitor_port, timeout=ASK_TIMEOUT_S
    )
    try:
        connection.request("GET", HEALTH)
        found = json.loads(connection.getresponse().read())
        problem: str | None = found["problem"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as e:
        return _("no worker answers at port {port}: {reason}").format(
            port=settings.monitor_port, reason=os_reason(e) if isinstance(e, OSError) else e
        )
    finally:
        connection.close()
    return str(reason(problem)) if problem else None


def _handler(sources: Sources) -> type[BaseHTTPRequestHandler]:
    checks = {HEALTH: sources.problem, ALIVE: sources.fatal_problem}

    class Handler(BaseHTTPRequestHandler):
        # A client that connects and sends nothing does not occupy a thread for long.
        timeout = ASK_TIMEOUT_S

        def do_GET(self) -> None:
            if check := checks.get(self.path):
                found = check()
                body = json.dumps({"ok": found is None, "problem": found}).encode()
                status = HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK
                self._answer(status, body, "application/json")
            elif self.path == METRICS:
                self._answer(HTTPStatus.OK, sources.metrics(), _PLAIN)
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log nothing: there is a request every few seconds."""

    return Handler
