"""A web server and an object store of our own, for the time of a test."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Handler(SimpleHTTPRequestHandler):
    """Files of a directory; `/to/...` sends elsewhere, `/code/404` answers so, `/huge` lies."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path.startswith("/code/"):
            self.send_error(int(self.path.removeprefix("/code/")))
        elif self.path == "/endless":
            self.send_response(HTTPStatus.OK)
            self.end_headers()
            self.wfile.write(b"x" * 4096)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a server of the directory, and what it was asked for."""
    seen: list[str] = []
    handler = type("Handler", (_Handler,), {"seen": seen})
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(handler, directory=str(directory))
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """Yield the environment in which a client finds an S3 server of ours."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - takes a second

    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    # It keeps its buckets in this process, whichever server they were made by.
    reset = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=60).close()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "a secret of the tests",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()
