"""Redis behind TLS with client certificates: real handshakes, by every client that we have."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import trustme
from conftest import Fleet, run
from flowers import flower_at
from images import fill

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import QUEUE
from worker.contract.redis.connections import BrokerUnreachableError, connect
from worker.contract.settings import Settings, SettingsError

pytestmark = pytest.mark.integration


def pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65_536):
            sink.sendall(piece)
    for line in (source, sink):
        with suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)


class TlsProxy:
    """Ends TLS before a Redis that speaks none, and asks for a client's certificate."""

    def __init__(self, target: int, authority: trustme.CA) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self._context)
        authority.configure_trust(self._context)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with (
            suppress(OSError),
            near,
            self._context.wrap_socket(near, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", self._target)) as far,
        ):
            back = threading.Thread(target=pump, args=(far, inside), daemon=True)
            back.start()
            pump(inside, far)
            back.join()


@pytest.fixture
def secured(server: EmbeddedRedis, client: redis.Redis, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Settings for the way through the door."""
    authority = trustme.CA()
    mine = authority.issue_cert("client.example")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    mine.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    inner = urlsplit(server.url)
    assert inner.port is not None
    api = TlsProxy(inner.port, authority)
    yield {
        "broker_url": f"rediss://:{inner.password}@localhost:{api.port}/0",
        "tls_ca": str(tmp_path / "ca.pem"),
        "tls_cert": str(tmp_path / "cert.pem"),
        "tls_key": str(tmp_path / "key.pem"),
    }
    api.close()


def test_images_are_tagged_through_tls_and_no_secret_is_told(
    secured: dict[str, Any], fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    settings = dict(secured)
    url = settings.pop("broker_url")
    password = str(urlsplit(url).password)
    worker = fleet.start(url, fresh=True, **settings)
    out = tmp_path / "out.jsonl"
    done = run("producer", "submit", str(tmp_path / "photos"), "--out", str(out), **secured)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["status"] for line in lines] == ["ok"] * 12
    shown = run("producer", "status", **secured)
    assert shown.returncode == 0, shown.stderr
    argv = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes().decode()
    assert "worker.cli" in argv
    for reply in (worker.text, done.stderr, shown.stdout, shown.stderr, argv):
        assert password not in reply
    assert worker.stop() == 0
    assert password not in worker.text


def test_flower_listens_and_looks_through_tls(
    secured: dict[str, Any], client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    fill(tmp_path / "photos", 12)
    settings = dict(secured)
    url = settings.pop("broker_url")
    with flower_at(url, tmp_path, **settings) as flower:
        sent = run("producer", "submit", str(tmp_path / "photos"), "--no-wait", **secured)
        assert sent.returncode == 0, sent.stderr
        view = flower.wait("/api/throughput", lambda view: view["backlog_images"] == 12)
        assert view["redis_up"]
        (depth,) = flower.get("/api/queues/length")["active_queues"]
        assert depth == {"name": QUEUE, "messages": client.llen(KEYS.queue)}
        assert f'id="{QUEUE}"' in flower.get("/broker")
        worker = fleet.start(url, **settings)
        view = flower.wait("/api/throughput", lambda view: view["workers"])
        assert sum(one["images"] for one in flower.succeeded(2)) == 12
        assert view["workers"]
        assert worker.stop() == 0
    assert str(urlsplit(url).password) not in (tmp_path / "flower.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("missing", ["tls_ca", "tls_cert"])
def test_who_does_not_trust_or_is_not_trusted_stays_outside(
    secured: dict[str, Any], missing: str
) -> None:
    given = {name: value for name, value in secured.items() if name != missing}
    if missing == "tls_cert":
        del given["tls_key"]
    settings = Settings.from_env({}, **given)
    with pytest.raises(BrokerUnreachableError) as caught:
        connect(settings.broker_url)
    assert str(urlsplit(secured["broker_url"]).password) not in str(caught.value)
    done = run("producer", "status", **given)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_file_or_half_a_pair_is_named(secured: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WANWU_TLS_CA: there is no file /none"):
        Settings.from_env({}, **(secured | {"tls_ca": "/none"}))
    with pytest.raises(SettingsError, match="belong together"):
        Settings.from_env({}, **(secured | {"tls_key": ""}))
    assert str(urlsplit(secured["broker_url"]).password) not in repr(
        Settings.from_env({}, **secured)
    )
