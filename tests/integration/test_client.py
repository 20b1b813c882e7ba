"""The Python API against a real Redis and a real worker process."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import redis
from conftest import PATIENCE_S, ROOT, SMALL_MODEL, STEADY, Fleet, environment, until
from images import fill

from producer import (
    Client,
    ExistingRecordsError,
    InUseError,
    JobLostError,
    NoImagesError,
    NoSuchJobError,
    NoSuchPathError,
    NotInstalledError,
    NoWorkerError,
    ProducerError,
    RecordsError,
    ServerError,
    UnavailableError,
    UsageError,
)
from producer.jobs import redis_transport
from producer.jobs.stream import RecordStream
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.labels import LabelPack
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.messages import QUEUE, TASK
from worker.contract.stores.jobs import JobStore

LABELS = ["猫", "狗"]


@pytest.fixture(scope="module")
def queue() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="module")
def worker(queue: str, fleet: Fleet) -> None:
    """One of a hundred images a second: what must be met at work, is."""
    fleet.start(queue, program=STEADY)


@pytest.fixture(scope="module")
def example_queue(fleet: Fleet) -> Iterator[str]:
    """A Redis of its own, with a worker that has the real model."""
    with EmbeddedRedis() as server:
        fleet.start(server.url)
        yield server.url


@pytest.fixture
def jobs(queue: str) -> Iterator[JobStore]:
    with redis.Redis.from_url(queue) as connected:
        yield JobStore(connected, 3600)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    return [str(path) for path in fill(tmp_path / "photos", 40)]


@pytest.fixture
def many(tmp_path: Path) -> list[str]:
    return [str(path) for path in fill(tmp_path / "many", 400)]


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_each_image_has_one_record_with_the_tags_that_were_asked_for(
    queue: str, worker: None, photos: list[str], tmp_path: Path
) -> None:
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    with Client(queue) as client:
        stream = client.tag(tmp_path / "photos", LABELS, top_k=1, templates="一张{}")
        records = list(stream)
    assert sorted(record.path for record in records) == sorted(
        [*photos, str(tmp_path / "photos" / "broken.jpg")]
    )
    assert (stream.done, stream.failed, stream.total) == (41, 1, 41)
    for record in records:
        assert (record.status == "failed") == record.path.endswith("broken.jpg")
        assert [tag.label for tag in record.tags] in ([], ["猫"], ["狗"])


def test_records_come_while_images_are_still_being_sent(
    queue: str, worker: None, photos: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_transport, "MAX_IMAGES", 16)
    taken: list[str] = []

    def names() -> Iterator[str]:
        for photo in photos * 5:
            taken.append(photo)
            yield photo

    came = 0
    with Client(queue) as client:
        for _record in client.tag(names(), LABELS):
            came += 1
            # What is under way is bounded, and a chunk of 8 waits to be.
            assert len(taken) - came <= 16 + 8 + 8
    assert came == len(taken) == 200


@pytest.mark.parametrize("waits", [True, False])
def test_a_job_that_redis_has_lost_meanwhile_ends(
    queue: str,
    worker: None,
    many: list[str],
    jobs: JobStore,
    monkeypatch: pytest.MonkeyPatch,
    waits: bool,
) -> None:
    monkeypatch.setattr(redis_transport, "MAX_IMAGES", 16)
    sent = iter(many)

    def names() -> Iterator[str]:
        yield from islice(sent, 100)
        with redis.Redis.from_url(queue) as connected:
            connected.delete(f"wanwu:job:{jobs.list()[0].id}")
        yield from sent

    with Client(queue) as client, pytest.raises(JobLostError, match="submit again"):
        list(client.tag(names(), LABELS) if waits else client.submit(names(), LABELS))
    assert next(sent, None)


def test_whoever_takes_no_records_stops_the_sending(
    queue: str,
    worker: None,
    many: list[str],
    jobs: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_transport, "MAX_IMAGES", 16)
    with Client(queue) as client, client.tag(many, LABELS) as stream:
        next(stream)
        until(lambda: jobs.get(stream.job).outstanding == 0)
        assert jobs.get(stream.job).images < 64
        assert stream.total == 400


def test_an_iteration_that_is_closed_early_marks_its_job_and_ends_its_threads(
    queue: str, worker: None, photos: list[str], jobs: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_transport, "MAX_IMAGES", 16)
    with Client(queue) as client:
        stream = client.tag(photos, LABELS)
        next(stream)
        stream.close()
        assert not {"feeder", "publisher"} & threads()
        job = jobs.get(stream.job)
        assert job.status == "interrupted"
        assert job.images < len(photos)
        assert list(stream) == []
        # What was sent is tagged all the same.
        assert len(list(client.results(stream.job, wait=True))) == job.images


def test_leaving_the_block_closes_what_is_still_open_and_all_connections(
    queue: str, worker: None, many: list[str], jobs: JobStore
) -> None:
    def used() -> None:
        with Client(queue) as client:
            stream = client.tag(many, LABELS)
            next(stream)
            streams.append(stream)
            client.status()

    streams: list[RecordStream] = []
    port = urlsplit(queue).port

    def connections() -> int:
        """Those of this process: a worker may need more of its own meanwhile."""
        ours = psutil.Process().net_connections("tcp")
        return sum(getattr(one.raddr, "port", None) == port for one in ours)

    used()
    gc.collect()
    until(lambda: not {"feeder", "publisher"} & threads())
    before = connections()
    for _ in range(3):
        used()
    gc.collect()
    until(lambda: connections() <= before)
    assert all(list(stream) == [] for stream in streams)
    assert jobs.get(streams[0].job).status in {"interrupted", "submitted", "finished"}


def test_a_job_that_broke_off_is_resumed(
    queue: str,
    worker: None,
    photos: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_transport, "MAX_IMAGES", 16)
    out = tmp_path / "tags.jsonl"
    with Client(queue) as client:
        with client.tag(photos, LABELS, out=out) as stream:
            first = [next(stream).path]
        on_disk = [json.loads(line)["path"] for line in out.read_text().splitlines()]
        assert first[0] in on_disk
        assert len(on_disk) < len(photos)
        with pytest.raises(ExistingRecordsError, match="holds"):
            next(client.tag(photos, LABELS, out=out))
        resumed, rest = client.tag(photos, LABELS, out=out, resume=True), list[str]()
        for record in resumed:
            # Those that the job before has left come first, when nothing is sent yet.
            assert (resumed.total or 0) <= len(photos)
            rest.append(record.path)
        assert not set(rest) & set(on_disk)
        assert sorted([*rest, *on_disk]) == sorted(photos)
        lines = [json.loads(line)["path"] for line in out.read_text().splitlines()]
        assert sorted(lines) == sorted(photos)
        assert list(client.tag(photos, LABELS, out=out, resume=True)) == []
        again = list(client.tag(photos[:3], LABELS, out=out, overwrite=True))
        assert len(again) == len(out.read_text().splitlines()) == 3


def test_a_file_is_written_by_one_job_at_a_time(
    queue: str, worker: None, photos: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "tags.csv"
    with Client(queue) as client, client.tag(photos, LABELS, out=out) as stream:
        next(stream)
        with pytest.raises(InUseError, match="is being written"):
            next(client.tag(photos, LABELS, out=out, resume=True))


def test_a_job_is_submitted_looked_at_and_fetched(
    queue: str, worker: None, photos: list[str]
) -> None:
    with Client(queue) as client:
        job = client.submit(photos, LabelPack(("猫", "狗")), chunk_size=4)
        assert {record.path for record in client.results(job, wait=True)} == set(photos)
        assert client.job(job).status == "finished"
        assert client.cancel(job).status == "finished"
        status = client.status()
        assert job in {one.id for one in status.jobs}
        assert len(status.workers) == 1


def test_each_image_of_a_chunk_that_was_refused_has_a_record(
    queue: str, worker: None, photos: list[str], jobs: JobStore
) -> None:
    with Client(queue) as client:
        job = jobs.create().id
        images = [{"path": photo} for photo in photos]
        chunk = {"v": 1, "job": job, "seq": 0, "images": images, "sent_at_s": 0.0, "top_k": 0}
        jobs.set_sent(job, images=len(photos), chunks=1)
        client.connection.app.send_task(TASK, args=[chunk], task_id=f"{job}-0", queue=QUEUE)
        jobs.set_state(job, "submitted")
        records = list(client.results(job, wait=True))
        assert [record.path for record in records] == photos
        assert {record.error and record.error.code for record in records} == {"lost"}
        assert all("top_k" in record.error.message for record in records if record.error)


def test_a_job_is_cancelled(queue: str, worker: None, many: list[str]) -> None:
    with Client(queue) as client:
        job = client.submit(many, LABELS)
        assert client.cancel(job).status == "cancelled"
        codes = {r.error and r.error.code for r in client.results(job, wait=True)}
        assert "cancelled" in codes


def test_what_cannot_be_used_is_refused_before_any_work(queue: str, tmp_path: Path) -> None:
    with Client(queue) as client:
        with pytest.raises(NoSuchPathError, match="/nowhere does not exist"):
            client.tag("/nowhere")
        with pytest.raises(NoImagesError, match="no image found"):
            next(client.tag(tmp_path))
        empty: tuple[list[str], set[str]] = ([], set())
        for nothing in empty:
            with pytest.raises(NoImagesError, match="the list of paths is empty"):
                client.tag(nothing)
        for unnamed in ("", [str(tmp_path), ""]):
            with pytest.raises(NoSuchPathError, match="the name of a path is empty"):
                client.tag(unnamed)
        with pytest.raises(UsageError, match="exactly once"):
            client.tag(tmp_path, LABELS, templates="none")
        with pytest.raises(UsageError, match="blank"):
            client.tag(tmp_path, [" "])
        with pytest.raises(UsageError, match="ending"):
            client.tag(tmp_path, LABELS, out=tmp_path / "tags.doc")
        for ask in (client.job, client.cancel):
            with pytest.raises(NoSuchJobError, match="there is no job"):
                ask("no-job")
    with pytest.raises(UsageError, match="not open"):
        client.status()
    with pytest.raises(UsageError, match="only redis"):
        Client("amqp://localhost")
    with pytest.raises(UsageError, match="the URL of Redis is empty"):
        Client("")


def test_errors_name_arguments_as_they_are_written_in_python(
    queue: str, worker: None, photos: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "tags.jsonl"
    with Client(queue) as client:
        list(client.tag(photos[:2], LABELS, out=out))
        advice = "continue with resume=True, or replace them with overwrite=True"
        with pytest.raises(ExistingRecordsError, match=advice):
            next(client.tag(photos, LABELS, out=out))
        with pytest.raises(UsageError, match="or give out_format="):
            client.tag(photos, LABELS, out=tmp_path / "tags")
        with pytest.raises(RecordsError, match="submit with embeddings=True"):
            client.retag(out, LABELS, tmp_path / "new.jsonl", model=str(SMALL_MODEL))
        with pytest.raises(ExistingRecordsError, match="choose another out="):
            client.retag(out, LABELS, out)


def test_whatever_stands_in_the_way_is_a_producer_error(
    server: EmbeddedRedis, client: redis.Redis, photos: list[str]
) -> None:
    with pytest.raises(UnavailableError, match="cannot reach Redis"), Client("redis://127.0.0.1:1"):
        pass
    with Client(server.url) as tagger:
        with pytest.raises(NoWorkerError, match="no worker is online"):
            next(tagger.tag(photos, LABELS))
        client.set(KEYS.queue, "no list")
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            tagger.submit(photos, LABELS)
    with Client("http://127.0.0.1:1") as tagger, pytest.raises(ServerError, match="no answer"):
        next(tagger.tag(photos, LABELS))
    assert all(issubclass(kind, ProducerError) for kind in (UnavailableError, NotInstalledError))
    assert (ProducerError.exit_code, UsageError.exit_code) == (1, 2)


def test_it_prints_nothing_and_loads_no_library_of_the_worker() -> None:
    code = """
import sys
import producer
assert "producer.client" not in sys.modules and "redis" not in sys.modules
from producer import Client
assert set(producer.__all__) <= set(dir(producer))
assert all(getattr(producer, name) for name in producer.__all__)
heavy = {"torch", "PIL", "numpy", "transformers", "rich", "fastapi"} & set(sys.modules)
assert not heavy, heavy
try:
    with Client("redis://127.0.0.1:1"):
        pass
except producer.UnavailableError:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


PAGES = ("README.md", "README.zh.md", "ops/docs/python-api.md")
EXAMPLES = [
    example
    for page in PAGES
    for example in re.findall(
        r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL
    )
]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_documentation_run(
    example_queue: str, tmp_path: Path, number: int
) -> None:
    example = EXAMPLES[number].replace("redis://localhost:6379/0", example_queue)
    fill(tmp_path / "photos", 3)
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        env=environment(broker_url=example_queue) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert "try again later" not in done.stdout


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) > 5 + len(PAGES)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"top_k": 0}, "top_k=0 cannot be used"),
        ({"top_k": "3"}, "top_k='3' cannot be used"),
        ({"threshold": 2}, "threshold=2 cannot be used"),
        ({"chunk_size": 5000}, "chunk_size=5000 cannot be used"),
        ({"thumbnail_px": 5000}, "thumbnail_px=5000 cannot be used"),
        ({"calibrated": "yes"}, "calibrated='yes' cannot be used"),
        ({"labels": [1]}, "labels are texts, not int"),
        ({"labels": iter([1])}, "labels are texts, not int"),
        ({"labels": 5}, "labels are texts, not int"),
        ({"labels": b"cat"}, "labels are texts, not bytes"),
        ({"templates": 5}, "templates are texts, not int"),
        ({"templates": [1]}, "templates are texts, not int"),
        ({"background": ["x"]}, "background needs calibrated"),
        ({"labels": LabelPack(("猫",)), "calibrated": True}, "holds its own calibrated"),
        ({"labels": LabelPack(("猫",)), "templates": "{}"}, "holds its own templates"),
        ({"retry_failed": True}, "retry_failed needs resume"),
        ({"overwrite": True}, "overwrite replaces a file"),
        ({"out": ""}, "the name of the file for records is empty"),
        ({"out_format": "pdf"}, "there is no format pdf"),
        ({"resume": True}, "resume continues a file"),
        ({"resume": True, "overwrite": True, "out": "a.jsonl"}, "resume keeps the records"),
        ({"embeddings": True, "out": "a.csv"}, "embeddings need a .jsonl or .parquet file"),
    ],
)
def test_what_the_command_refuses_the_client_refuses(
    server: EmbeddedRedis, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with Client(server.url) as client, pytest.raises(UsageError, match=re.escape(reason)):
        client.tag(tmp_path, **options)


@pytest.mark.parametrize("images", [None, 5, b"images", [b"image"], [None]])
def test_what_is_no_path_is_refused(server: EmbeddedRedis, images: Any) -> None:
    with Client(server.url) as client, pytest.raises(UsageError, match="images are paths or URLs"):
        client.tag(images)


@pytest.mark.parametrize("image", [5, b"image", ""])
def test_what_is_no_path_in_an_iterator_ends_the_job(queue: str, worker: None, image: Any) -> None:
    with Client(queue) as client, pytest.raises(UsageError):
        list(client.tag(iter([image])))


def test_a_client_is_entered_once(server: EmbeddedRedis, client: redis.Redis) -> None:
    del client  # It begins with an empty database.
    ours = Client(server.url)
    with ours, pytest.raises(UsageError, match="open already"), ours:
        pass
    with ours:
        ours.status()


def test_a_misspelt_argument_is_an_error_as_everywhere_in_python(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    options: Any = {"topk": 1}
    with Client(server.url) as client:
        for start in (client.tag, client.submit):
            with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
                start(tmp_path, **options)
