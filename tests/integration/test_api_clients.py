"""Clients that hang up, fall silent or send too much: the HTTP API, and Redis after them."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from conftest import PATIENCE_S, ROOT, environment, until
from server import free_port

from producer.api import results, urgent_queue
from producer.api.errors import RefusedError
from producer.api.jobs import ApiJobs
from producer.api.results import ResultStreams
from producer.api.urgent_queue import BusyError, PredictRequest, StoppingError, UrgentQueue
from producer.api.watches import BrokenError
from producer.api.withdrawals import Withdrawals
from producer.backend.connection import open_connection
from producer.jobs.chunks import Loaded
from producer.jobs.options import JobOptions
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.local.subprocesses import start_child, stop_child
from worker.contract.messages import ChunkResult, ImageRef, ImageResult
from worker.contract.queue.urgent import withdraw
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.job_records import failed_body, success_body

pytestmark = pytest.mark.integration

FOLLOWERS = 60
MOST_MB = 150
FORM = "Content-Type: multipart/form-data; boundary=x"
FIELDS = "application/x-www-form-urlencoded"


class Api:
    """A `producer serve` without a key, and raw connections to it."""

    def __init__(self, port: int, child: subprocess.Popen[bytes], log: Path) -> None:
        self.port = port
        self.child = child
        self.log = log

    def line(self, request: bytes) -> socket.socket:
        """Connect, and send."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        line.sendall(request)
        return line

    def ask(self, request: bytes) -> tuple[int, dict[str, Any], str]:
        """Return status, JSON and head of the answer to a request after which it is closed."""
        with self.line(request) as line:
            found = rest_of(line)
        head, _, body = found.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body), head.decode()

    @property
    def memory_mb(self) -> float:
        return float(psutil.Process(self.child.pid).memory_info().rss) / 1e6

    def new_job(self) -> str:
        status, job, _ = self.ask(posted("/jobs", b'{"open": true}'))
        assert status == 201
        return str(job["id"])


def rest_of(line: socket.socket) -> bytes:
    found = b""
    while piece := line.recv(65_536):
        found += piece
    return found


def head(method: str, path: str, *more: str, host: str = "127.0.0.1") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def posted(path: str, body: bytes, kind: str = "application/json", *more: str) -> bytes:
    size = f"Content-Length: {len(body)}"
    return head("POST", path, f"Content-Type: {kind}", size, *more) + body


def form(data: bytes, field: str = "image") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="a.jpg"'
    return f"--x\r\n{disposition}\r\n\r\n".encode() + data + b"\r\n--x--\r\n"


MANY = form(b"x", "images").removesuffix(b"--x--\r\n") * 65 + b"--x--\r\n"


@contextmanager
def serving(broker_url: str, log: Path, **settings: str) -> Iterator[Api]:
    port = free_port()
    with log.open("wb") as sink:
        child = start_child(
            [sys.executable, "-m", "producer.cli", "serve", "--port", str(port)],
            cwd=ROOT,
            env=environment(broker_url=broker_url, **settings),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: f":{port}" in log.read_text())
        yield Api(port, child, log)
    finally:
        stop_child(child, PATIENCE_S)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def queue() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def api(queue: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    log = tmp_path_factory.mktemp("api") / "log"
    with serving(queue.url, log, api_hosts="photos.example, [::2]") as found:
        yield found


@pytest.fixture
def stored(queue: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(queue.url) as client:
        yield client


def waiting(client: redis.Redis) -> list[str]:
    """What requests and images are in Redis, and results of requests."""
    names = [name.decode() for name in client.scan_iter()]
    lists = (KEYS.queue, KEYS.urgent_queue)
    return [name for name in names if name in lists or "blob:" in name or "meta-now-" in name]


def test_who_follows_holds_no_thread_and_costs_nothing_once_gone(api: Api) -> None:
    job = api.new_job()
    follow = head("GET", f"/jobs/{job}/results?follow=true")
    lines = [api.line(follow) for _ in range(FOLLOWERS)]
    assert all(line.recv(12) == b"HTTP/1.1 200" for line in lines)
    threads = psutil.Process(api.child.pid).num_threads()
    assert api.ask(head("GET", f"/jobs/{job}"))[0] == 200
    assert api.ask(posted(f"/jobs/{job}/close", b""))[1]["state"] == "finished"
    # The job is finished, with nothing: all streams end as they should.
    for line in lines:
        with line:
            assert rest_of(line).endswith(b"0\r\n\r\n")
    assert psutil.Process(api.child.pid).num_threads() <= threads + 1
    until(lambda: len(psutil.Process(api.child.pid).net_connections("tcp")) < FOLLOWERS)


def test_whoever_gives_up_leaves_nothing_in_redis(api: Api, stored: redis.Redis) -> None:
    body = form(b"x" * 300_000)
    asked = posted("/predict", body, "multipart/form-data; boundary=x")
    lines = [api.line(asked) for _ in range(6)]
    until(lambda: stored.llen(KEYS.queue) == 6)
    # Half of them have been sorted by a worker by now.
    for _ in range(3):
        stored.lmove(KEYS.queue, KEYS.urgent_queue, "RIGHT", "LEFT")
    assert 0 < stored.ttl(next(stored.scan_iter(f"{KEYS.prefix}blob:*"))) <= 90
    for line in lines:
        line.close()
    until(lambda: not waiting(stored))
    # Also what is left half-way, which has not got so far.
    with api.line(asked[:100_000]):
        pass
    assert api.ask(head("GET", "/jobs/x"))[0] == 404
    assert not waiting(stored)


def test_only_what_is_named_is_withdrawn(stored: redis.Redis) -> None:
    def message(job: str, seq: int) -> str:
        return json.dumps({"headers": {"id": f"{job}-{seq}"}, "properties": {"priority": 9}})

    for seq in range(8):
        place = KEYS.queue if seq % 2 else KEYS.urgent_queue
        stored.rpush(place, message("now-a", seq), message("now-b", seq))
    stored.set("some-blob", "x")
    try:
        taken = withdraw(stored, KEYS, "now-a", [2, 3, 6, 99], ["some-blob"])
        assert taken == {2, 3, 6}
        assert not stored.exists("some-blob")
        left = [*stored.lrange(KEYS.queue, 0, -1), *stored.lrange(KEYS.urgent_queue, 0, -1)]
        found = re.findall(r"now-([ab])-(\d)", str(left))
        wanted = {("a", seq) for seq in "01457"} | {("b", seq) for seq in "01234567"}
        assert set(found) == wanted
        assert len(found) == len(wanted)
    finally:
        stored.delete(KEYS.queue, KEYS.urgent_queue)


def test_what_a_worker_held_vanishes_when_it_ends_or_answers(
    queue: EmbeddedRedis, stored: redis.Redis
) -> None:
    now_s, job = 0.0, "now-held"
    with open_connection(Settings(broker_url=SecretUrl(queue.url))) as connection:
        withdrawals = Withdrawals(connection, job, now=lambda: now_s)
        for seq in range(3):
            stored.set(KEYS.blob(job, seq, 0), b"x")
            withdrawals.add(seq, (KEYS.blob(job, seq, 0),))
        withdrawals.step()
        assert not waiting(stored)
        # One is answered after all, one comes back, and of one nothing is ever heard.
        stored.set(KEYS.result(f"{job}-0"), failed_body(f"{job}-0", "Error", "no bytes"))
        stored.rpush(KEYS.queue, json.dumps({"headers": {"id": f"{job}-1"}}))
        now_s = 30.0
        withdrawals.step()
        assert not waiting(stored)
        assert set(withdrawals._held) == {2}
        now_s = 300.0
        withdrawals.step()
        assert not withdrawals._held


@pytest.mark.parametrize(
    ("host", "more", "status"),
    [
        ("127.0.0.1:8000", (), 404),
        ("LOCALHOST.", (), 404),
        ("[::1]:80", (), 404),
        ("photos.example:443", ("Origin: https://photos.example",), 404),
        ("[::2]", (), 404),
        ("evil.example", (), 421),
        ("127.0.0.1.evil.example", (), 421),
        ("localhost@evil.example", (), 421),
        ("127.0.0.1", ("Origin: http://evil.example",), 403),
        ("127.0.0.1", ("Origin: null",), 403),
        ("127.0.0.1", ("Origin: http://[",), 403),
    ],
)
def test_without_a_key_only_known_hosts_are_served(
    api: Api, host: str, more: tuple[str, ...], status: int
) -> None:
    assert api.ask(head("GET", "/jobs/x", *more, host=host))[0] == status


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (head("POST", "/jobs", "Transfer-Encoding: chunked"), 411, "no_length"),
        (head("POST", "/jobs", "Content-Length: 99999999999"), 413, "too_large"),
        (head("POST", "/jobs/x/images", FORM, "Content-Length: 999999999"), 413, "too_large"),
        (posted("/jobs/x/images", MANY, FORM.partition(" ")[2]), 413, "too_many"),
        (posted("/jobs/x/images", MANY.removesuffix(b"--\r\n"), FORM[14:]), 422, "bad_request"),
        (
            posted("/predict", form(b"x").replace(b"; filename", b"; x"), FORM[14:]),
            422,
            "bad_request",
        ),
        (posted("/jobs", b"{}", "text/plain"), 422, "bad_request"),
        (posted("/jobs", b'{"labels": ["\xe7"]}'), 422, "bad_request"),
        (posted("/jobs", b'{"unknown": 1}'), 422, "bad_request"),
        (posted("/jobs", b'{"images": ["no place"]}'), 422, "bad_request"),
        (posted("/predict", b"&" * 2_000_000, FIELDS), 413, "too_large"),
        (posted("/jobs", b'{"images": [' + b'"ab",' * 2_000_000 + b'""]}'), 413, "too_many"),
        (head("GET", "/jobs/no-job/results?follow=true"), 404, "no_such_job"),
        (head("GET", "/jobs/no-job/"), 404, "not_found"),
        (head("PATCH", "/jobs"), 405, "method_not_allowed"),
        (head("GET", "/health", "Content-Length: 5") + b"hello", 413, "too_large"),
        (b"nonsense\r\n\r\n", 400, "bad_request"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(
    api: Api, request_bytes: bytes, status: int, code: str
) -> None:
    found, reply, _ = api.ask(request_bytes)
    assert (found, reply["code"]) == (status, code)


def test_a_wrong_method_is_told_the_right_one(api: Api) -> None:
    assert "allow: POST" in api.ask(head("GET", "/predict"))[2]


def test_what_is_no_http_in_the_middle_of_an_answer_ends_the_connection(api: Api) -> None:
    with api.line(head("POST", "/jobs", "Transfer-Encoding: chunked")) as line:
        assert line.recv(12) == b"HTTP/1.1 411"
        line.sendall(b"no chunk\r\n")
        assert b"no_length" in rest_of(line)
    assert "Traceback" not in api.log.read_text()


def test_requests_for_other_protocols_are_no_news(api: Api) -> None:
    upgrade = head("GET", "/jobs/x").replace(b": close", b": close, upgrade\r\nUpgrade: websocket")
    assert api.ask(upgrade)[0] == 404
    assert "WebSocket" not in api.log.read_text()


def test_a_stream_ends_with_the_server_also_in_the_middle(api: Api, queue: EmbeddedRedis) -> None:
    job = api.new_job()
    with open_connection(Settings(broker_url=SecretUrl(queue.url))) as connection:
        image = (ImageResult(path="a.jpg"),)
        result = ChunkResult(job=job, seq=0, worker="", device="", model="", images=image)
        connection.jobs.set_sent(job, images=1, chunks=1)
        connection.jobs.finish_chunk(job, 0, images=1, failed=0, body=success_body(result))
        streams = ResultStreams(connection, ApiJobs(connection))

        async def first() -> bytes:
            return await anext(await streams.open(job, follow=False))

        assert b'"a.jpg"' in asyncio.run(first())
        streams.stop()
        with pytest.raises(BrokenError):
            asyncio.run(first())


def test_only_so_many_wait_at_a_time(
    api: Api, queue: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, job = Settings(broker_url=SecretUrl(queue.url)), api.new_job()
    monkeypatch.setattr(urgent_queue, "MOST_WAITING", 1)
    monkeypatch.setattr(results, "MOST_STREAMS", 1)
    with open_connection(settings) as connection:
        streams = ResultStreams(connection, ApiJobs(connection))
        urgent = UrgentQueue(connection)
        request = PredictRequest(name="a.jpg", data=b"x", options=JobOptions())

        async def both() -> None:
            urgent.start()
            first = asyncio.create_task(urgent.ask(request, PATIENCE_S))
            await asyncio.sleep(0)
            with pytest.raises(BusyError):
                await urgent.ask(request, PATIENCE_S)
            urgent.refuse_all()
            with pytest.raises(StoppingError):
                await first
            await urgent.stop()
            stream = await streams.open(job, follow=True)
            following = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            with pytest.raises(RefusedError) as caught:
                await streams.open(job, follow=True)
            assert caught.value.status == 429
            streams.stop()
            with pytest.raises(BrokenError):
                await following

        asyncio.run(both())
    with redis.Redis.from_url(queue.url) as client:
        assert not waiting(client)


def test_an_upload_that_redis_refuses_midway_is_counted_once(
    queue: EmbeddedRedis, stored: redis.Redis
) -> None:
    images = [Loaded(ImageRef("a.jpg"), b"x"), Loaded(ImageRef("b.jpg"), b"y")]
    with open_connection(Settings(broker_url=SecretUrl(queue.url))) as connection:
        jobs = ApiJobs(connection)
        job = jobs.create(JobOptions(), [], more=True).id
        stored.set(KEYS.queue, "no list")
        with pytest.raises(redis.ResponseError):
            jobs.add(job, images)
        stored.delete(KEYS.queue)
        assert jobs.look(job).images == 0
        assert not waiting(stored)
        assert jobs.add(job, images).images == 2
        assert stored.llen(KEYS.queue) == jobs.look(job).chunks == 1
        connection.client.flushdb()


def test_who_cannot_send_while_the_server_stops_leaves_no_word_in_the_log(
    queue: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []

    def fail(_: object) -> None:
        raise redis.ConnectionError

    async def ask(urgent: UrgentQueue) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: said.append(what))
        monkeypatch.setattr(urgent, "_send", fail)
        urgent.start()
        request = PredictRequest(name="a.jpg", data=b"x", options=JobOptions())
        asking = asyncio.create_task(urgent.ask(request, PATIENCE_S))
        await asyncio.sleep(0)
        urgent.refuse_all()
        await asyncio.wait([asking])
        assert isinstance(asking.exception(), redis.ConnectionError)
        del asking
        gc.collect()
        await urgent.stop()

    with open_connection(Settings(broker_url=SecretUrl(queue.url))) as connection:
        asyncio.run(ask(UrgentQueue(connection)))
    assert not said


def test_json_of_many_small_things_takes_no_memory(api: Api) -> None:
    before_mb = api.memory_mb
    for bomb in (
        b"[" + b"{}," * 5_000_000 + b"{}]",
        b'{"images": [' + b"0," * 8_000_000 + b"0]}",
    ):
        assert api.ask(posted("/jobs", bomb))[0] == 422
    assert api.memory_mb - before_mb < MOST_MB


def test_label_sets_are_bounded_as_a_whole(api: Api) -> None:
    aliases = [f"小猫{number}" for number in range(50_000)]
    many = [f"猫{number}" for number in range(20_000)]
    templates = [f"{number} {{}}" for number in range(16)]
    for asked, status in (
        ({"labels": ["猫"], "aliases": {"猫": aliases}}, 422),
        ({"labels": many, "templates": templates}, 422),
        ({"labels": many, "templates": templates[:4]}, 201),
    ):
        body = json.dumps({"open": True, **asked}).encode()
        found, reply, _ = api.ask(posted("/jobs", body))
        assert found == status, reply


def test_a_server_that_stops_breaks_streams_off(queue: EmbeddedRedis, tmp_path: Path) -> None:
    with serving(queue.url, tmp_path / "log") as api:
        follow = head("GET", f"/jobs/{api.new_job()}/results?follow=true")
        with api.line(follow) as line, api.line(head("POST", "/jobs", "Content-Length: 9")):
            assert line.recv(12) == b"HTTP/1.1 200"
            api.child.send_signal(signal.SIGTERM)
            rest = rest_of(line)
        assert not rest.endswith(b"0\r\n\r\n")
        api.child.wait(PATIENCE_S)
