"""A web server that answers byte for byte as a test wants it, at its own pace."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

# Gets how to send, and an event that is set at the end of the test.
Answer = Callable[[Callable[[bytes], object], threading.Event], object]


class OddServer(socketserver.ThreadingTCPServer):
    """Answers each path as it is given; whatever has no answer is `b"fine"`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, answers: Mapping[str, bytes | Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: Final = answers
        self.port: Final = self.server_address[1]
        self.address: Final = f"http://127.0.0.1:{self.port}"
        # Paths asked for, in order, and the connection's number beside each.
        self.seen: Final[list[str]] = []
        self.connections: Final[list[int]] = []
        self.opened = 0
        self.closed = 0
        self.heads: Final[list[bytes]] = []
        self.end: Final = threading.Event()


class _Handler(socketserver.StreamRequestHandler):
    server: OddServer

    def handle(self) -> None:
        self.server.opened += 1
        number = self.server.opened
        # Who hangs up in the middle is a matter of course here.
        with suppress(OSError):
            while self._answer_one(number):
                pass
        self.server.closed += 1

    def _answer_one(self, number: int) -> bool:
        head = b""
        while line := self.rfile.readline(1 << 16):
            head += line
            if line == b"\r\n":
                break
        else:
            return False
        path = head.split(b" ")[1].decode()
        self.server.heads.append(head)
        self.server.connections.append(number)
        self.server.seen.append(path)
        answer = self.server.answers.get(path, ok(b"fine"))
        if isinstance(answer, bytes):
            self.wfile.write(answer)
            return True
        return answer(self.wfile.write, self.server.end) is not False


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def hang(before: bytes = b"") -> Answer:
    """Say no more than this until the test ends."""

    def answer(send: Callable[[bytes], object], end: threading.Event) -> bool:
        send(before)
        end.wait()
        return False

    return answer


def drip(head: bytes, drop: bytes = b"x", pause_s: float = 0.05) -> Answer:
    """Send a drop every moment until the test ends, or nobody listens."""

    def answer(send: Callable[[bytes], object], end: threading.Event) -> bool:
        send(head)
        while not end.wait(pause_s):
            send(drop)
        return False

    return answer


def then_close(data: bytes) -> Answer:
    """Send this and hang up."""

    def answer(send: Callable[[bytes], object], _: threading.Event) -> bool:
        send(data)
        return False

    return answer


@contextmanager
def odd_web(answers: Mapping[str, bytes | Answer]) -> Iterator[OddServer]:
    """Serve answers by path."""
    with OddServer(answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.end.set()
            server.shutdown()
