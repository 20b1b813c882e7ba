"""Decode processes: deadlines, limits of memory, crashes; a real server and real processes."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE_S, until
from images import encoded, picture, slow_ppm
from PIL import Image

from worker.artifact.manifest import Preprocessing
from worker.contract.messages import Part
from worker.contract.settings import IMAGE_FORMATS, SLOW
from worker.errors import DecoderStartError, WorkerGoneError
from worker.images.decode import decode
from worker.images.decoder import DecodeConfig, DecodeRequest, Done
from worker.images.isolated.fork_server import ForkServer
from worker.images.isolated.pool import MAX_CRASHES, DecodePool

SPEC = Preprocessing(height=16, width=24)
DEADLINE_S = 3.0
MEMORY = 128 * 1024 * 1024
DECODERS = 2
# A server of decode processes whose system refuses to fork.
NO_FORKS = """#!{python}
import os, sys
def fork(): raise BlockingIOError(11, "too many processes")
os.fork = fork
sys.argv = sys.argv[2:]
from worker.images.isolated.server import main
main()
"""


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, 255 - number % 256, number // 2 % 256


def config_of(root: Path) -> DecodeConfig:
    return DecodeConfig(
        preprocessing=SPEC,
        roots=(os.fsencode(root),),
        formats=(*IMAGE_FORMATS, SLOW),
        max_file_bytes=64 * 1024 * 1024,
        max_pixels=20_000_000,
        jpeg_max_side=0,
        fast=False,
        decoders=DECODERS,
        memory_bytes=MEMORY,
    )


class Decoding:
    """A pool, and what has become of the images that were given to it."""

    def __init__(self, root: Path) -> None:
        self._others = {*_children(os.getpid())}
        self.died = threading.Event()
        self.done: list[Done] = []
        self.root = root
        self.pool = DecodePool(config_of(root), DEADLINE_S, self.died.set)
        self.pool.launch()
        self.pool.start()

    def path(self, name: str, data: bytes) -> bytes:
        (self.root / name).write_bytes(data)
        return os.fsencode(self.root / name)

    def submit(self, *images: dict[str, Any], urgent: bool = False) -> Callable[[], list[Done]]:
        """Submit images; what is returned waits for all of them."""
        done: dict[int, Done] = {}
        ready = threading.Semaphore(0)

        def keeper(number: int) -> Callable[[Done], None]:
            def keep(one: Done) -> None:
                assert number not in done, "an image is done once"
                done[number] = one
                self.done.append(one)
                ready.release()

            return keep

        requests = [DecodeRequest(keeper(number), **image) for number, image in enumerate(images)]
        self.pool.submit(requests, urgent=urgent)

        def wait() -> list[Done]:
            for _ in images:
                assert ready.acquire(timeout=PATIENCE_S)
            return [done[number] for number in range(len(images))]

        return wait

    def server(self) -> int:
        """Return the process that the decode processes are forked from."""
        (server,) = {*_children(os.getpid())} - self._others
        return server

    def processes(self) -> list[int]:
        """Return the process ids of the decode processes."""
        return _children(self.server())


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listing in found for child in listing.read_text().split()]


@pytest.fixture(scope="module")
def decoding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Decoding]:
    found = Decoding(tmp_path_factory.mktemp("images"))
    yield found
    found.pool.stop()


def code(done: Done) -> str | None:
    failure = getattr(done.error, "failure", None)
    return failure().code if failure else None


def test_many_images_get_their_own_pixels_from_files_and_from_bytes(decoding: Decoding) -> None:
    data = [encoded(Image.new("RGB", (30, 20), colour(number)), "PNG") for number in range(200)]
    images: list[dict[str, Any]] = [
        {"data": one} if number % 3 else {"path": decoding.path(f"{number}.png", one)}
        for number, one in enumerate(data)
    ]
    for number, done in enumerate(decoding.submit(*images)()):
        assert done.error is None
        assert done.pixels_CHW is not None
        assert tuple(done.pixels_CHW[:, 8, 8]) == colour(number)
        assert (done.stamp is None) == bool(number % 3)
        assert done.decode_ms is not None


def test_pixels_are_those_that_decoding_in_this_process_gives(decoding: Decoding) -> None:
    data = encoded(picture(3), "JPEG")
    (done,) = decoding.submit({"data": data, "thumbnail_px": 8})()
    wanted = decode(data, SPEC, max_pixels=10**8)
    assert done.pixels_CHW is not None
    assert np.array_equal(done.pixels_CHW, wanted)
    assert done.thumbnail


def test_the_processes_are_told_apart_by_their_names(decoding: Decoding) -> None:
    def name(pid: int) -> str:
        return Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()

    assert name(decoding.server()) == "wanwu-decoders"
    until(lambda: {name(pid) for pid in decoding.processes()} == {"wanwu-decode"})


def test_a_part_of_a_file_is_read(decoding: Decoding) -> None:
    image = encoded(picture(4), "PNG")
    path = decoding.path("shard.tar", b"x" * 100 + image + b"y" * 10)
    (done,) = decoding.submit({"path": path, "part": Part(100, len(image))})()
    assert done.error is None


def test_errors_of_reading_and_decoding_keep_their_codes(decoding: Decoding) -> None:
    images = [
        {"path": decoding.path("text.jpg", b"no image at all")},
        {"path": decoding.path("empty.jpg", b"")},
        {"path": os.fsencode(decoding.root / "nowhere.jpg")},
        {"path": b"/etc/hostname"},
        {"data": encoded(picture(5), "PNG")[:60]},
    ]
    found = decoding.submit(*images)()
    assert [code(done) for done in found] == [
        *("not_an_image", "empty_file", "not_found", "outside_roots", "truncated")
    ]
    assert found[2].decode_ms is None
    assert found[0].decode_ms is not None


def test_an_image_that_takes_too_long_fails_alone_and_once(decoding: Decoding) -> None:
    before = decoding.pool.figures.timeouts
    slow = {"path": decoding.path("slow.ppm", slow_ppm())}
    good = {"data": encoded(picture(6), "PNG")}
    found = decoding.submit(good, slow, good, good, slow, good, good, good)()
    assert [code(done) for done in found] == [
        *(None, "decode_timeout", None, None, "decode_timeout", None, None, None)
    ]
    assert decoding.pool.figures.timeouts == before + 2
    # Those that were killed take a moment to go.
    until(lambda: len(decoding.processes()) == DECODERS + 1)


def test_an_urgent_image_is_decoded_while_all_processes_have_one_that_hangs(
    decoding: Decoding,
) -> None:
    slow = [{"path": decoding.path("slow.ppm", slow_ppm())}] * DECODERS
    waiting = decoding.submit(*slow)
    (done,) = decoding.submit({"data": encoded(picture(7), "PNG")}, urgent=True)()
    assert done.error is None
    assert [code(one) for one in waiting()] == ["decode_timeout"] * DECODERS


def test_an_image_that_needs_too_much_memory_fails_alone(decoding: Decoding) -> None:
    body = io.BytesIO()
    # In memory once as it is, and once on white.
    Image.new("RGBA", (4470, 4470)).save(body, "PNG", compress_level=1)
    large = {"data": body.getvalue()}
    good = {"data": encoded(picture(8), "PNG")}
    found = decoding.submit(good, large, good)()
    assert [code(done) for done in found] == [None, "out_of_memory", None]


def test_large_images_are_decoded_one_by_one_and_small_ones_pass_them(decoding: Decoding) -> None:
    # More than half of what may be in memory at once.
    large = {"data": encoded(Image.new("L", (4000, 3000)), "PNG")}
    small = {"data": encoded(picture(8), "PNG")}
    done = decoding.done = []
    with_large = decoding.submit(*[large] * 8)
    for _ in range(4):
        assert decoding.submit(small)()[0].error is None
    assert len(done) - 4 < 8, "small images waited for all large ones"
    assert [one.error for one in with_large()] == [None] * 8


def test_a_process_that_is_killed_costs_no_image(decoding: Decoding) -> None:
    before = decoding.pool.figures.crashes
    data = encoded(picture(9, (2000, 1500)), "JPEG")
    waiting = decoding.submit(*[{"data": data}] * 40)
    for pid in decoding.processes()[:DECODERS]:
        os.kill(pid, signal.SIGKILL)
    assert [code(done) for done in waiting()] == [None] * 40
    assert decoding.pool.figures.crashes <= before + DECODERS
    (done,) = decoding.submit({"data": data})()
    assert done.error is None


def test_an_image_that_ends_its_process_each_time_is_not_tried_for_ever(
    decoding: Decoding,
) -> None:
    slow = {"path": decoding.path("slow.ppm", slow_ppm())}
    waiting = decoding.submit(slow)
    for attempt in range(MAX_CRASHES):
        os.kill(_busy(decoding, attempt), signal.SIGKILL)
    assert [code(done) for done in waiting()] == ["decoder_crashed"]


def _busy(decoding: Decoding, crashes: int) -> int:
    """Return the process that works, once there have been so many crashes of its image."""
    ends = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        for member in [*decoding.pool._staff.members]:
            in_hand, _ = member.left()
            if in_hand is not None and in_hand.crashes == crashes:
                return member.handles.pid
        ends.wait(0.01)
    pytest.fail("no process has the image")


def test_processes_that_are_stopped_cost_no_image(decoding: Decoding) -> None:
    for pid in decoding.processes():
        os.kill(pid, signal.SIGSTOP)
    data = encoded(picture(9), "PNG")
    assert [code(done) for done in decoding.submit(*[{"data": data}] * 10)()] == [None] * 10


def test_what_libraries_say_goes_nowhere(decoding: Decoding) -> None:
    def errors() -> set[str]:
        return {str(Path(f"/proc/{pid}/fd/2").readlink()) for pid in decoding.processes()}

    until(lambda: errors() == {os.devnull})


def test_when_the_server_of_the_processes_ends_all_is_started_anew(decoding: Decoding) -> None:
    server = decoding.server()
    data = encoded(picture(9, (2000, 1500)), "JPEG")
    waiting = decoding.submit(*[{"data": data}] * 10)
    os.kill(server, signal.SIGKILL)
    assert [code(done) for done in waiting()] == [None] * 10
    assert not decoding.died.is_set()
    assert len(decoding.processes()) == DECODERS + 1


def test_when_no_process_can_be_started_others_must_try_and_the_worker_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decoding = Decoding(tmp_path)
    server = decoding.server()
    # What is to be started as the next server ends at once.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    waiting = decoding.submit(*[{"data": slow_ppm()}] * 4)
    os.kill(server, signal.SIGKILL)
    assert all(isinstance(done.error, WorkerGoneError) for done in waiting())
    assert decoding.died.wait(PATIENCE_S)
    assert decoding.pool.died
    (done,) = decoding.submit({"data": b"late"})()
    assert isinstance(done.error, WorkerGoneError)
    decoding.pool.stop()
    # For the operator, in the log.
    assert "decoders.gone" in (said := capsys.readouterr().out)
    assert "it ends at once" in said


def test_where_the_system_starts_no_process_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    pool = DecodePool(config_of(tmp_path), DEADLINE_S)
    pool.launch()
    with pytest.raises(DecoderStartError, match="No such file"):
        pool.start()
    pool.stop()


def test_a_fork_that_the_system_refuses_is_told_and_does_not_end_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(NO_FORKS.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    server = ForkServer(config_of(tmp_path))
    server.wait()
    for _ in range(2):
        with pytest.raises(DecoderStartError, match="too many processes"):
            server.fork()
    server.stop()


def test_stopping_decodes_what_was_submitted_and_leaves_no_process(tmp_path: Path) -> None:
    before = _children(os.getpid())
    decoding = Decoding(tmp_path)
    waiting = decoding.submit(*[{"data": encoded(picture(1), "PNG")}] * 20)
    decoding.pool.stop()
    decoding.pool.stop()
    assert [code(done) for done in waiting()] == [None] * 20
    assert [done.pixels_CHW is None for done in decoding.submit({"data": b"late"})()] == [True]
    assert _children(os.getpid()) == before
