"""Job id -> results as they come, by key and in windows; no subscription, no chord."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from producer.jobs.window import Window
from worker.contract.messages import ChunkResult, Record
from worker.contract.redis.retry import RetryPolicy
from worker.contract.stores.jobs import MESSAGE_LOST, JobStore, LostChunk

# Results of so many images are fetched and held at a time: some megabytes.
WINDOW_IMAGES: Final = 2048
# A small job can be fetched again with `producer results`; a large one must not fill Redis.
KEPT_IMAGES: Final = 10_000
SHORTEST_PAUSE_S: Final = 0.005
LONGEST_PAUSE_S: Final = 0.1
# The more there is to ask for, the rarer: asking takes at most a tenth of the time.
PAUSE_RATIO: Final = 9
# A Redis that was restarted without its data does not know the job: nothing will come any more.
LOOK_S: Final = 5.0
STALL_S: Final = 30.0
STILL_S: Final = 60.0


class Clock(NamedTuple):
    """Time as an argument."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


T = TypeVar("T")
SYSTEM_CLOCK: Final = Clock()


class Collector:
    """Collects a job's results while it is sent. `is_feeding` may raise what stops it.

    `on_still` is called again and again while nothing comes, `on_stall` when it takes long. While
    sending `is_held_up` because Redis is full, no results are kept there.
    """

    def __init__(
        self,
        jobs: JobStore,
        job: str,
        window: Window,
        is_feeding: Callable[[], bool],
        *,
        on_still: Callable[[], None] = lambda: None,
        on_stall: Callable[[], None] = lambda: None,
        is_held_up: Callable[[], bool] = lambda: False,
        retry_timeout_s: float = STALL_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._retry = RetryPolicy(retry_timeout_s, now=clock.now)
        self._jobs = jobs
        self._job = job
        self._window = window
        self._is_feeding = is_feeding
        self._on_still = on_still
        self._on_stall = on_stall
        self._is_held_up = is_held_up
        self._clock = clock
        self._kept: deque[tuple[int, int]] = deque()
        self._kept_images = 0
        self._stalled = False

    def records(self) -> Iterator[list[Record]]:
        """Yield records in the order in which chunks finish, until all have come.

        When the next ones are asked for, those yielded before must be safe: the oldest results are
        then dropped from Redis.

        Raises:
            NoSuchJobError: Redis does not know the job any more.
        """
        for seqs in self._busy():
            finished = self._finished(seqs)
            if not finished:
                self._settle(())
                continue
            yield [record for outcome in finished for record in self._records(outcome)]
            self._settle(finished)

    def drain(self) -> None:
        """Let the feeder go on as chunks finish, leaving all results where they are.

        Raises:
            NoSuchJobError: Redis does not know the job any more.
        """
        for seqs in self._busy(until_sent=True):
            for seq in self._ask(self._jobs.finished_chunks, seqs):
                self._window.remove(seq)

    def _busy(self, *, until_sent: bool = False) -> Iterator[list[int]]:
        """Yield windows over the chunks under way; rest longer the longer nothing comes back."""
        now = self._clock.now
        pause_s, look_at_s, stall_at_s = SHORTEST_PAUSE_S, now() + LOOK_S, now() + STALL_S
        # The feeder is asked first: what it sent before it ended is then seen in the window.
        while self._is_feeding() or (self._window.images and not until_sent):
            began_s, under_way = now(), self._window.parts(WINDOW_IMAGES)
            yield from under_way
            self._stalled = False
            if not under_way or any(map(self._window.has_lost, under_way)):
                pause_s, look_at_s, stall_at_s = SHORTEST_PAUSE_S, now() + LOOK_S, now() + STALL_S
            else:
                pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
                if pause_s == LONGEST_PAUSE_S:
                    self._on_still()
            if now() > look_at_s:
                look_at_s = now() + LOOK_S
                self._retry.call(lambda: self._jobs.get(self._job), lambda _: self._on_stall())
            if now() > stall_at_s:
                self._stalled, stall_at_s = True, now() + STILL_S
                self._on_stall()
            took_s = now() - began_s
            self._clock.sleep(min(max(pause_s, PAUSE_RATIO * took_s), LONGEST_PAUSE_S))

    def _ask(self, ask: Callable[[str, Sequence[int]], T], seqs: Sequence[int]) -> T:
        return self._retry.call(lambda: ask(self._job, seqs), lambda _: self._on_stall())

    def _finished(self, seqs: Sequence[int]) -> list[ChunkResult | LostChunk]:
        found = list(self._ask(self._jobs.collect, seqs))
        if found or not self._stalled:
            return found
        # Results are stored before they are counted: one that is counted and not there is gone.
        done = sorted(self._ask(self._jobs.finished_chunks, seqs))
        found = list(self._ask(self._jobs.collect, done))
        gone = set(done) - {outcome.seq for outcome in found}
        return found + [LostChunk(seq, "its results are in Redis no more") for seq in sorted(gone)]

    def _records(self, outcome: ChunkResult | LostChunk) -> list[Record]:
        sent = self._window.remove(outcome.seq)
        paths = tuple(image.path for image in sent.images)
        # Sidecars are written where records say: only of images that we sent.
        if isinstance(outcome, LostChunk):
            outcome = msgspec.structs.replace(outcome, paths=paths)
        elif tuple(image.path for image in outcome.images) != paths:
            outcome = LostChunk(outcome.seq, "its worker answered for other images", paths)
        return outcome.records()

    def _settle(self, finished: Sequence[ChunkResult | LostChunk]) -> None:
        """Keep the results of the last images, drop those of the older ones."""
        for outcome in finished:
            images = len(outcome.images) if isinstance(outcome, ChunkResult) else 0
            self._kept.append((outcome.seq, images))
            self._kept_images += images
        stale: list[int] = []
        while self._kept_images > (0 if self._is_held_up() else KEPT_IMAGES):
            seq, images = self._kept.popleft()
            self._kept_images -= images
            stale.append(seq)
        if stale:
            self._ask(self._jobs.drop_results, stale)


def count_lost(records: Sequence[Record]) -> int:
    """Return how many images have failed because their message left the queue."""
    return sum(one.error is not None and one.error.code == MESSAGE_LOST for one in records)
