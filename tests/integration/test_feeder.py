"""producer.jobs.feeder and producer.jobs.window"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from conftest import PATIENCE_S

from producer.jobs import feeder as feeding
from producer.jobs.chunks import Loaded, grouped, make_chunk
from producer.jobs.feeder import Feeder
from producer.jobs.options import JobOptions
from producer.jobs.publisher import Stores
from producer.jobs.read_image import read_image
from producer.jobs.window import Sent, Window, WindowClosedError
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import (
    MAX_CHUNK_IMAGES,
    MAX_PATH_CHARS,
    QUEUE,
    Chunk,
    Failure,
    ImageRef,
)
from worker.contract.queue.app import make_app
from worker.contract.queue.envelope import MAX_MESSAGE_BYTES
from worker.contract.queue.fair import FairQueue
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.contract.stores.jobs import JobStore

Wait = Callable[[Callable[[], bool]], None]


@pytest.fixture
def app(server: EmbeddedRedis) -> Iterator[Celery]:
    with make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False) as made:
        yield made


@pytest.fixture
def stores(app: Celery, client: redis.Redis) -> Stores:
    return Stores(app, JobStore(client, 3600), BlobStore(client, 3600))


@pytest.fixture
def inbox(app: Celery, client: redis.Redis) -> Iterator[Callable[[], list[Chunk]]]:
    """All chunks that wait in the queue, taken out as a worker takes them."""
    with app.connection_for_read() as connection:

        def take() -> list[Chunk]:
            chunks = []
            with connection.SimpleQueue(QUEUE) as queue:
                while FairQueue(KEYS).size(client):
                    message = queue.get(timeout=PATIENCE_S)
                    args, _kwargs, _embed = message.payload
                    chunks.append(Chunk.from_wire(args[0]))
                    assert chunks[-1].task_id == message.headers["id"]
                    assert message.headers["ignore_result"] is not True
                    message.ack()
            return chunks

        yield take


@pytest.fixture
def job(stores: Stores) -> str:
    return stores.jobs.create().id


def feeder_of(
    job: str, images: Iterable[str], stores: Stores, window: Window, **options: Any
) -> Feeder:
    total = options.pop("total", None)
    what = JobOptions(**options)
    return Feeder(job, images, what, stores, window, total=lambda: total, max_file_bytes=1000)


def send(job: str, paths: list[str], stores: Stores, **options: Any) -> None:
    feeder = feeder_of(job, paths, stores, Window(10_000, 10**9), **options)
    feeder.start()
    feeder._thread.join(PATIENCE_S)
    assert not feeder.check()
    assert feeder.images == len(paths)


def sent(count: int, size_bytes: int = 0) -> Sent:
    return Sent(tuple(ImageRef(f"/{n}.jpg") for n in range(count)), size_bytes)


def test_paths_travel_in_chunks_in_their_order(
    stores: Stores, job: str, inbox: Callable[[], list[Chunk]]
) -> None:
    paths = [f"/图/{number}.jpg" for number in range(20)] + [os.fsdecode(b"/\xff.jpg")]
    send(job, paths, stores, labels="0123456789abcdef", top_k=3, threshold=0.25)
    chunks = inbox()
    assert [chunk.seq for chunk in chunks] == [0, 1, 2]
    assert [len(chunk.images) for chunk in chunks] == [8, 8, 5]
    assert [image.path for chunk in chunks for image in chunk.images] == paths
    assert {(c.labels, c.top_k, c.threshold) for c in chunks} == {("0123456789abcdef", 3, 0.25)}
    found = stores.jobs.get(job)
    assert (found.images, found.chunks, found.state) == (21, 3, "submitted")


@pytest.mark.parametrize(
    ("given", "total", "wanted"),
    [
        (None, None, [8] * 128 + [16] * 64 + [32] * 64 + [64] * 76 + [40]),
        (
            None,
            9000,
            [8] * 128 + [16] * 64 + [32] * 64 + [64] * 13 + [32] * 64 + [16] * 63 + [8] * 127,
        ),
        (100, 9000, [100] * 90),
    ],
)
def test_chunks_grow_with_the_job_unless_their_size_was_given(
    stores: Stores,
    job: str,
    inbox: Callable[[], list[Chunk]],
    given: int | None,
    total: int | None,
    wanted: list[int],
) -> None:
    paths = [f"/{number}.jpg" for number in range(9000)]
    send(job, paths, stores, chunk_size=given, total=total)
    chunks = inbox()
    assert [len(chunk.images) for chunk in chunks] == wanted
    assert [image.path for chunk in chunks for image in chunk.images] == paths


def test_blobs_travel_in_small_chunks(
    stores: Stores, job: str, inbox: Callable[[], list[Chunk]], tmp_path: Path
) -> None:
    (tmp_path / "one.jpg").write_bytes(b"x")
    send(job, [str(tmp_path / "one.jpg")] * 20, stores, as_blobs=True)
    assert [len(chunk.images) for chunk in inbox()] == [8, 8, 4]


def test_a_message_needs_no_subscription_of_its_own(
    stores: Stores, job: str, client: redis.Redis
) -> None:
    send(job, ["/a.jpg"] * 50, stores, chunk_size=1)
    assert client.pubsub_channels(KEYS.result("*")) == []
    assert client.llen(KEYS.queue) == 50


def test_blobs_lie_beside_the_queue_and_failures_travel(
    stores: Stores, job: str, inbox: Callable[[], list[Chunk]], tmp_path: Path
) -> None:
    good, empty, large, gone = (tmp_path / name for name in ("good", "empty", "large", "gone"))
    good.write_bytes(b"x" * 1000)
    empty.touch()
    large.write_bytes(b"x" * 1001)
    paths = [str(path) for path in (empty, good, large, gone)]
    send(job, paths, stores, as_blobs=True)
    (chunk,) = inbox()
    assert [image.path for image in chunk.images] == paths
    codes = [image.error and image.error.code for image in chunk.images]
    assert codes == ["empty_file", None, "too_large", "not_found"]
    assert [image.blob for image in chunk.images] == [None, KEYS.blob(job, 0, 1), None, None]
    assert stores.blobs.get(KEYS.blob(job, 0, 1)) == good.read_bytes()


def test_large_blobs_make_small_chunks(
    stores: Stores,
    job: str,
    inbox: Callable[[], list[Chunk]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feeding, "MAX_BYTES", 1500)
    file = tmp_path / "a.jpg"
    file.write_bytes(b"x" * 1000)
    send(job, [str(file)] * 5, stores, as_blobs=True)
    chunks = inbox()
    assert [len(chunk.images) for chunk in chunks] == [2, 2, 1]
    assert all(stores.blobs.get(image.blob or "") for chunk in chunks for image in chunk.images)


def test_a_message_of_the_longest_names_is_one_that_workers_read() -> None:
    images = [Loaded(ImageRef("/" + "🐈" * (MAX_PATH_CHARS - 1)))] * MAX_CHUNK_IMAGES
    groups = list(grouped(images, lambda _: MAX_CHUNK_IMAGES, 2**25))
    assert sum(map(len, groups)) == MAX_CHUNK_IMAGES
    largest = max(groups, key=len)
    chunk = make_chunk("j" * 64, 0, largest, JobOptions(), KEYS).chunk
    # As kombu writes it: JSON in ASCII, in base64.
    body = base64.b64encode(json.dumps([[chunk.to_wire()], {}, {}]).encode())
    assert MAX_MESSAGE_BYTES / 3 < len(body) < MAX_MESSAGE_BYTES * 0.75


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def refused(path: Path | str) -> Failure:
        data = read_image(ImageRef(str(path)), 1000)
        assert isinstance(data, Failure)
        assert data.stage == "read"
        return data

    assert refused(pipe) == Failure("not_a_file", "read", "this is a FIFO, not a regular file")
    assert refused(tmp_path).message == "this is a directory, not a regular file"
    assert refused("/dev/zero").message == "this is a device, not a regular file"
    assert refused(pipe / "below").code == "not_found"
    pipe.unlink()
    pipe.symlink_to(pipe)
    assert refused(pipe).code == "unreadable"


def test_the_feeder_waits_when_enough_is_under_way(
    stores: Stores, job: str, client: redis.Redis, wait_until: Wait
) -> None:
    window = Window(16, 10**9)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"/{taken}.jpg"

    feeder = feeder_of(job, endless(), stores, window)
    feeder.start()
    wait_until(lambda: client.llen(KEYS.queue) == 2 and taken == 24)
    window.remove(0)
    wait_until(lambda: client.llen(KEYS.queue) == 3 and taken == 32)
    assert feeder.check()
    feeder.stop()
    assert not feeder.check()
    assert not feeder.sent_all
    assert stores.jobs.get(job).chunks == client.llen(KEYS.queue) == 3


def test_what_goes_wrong_while_sending_is_raised_where_results_are_collected(
    stores: Stores, job: str, wait_until: Wait
) -> None:
    def failing() -> Iterator[str]:
        yield "/a.jpg"
        raise OSError(5, "Input/output error")

    feeder = feeder_of(job, failing(), stores, Window(16, 10**9))
    feeder.start()
    wait_until(lambda: not feeder._thread.is_alive())
    with pytest.raises(OSError, match="Input/output error"):
        feeder.check()


def test_a_window_bounds_images_and_bytes() -> None:
    window = Window(10, 100)
    window.add(0, sent(8, 10))
    assert not window._fits(sent(3))
    assert window._fits(sent(2, 90))
    assert not window._fits(sent(1, 91))
    assert window.remove(0) == sent(8, 10)
    assert window.images == 0


def test_a_chunk_larger_than_the_window_goes_alone() -> None:
    window = Window(10, 100)
    window.add(0, sent(50, 1000))
    assert window.images == 50
    assert not window._fits(sent(1))


def test_who_waits_for_room_is_sent_away_when_the_window_closes(wait_until: Wait) -> None:
    window = Window(1, 1)
    window.add(0, sent(1))
    raised = threading.Event()

    def wait_for_room() -> None:
        with pytest.raises(WindowClosedError):
            window.add(1, sent(1))
        raised.set()

    thread = threading.Thread(target=wait_for_room)
    thread.start()
    window.close()
    thread.join(PATIENCE_S)
    assert raised.is_set()
    assert window.parts(1) == [[0]]
