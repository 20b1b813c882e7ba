"""Hundreds of files made to break decoders, through a real worker: each has one record."""

from __future__ import annotations

import json
import os
import random
import struct
import zlib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import redis
from conftest import Fleet, run, until
from images import encoded, huge_png, picture
from worker_pool import Member

from producer.cli.exit_codes import SOME_FAILED
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import TASK, Chunk, ChunkResult, ImageRef
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.jobs import JobStore

pytestmark = pytest.mark.integration

KINDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}
EACH = 100
MAX_PIXELS = 50_000_000
# What ops/docs/operations.md states: above what the worker holds at rest.
BYTES_A_PIXEL = 16
MB = 1e6


@cache
def sound(number: int, kind: str) -> bytes:
    return encoded(picture(number, (320, 240)), kind)


def broken(kind: str, dice: random.Random) -> bytes:
    """A valid image in which something is wrong: bits, the end, the size it claims, its middle."""
    body = bytearray(sound(dice.randrange(16), kind))
    how = dice.randrange(4)
    if how == 0:
        for _ in range(dice.randint(1, 30)):
            body[dice.randrange(len(body))] ^= 1 << dice.randrange(8)
    elif how == 1:
        del body[dice.randrange(1, len(body)) :]
    elif how == 2:
        lie(kind, body, dice)
    else:
        place = dice.randrange(len(body))
        body[place : place + dice.randrange(200)] = dice.randbytes(dice.randrange(200))
    return bytes(body)


def lie(kind: str, body: bytearray, dice: random.Random) -> None:
    """Claim another width and height in the header."""
    width, height = (dice.choice([0, 1, 3, 319, 5000, 30_000, 65_535]) for _ in range(2))
    if kind == "PNG":
        struct.pack_into(">II", body, 16, width, height)
        struct.pack_into(">I", body, 29, zlib.crc32(body[12:29]))
    elif kind == "JPEG":
        place = body.index(b"\xff\xc0")
        struct.pack_into(">HH", body, place + 5, height, width)
    elif kind == "GIF":
        struct.pack_into("<HH", body, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", body, 18, width, -height if dice.random() < 0.3 else height)
    elif kind == "TIFF":
        first = struct.unpack_from("<I", body, 4)[0]
        for number in range(struct.unpack_from("<H", body, first)[0]):
            place = first + 2 + 12 * number
            if struct.unpack_from("<H", body, place)[0] in (256, 257):
                struct.pack_into("<I", body, place + 8, width if dice.random() < 0.5 else 2**31)
    else:
        place = body.index(b"VP8 ") + 14
        struct.pack_into("<HH", body, place, width & 0x3FFF, height & 0x3FFF)


def test_every_hostile_file_ends_in_one_record_and_the_worker_stays(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    dice, directory = random.Random(20261127), tmp_path / "hostile"
    directory.mkdir()
    for kind, ending in KINDS.items():
        for number in range(EACH):
            (directory / f"{number}.{ending}").write_bytes(broken(kind, dice))
    # Bombs: small files that are large images, some within the limit and some beyond.
    for number, size in enumerate([(7000, 7000), (7001, 7000), (10_000, 5000), (60_000, 60_000)]):
        (directory / f"bomb-{number}.png").write_bytes(huge_png(*size))
    wanted = {str(file) for file in directory.iterdir()}
    worker = fleet.start(server.url, max_pixels=str(MAX_PIXELS))
    member = Member(worker.process.pid)
    at_rest_mb = member.resident_mb()
    out = tmp_path / "out.jsonl"
    done = run("producer", "submit", str(directory), "--out", str(out), broker_url=server.url)
    assert done.returncode == SOME_FAILED, done.stderr
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert Counter(line["path"] for line in lines) == dict.fromkeys(wanted, 1)
    codes = Counter(line["error"]["code"] for line in lines if line["error"])
    # Each has its own reason, and a bug of ours is none.
    assert codes["internal_error"] == codes["inference_failed"] == 0
    assert min(codes["truncated"], codes["broken_image"], codes["too_many_pixels"]) > 0
    assert 100 < sum(codes.values()) < len(wanted)
    assert worker.process.poll() is None
    assert "Traceback" not in worker.text
    assert member.peak_mb() - at_rest_mb < BYTES_A_PIXEL * MAX_PIXELS / MB
    assert not client.exists(KEYS.queue, KEYS.unacked)
    assert not client.keys(f"{KEYS.prefix}attempts:*")
    assert worker.stop() == 0


def test_no_path_in_a_message_leads_outside(
    server: EmbeddedRedis, client: redis.Redis, fleet: Fleet, tmp_path: Path
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "inner").mkdir(parents=True)
    outside.mkdir()
    secret = outside / "secret.jpg"
    for place in (root / "good.jpg", secret):
        place.write_bytes(encoded(picture(1)))
    (root / "link.jpg").symlink_to(secret)
    (root / "way").symlink_to(outside, target_is_directory=True)
    (root / "chain").symlink_to(root / "way")
    (root / "proc").symlink_to("/proc/self/environ")
    os.mkfifo(root / "fifo.jpg")
    os.mkfifo(outside / "fifo.jpg")
    wanted = {
        f"{root}/good.jpg": None,
        f"{root}/inner/../good.jpg": None,
        f"{root}/../outside/secret.jpg": "outside_roots",
        f"{root}/inner/../../outside/secret.jpg": "outside_roots",
        str(secret): "outside_roots",
        f"{root}/link.jpg": "outside_roots",
        f"{root}/way/secret.jpg": "outside_roots",
        f"{root}/chain/secret.jpg": "outside_roots",
        f"{root}/proc": "outside_roots",
        f"{root}/../outside/fifo.jpg": "outside_roots",
        "/etc/passwd": "outside_roots",
        "/proc/self/environ": "outside_roots",
        f"/proc/self/root{secret}": "outside_roots",
        "/proc/self/cwd/pyproject.toml": "outside_roots",
        "/dev/zero": "outside_roots",
        "/dev/stdin": "outside_roots",
        f"{root}/fifo.jpg": "not_a_file",
        f"{root}/inner": "not_a_file",
        str(root): "not_a_file",
        f"{root}/none.jpg": "not_found",
        f"{root}-sibling/x.jpg": "not_found",
        "good.jpg": "not_found",
    }
    worker = fleet.start(server.url, "--allow", str(root), image_roots="")
    app = make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
    jobs = JobStore(client, 60)
    job = jobs.create().id
    # Straight into the queue, as whoever can write to Redis could.
    chunk = Chunk(job=job, seq=0, images=tuple(map(ImageRef, wanted)), sent_at_s=1.0)
    app.send_task(TASK, args=[chunk.to_wire()], task_id=chunk.task_id)
    until(lambda: bool(jobs.collect(job, [0])))
    (result,) = jobs.collect(job, [0])
    assert isinstance(result, ChunkResult)
    codes = {image.path: image.error and image.error.code for image in result.images}
    assert codes == wanted
    assert all(not image.tags for image in result.images if image.error)
    assert worker.process.poll() is None
