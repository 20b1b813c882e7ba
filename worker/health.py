"""Whether a worker is well: asked by a supervisor over HTTP, and by `worker health`."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import structlog

from worker.contract.settings import Settings
from worker.errors import TaggerError

PATH: Final = "/healthz"
ASK_TIMEOUT_S: Final = 5.0

log = structlog.get_logger()


class HealthPortError(TaggerError):
    """The port for health checks cannot be used."""


@contextmanager
def answering(settings: Settings, problem: Callable[[], str | None]) -> Iterator[None]:
    """Answer at `GET /healthz` while the block runs, unless the settings name no port.

    200 says that the worker is well, 503 what is wrong; the body is JSON with `ok` and `problem`.

    Raises:
        HealthPortError: somebody else has the port.
    """
    if not settings.health_port:
        yield
        return
    place = (settings.health_host, settings.health_port)
    try:
        server = ThreadingHTTPServer(place, _handler(problem))
    except OSError as e:
        msg = f"health checks cannot be answered at {place[0]}:{place[1]}: {e.strerror}"
        raise HealthPortError(msg) from e
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    log.info("health.answering", url=f"http://{place[0]}:{place[1]}{PATH}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(settings: Settings) -> str | None:
    """Return what is wrong with the worker of these settings on this host, or None."""
    if not settings.health_port:
        return "WANWU_HEALTH_PORT is not set, so no worker answers"
    connection = http.client.HTTPConnection(
        "127.0.0.1", settings.health_port, timeout=ASK_TIMEOUT_S
    )
    try:
        connection.request("GET", PATH)
        found = json.loads(connection.getresponse().read())
        problem: str | None = found["problem"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as e:
        return f"no worker answers at port {settings.health_port}: {e}"
    finally:
        connection.close()
    return problem


def _handler(problem: Callable[[], str | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # Whoever connects and says nothing does not keep a thread.
        timeout = ASK_TIMEOUT_S

        def do_GET(self) -> None:
            if self.path != PATH:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            found = problem()
            body = json.dumps({"ok": found is None, "problem": found}).encode()
            self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if found else HTTPStatus.OK)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Somebody asks every few seconds."""

    return Handler
