"""A server before another that cannot serve at first: 503 with Retry-After, as a proxy answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import urllib3

_PASSED_ON = ("Content-Type", "X-API-Key")


class _Handler(BaseHTTPRequestHandler):
    """Answers each kind of request 503 for `times` times, and passes it on afterwards."""

    behind: str
    body: bytes
    times: int
    seen: Counter[str]

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = f"{self.command} {self.path.partition('?')[0].rpartition('/')[2]}"
        self.seen[kind] += 1
        if self.seen[kind] <= self.times:
            self._answer(503, self.body, {"Retry-After": "0"})
            return
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        answer = urllib3.request(
            self.command, f"{self.behind}{self.path}", body=content, headers=headers, retries=False
        )
        self._answer(answer.status, answer.data, {"Content-Type": "application/json"})

    do_GET = do_POST = do_DELETE = _serve

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def busy(behind: str, body: bytes, times: int = 1) -> Iterator[tuple[str, Counter[str]]]:
    """Yield the address of a server before `behind`, and how often it was asked for what."""
    seen = Counter[str]()
    more = {"behind": behind, "body": body, "times": times, "seen": seen}
    handler = type("Handler", (_Handler,), more)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
