"""producer.jobs.collector and producer.jobs.results"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis

from producer.jobs import collector as collect
from producer.jobs.collector import Clock, Collector
from producer.jobs.results import StoredResults, fetch, wait
from producer.jobs.window import Sent, Window
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.messages import ChunkResult, Failure, ImageRef, ImageResult, Record
from worker.contract.stores.jobs import JobStore, LostChunk, NoSuchJobError

META = KEYS.result("")


class FakeTime:
    """A clock that moves on only when someone sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.naps: list[float] = []
        self.on_nap: Callable[[], None] = lambda: None

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, self.sleep)

    def sleep(self, pause_s: float) -> None:
        self.naps.append(pause_s)
        self.now_s += pause_s
        self.on_nap()


class Job:
    """A job in Redis whose worker is this test."""

    def __init__(self, client: redis.Redis, chunks: int, images: int = 2) -> None:
        self.client = client
        self.jobs = JobStore(client, 3600)
        self.id = self.jobs.create().id
        self.images = images
        self.window = Window(10**6, 10**9)
        self.time = FakeTime()
        self.is_feeding = False
        self.stalls: list[float] = []
        for seq in range(chunks):
            self.window.add(seq, Sent(tuple(map(ImageRef, self.paths(seq))), 0))
        self.jobs.set_sent(self.id, images=chunks * images, chunks=chunks)

    @property
    def collector(self) -> Collector:
        return Collector(
            self.jobs,
            self.id,
            self.window,
            lambda: self.is_feeding,
            on_stall=lambda: self.stalls.append(self.time.now_s),
            clock=self.time.clock,
        )

    def paths(self, seq: int) -> list[str]:
        return [f"/{seq}/{number}.jpg" for number in range(self.images)]

    def finish(self, *seqs: int, failed: bool = False) -> None:
        """Store results and count them, as workers do."""
        error = Failure("empty_file", "read", "the file is empty") if failed else None
        for seq in seqs:
            images = tuple(ImageResult(path=path, error=error) for path in self.paths(seq))
            result = ChunkResult(
                job=self.id, seq=seq, worker="w", device="cpu", model="m", images=images
            )
            self.store(seq, "SUCCESS", result.to_wire())
            self.jobs.finish_chunk(self.id, seq, images=self.images, failed=result.failed)

    def store(self, seq: int, status: str, result: object) -> None:
        self.client.set(f"{META}{self.id}-{seq}", json.dumps({"status": status, "result": result}))

    def kept(self) -> list[int]:
        names = map(str, self.client.keys(f"{META}{self.id}-*"))
        return sorted(int(name.rstrip("'").rpartition("-")[2]) for name in names)


@pytest.fixture
def job(client: redis.Redis) -> Job:
    return Job(client, 3)


class Memory:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        pass


def paths_of(batches: Iterator[list[Record]]) -> list[str]:
    return [record.path for batch in batches for record in batch]


def test_results_come_as_chunks_finish_and_each_once(job: Job) -> None:
    job.finish(2)
    batches = job.collector.records()
    assert [r.path for r in next(batches)] == ["/2/0.jpg", "/2/1.jpg"]
    job.finish(1, 0)
    assert paths_of(batches) == ["/0/0.jpg", "/0/1.jpg", "/1/0.jpg", "/1/1.jpg"]
    assert job.window.images == 0


def test_a_worker_cannot_answer_for_images_that_were_not_sent_to_it(job: Job) -> None:
    job.finish(0, 2)
    forged = ChunkResult(
        job=job.id,
        seq=1,
        worker="w",
        device="cpu",
        model="m",
        images=(ImageResult(path="/1/0.jpg"), ImageResult(path="/etc/passwd")),
    )
    job.store(1, "SUCCESS", forged.to_wire())
    records = [r for batch in job.collector.records() for r in batch]
    assert [r.path for r in records if r.status == "failed"] == ["/1/0.jpg", "/1/1.jpg"]
    assert len(records) == 6


def test_a_chunk_that_celery_gave_up_fails_each_of_its_images(job: Job) -> None:
    job.finish(0, 2)
    job.store(1, "FAILURE", {"exc_type": "MessageError", "exc_message": ["version 9"]})
    records = [r for batch in job.collector.records() for r in batch]
    lost = [r for r in records if r.status == "failed"]
    assert len(records) == 6
    assert [r.path for r in lost] == ["/1/0.jpg", "/1/1.jpg"]
    for record in lost:
        assert record.error is not None
        assert (record.error.code, record.error.stage) == ("lost", "job")
        assert "version 9" in record.error.message
        assert (record.worker, record.device, record.model) == ("", "", "")


def test_many_chunks_are_asked_for_in_windows(client: redis.Redis) -> None:
    job = Job(client, 10, images=collect.WINDOW_IMAGES // 4)
    job.finish(*range(10))
    sizes = [len(batch) for batch in job.collector.records()]
    assert sizes == [collect.WINDOW_IMAGES, collect.WINDOW_IMAGES, collect.WINDOW_IMAGES // 2]


def test_a_chunk_larger_than_a_window_is_asked_for_alone(client: redis.Redis) -> None:
    job = Job(client, 2, images=collect.WINDOW_IMAGES + 1)
    job.finish(0, 1)
    sizes = [len(batch) for batch in job.collector.records()]
    assert sizes == [collect.WINDOW_IMAGES + 1] * 2


def test_the_results_of_the_last_images_stay_in_redis(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "KEPT_IMAGES", 5)
    job = Job(client, 4)
    batches = job.collector.records()
    for seq in range(4):
        job.finish(seq)
        next(batches)
    # Those yielded last may not be written yet, so nothing was dropped for them.
    assert job.kept() == [0, 1, 2, 3][1:]
    assert list(batches) == []
    assert job.kept() == [2, 3]


def test_pauses_grow_while_nothing_comes_and_shrink_when_something_does(job: Job) -> None:
    def work() -> None:
        if len(job.time.naps) == 10:
            job.finish(0)
        if len(job.time.naps) == 12:
            job.finish(1, 2)

    job.time.on_nap = work
    assert len(paths_of(job.collector.records())) == 6
    naps = job.time.naps
    assert naps[:9] == sorted(naps[:9])
    assert naps[9] == collect.LONGEST_PAUSE_S
    assert naps[10] == collect.SHORTEST_PAUSE_S


def test_a_long_silence_is_told_after_half_a_minute_and_then_each_minute(job: Job) -> None:
    def work() -> None:
        if job.time.now_s > 100:
            job.finish(0, 1, 2)

    job.time.on_nap = work
    assert len(paths_of(job.collector.records())) == 6
    assert [round(stall_s) for stall_s in job.stalls] == [30, 90]


def test_a_job_that_redis_has_lost_is_found_out_soon(job: Job) -> None:
    def work() -> None:
        if job.time.now_s > 20:
            job.client.flushdb()

    job.time.on_nap = work
    with pytest.raises(NoSuchJobError):
        list(job.collector.records())
    assert 20 < job.time.now_s <= 20 + 2 * collect.LOOK_S
    with pytest.raises(NoSuchJobError):
        job.jobs.set_sent(job.id, images=8, chunks=4)
    assert not job.client.keys("wanwu:job:*")


def test_a_result_that_was_counted_and_is_gone_is_lost_not_waited_for(job: Job) -> None:
    job.finish(0, 1, 2)
    job.client.delete(f"{META}{job.id}-1")
    records = [r for batch in job.collector.records() for r in batch]
    assert [r.path for r in records if r.error] == ["/1/0.jpg", "/1/1.jpg"]
    assert len(records) == 6


def test_while_the_feeder_is_at_work_an_empty_window_is_no_end(client: redis.Redis) -> None:
    job = Job(client, 0)
    job.is_feeding = True

    def work() -> None:
        if len(job.time.naps) == 3:
            job.window.add(0, Sent(tuple(map(ImageRef, job.paths(0))), 0))
            job.jobs.set_sent(job.id, images=2, chunks=1)
            job.finish(0)
            job.is_feeding = False

    job.time.on_nap = work
    assert paths_of(job.collector.records()) == ["/0/0.jpg", "/0/1.jpg"]


def test_draining_makes_room_and_leaves_the_results(job: Job) -> None:
    job.is_feeding = True

    def work() -> None:
        if len(job.time.naps) == 1:
            job.finish(0, 2)
        if len(job.time.naps) == 2:
            job.is_feeding = False

    job.time.on_nap = work
    job.collector.drain()
    assert job.window.parts(1) == [[1]]
    assert job.kept() == [0, 2]


def test_fetching_writes_all_that_is_there(job: Job) -> None:
    job.finish(0)
    job.finish(2, failed=True)
    sink = Memory()
    found = fetch(job.jobs, job.id, sink)
    assert [r.path for r in sink.records] == job.paths(0) + job.paths(2)
    assert (found.images, found.failed, found.gone_chunks) == (4, 2, 0)
    (remark,) = found.remarks()
    assert "not finished: 4 of 6 images have results; --wait waits for the rest" in remark


def test_fetching_tells_of_results_that_are_gone_or_were_given_up(job: Job) -> None:
    job.finish(0, 1)
    job.jobs.set_state(job.id, "submitted")
    job.jobs.drop_results(job.id, [0])
    job.store(2, "FAILURE", {"exc_type": "Boom", "exc_message": "bang"})
    job.jobs.finish_chunk(job.id, 2, images=2, failed=2)
    found = fetch(job.jobs, job.id, Memory())
    remarks = list(found.remarks())
    assert found.job.finished
    assert found.failed
    assert any("Boom: bang" in remark for remark in remarks)
    assert any("the results of 1 chunks are no longer there" in remark for remark in remarks)


class AtWork(JobStore):
    """A store whose worker finishes another chunk whenever results have been asked for."""

    job: Job
    left: list[int]

    def collect(
        self, job_id: str, seqs: Sequence[int], *, keep_s: int = 0
    ) -> Sequence[ChunkResult | LostChunk]:
        found = super().collect(job_id, seqs, keep_s=keep_s)
        self.job.finish(*self.left)
        self.left = []
        return found


def test_what_is_done_while_results_are_read_has_not_expired(job: Job) -> None:
    job.finish(0)
    jobs = AtWork(job.client, 3600)
    jobs.job, jobs.left = job, [1, 2]
    found = fetch(jobs, job.id, Memory())
    assert (found.images, found.gone_chunks) == (2, 0)
    assert (job.jobs.get(job.id).done, jobs.left) == (6, [])


def test_what_is_counted_before_it_is_stored_has_not_expired(job: Job) -> None:
    """As chunks whose messages are found to be lost."""
    job.finish(0, 2)
    job.jobs.finish_chunk(job.id, 1, images=2, failed=2)
    job.jobs.drop_results(job.id, [2])
    job.time.on_nap = lambda: job.finish(1)
    stored = StoredResults(job.jobs, job.id, clock=job.time.clock)
    assert paths_of(stored.records()) == job.paths(0) + job.paths(1)
    found = stored.summary()
    assert (found.images, found.gone_chunks, found.read) == (4, 1, (0, 1))


def test_waiting_ends_when_the_job_is_finished_and_tells_of_a_long_silence(job: Job) -> None:
    job.jobs.set_state(job.id, "submitted")
    stalls: list[float] = []

    def work() -> None:
        if job.time.now_s > 40:
            job.finish(0, 1, 2)

    job.time.on_nap = work
    wait(job.jobs, job.id, lambda: stalls.append(job.time.now_s), clock=job.time.clock)
    assert [round(stall_s) for stall_s in stalls] == [30]
    with pytest.raises(NoSuchJobError):
        wait(job.jobs, "none", lambda: None, clock=job.time.clock)
