"""Files made to take long, or much memory, among good ones, through a real worker."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import psutil
import pytest
import redis
import urllib3
from bomb_containers import containers
from bomb_rasters import rasters
from conftest import PATIENCE_S, Fleet, run, until
from images import encoded, fill, picture, slow_ppm
from server import free_port
from serving import serving

from producer.cli.exit_codes import SOME_FAILED
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.integration

GOOD = 200
# Long for an image of this size, even where other programs keep all cores busy.
DEADLINE_S = "5"
# All bombs of 196 million pixels are beyond: how long such an image takes is no matter here.
MAX_PIXELS = 50_000_000
# What ops/docs/operations.md states: above what the worker holds at rest.
BYTES_A_PIXEL = 16
# Whatever may be said of a bomb. That its process ended on its own is not among it.
CODES = {
    *("ok", "too_complex", "too_many_pixels", "broken_image", "truncated", "not_an_image"),
    *("out_of_memory", "decode_timeout"),
}


@contextmanager
def watched(port: int) -> Iterator[Counter[int]]:
    """Ask the worker's health again and again, and count the answers."""
    answers: Counter[int] = Counter()
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
                    answers[answer.status] += 1
            except urllib.error.HTTPError as e:
                answers[e.code] += 1

    thread = Thread(target=watch)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_bombs_cost_themselves_alone(server: EmbeddedRedis, fleet: Fleet, tmp_path: Path) -> None:
    good = set(map(str, fill(tmp_path / "images", GOOD)))
    bombs = set()
    # Among the good ones, by name. What they are is not taken from their names.
    for number, (name, data) in enumerate((*rasters(), *containers())):
        file = tmp_path / "images" / f"册{number % 2}" / f"图 {number % 100}-{name}.jpg"
        file.write_bytes(data)
        bombs.add(str(file))
    port = free_port()
    worker = fleet.start(
        server.url,
        monitor_port=str(port),
        max_pixels=str(MAX_PIXELS),
        decode_timeout_s=DEADLINE_S,
    )
    at_rest = psutil.Process(worker.process.pid).memory_info().rss
    out = tmp_path / "out.jsonl"
    with watched(port) as health:
        options = ("--out", str(out))
        done = run("producer", "submit", str(tmp_path / "images"), *options, broker_url=server.url)
    assert done.returncode == SOME_FAILED, done.stderr
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert Counter(record["path"] for record in records) == dict.fromkeys(good | bombs, 1)
    codes = {record["path"]: (record["error"] or {"code": "ok"})["code"] for record in records}
    assert Counter(codes[path] for path in good) == {"ok": GOOD}
    assert {codes[path] for path in bombs} <= CODES
    assert set(health) == {200}
    assert worker.process.poll() is None
    assert "Traceback" not in worker.text
    assert peak_bytes(worker.process.pid) - at_rest < BYTES_A_PIXEL * MAX_PIXELS
    assert worker.stop() == 0


def test_a_question_does_not_wait_for_chunks_that_hang(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    (tmp_path / "slow.ppm").write_bytes(slow_ppm())
    # With one chunk it has all that it may hold.
    fleet.start(
        server.url, prefetch_chunks="1", image_formats="JPEG,PPM,SLOW", decode_timeout_s="6"
    )
    with serving(server.url, tmp_path / "api.log") as address:
        sent = run(
            *("producer", "submit", str(tmp_path / "slow.ppm"), "--no-wait"), broker_url=server.url
        )
        assert sent.returncode == 0, sent.stderr
        until(lambda: client.hlen(KEYS.unacked) == 1)
        held = set(client.hkeys(KEYS.unacked))
        fields = {"image": ("good.jpg", encoded(picture(1)), "image/jpeg")}
        answer = urllib3.request("POST", f"{address}/predict", fields=fields, timeout=PATIENCE_S)
        assert answer.status == 200
        # The question itself may be there still: it is acknowledged once its answer is there.
        still = set(client.hkeys(KEYS.unacked))
        assert held <= still, "the question waited for the image that hangs"
