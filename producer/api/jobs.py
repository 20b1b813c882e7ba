"""Jobs of the door: images in, as references or bytes; records out, as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from producer.backend.connection import Desk
from producer.console.paths import about
from producer.formats.jsonl import line_of
from producer.jobs.publisher import Outbox, Parcel, Post
from worker.contract.messages import KEY_PREFIX, Chunk, ImageRef
from worker.contract.stores.blobs import blob_key
from worker.contract.stores.jobs import Job, LostChunk

UPLOAD_IMAGES: Final = 8
REFERENCES: Final = 64
# Bytes of so many images may wait in Redis for each job.
MOST_OUTSTANDING: Final = 512
_FOLLOW_S: Final = 0.2
_LOCK_S: Final = 60.0


class FullError(RuntimeError):
    """Workers must make room before more bytes are taken."""


class ClosedError(RuntimeError):
    """The job takes no more images."""


class Plan(msgspec.Struct, frozen=True):
    """How the images of a job are tagged; kept beside it for images that come later."""

    labels: str | None
    top_k: int
    threshold: float
    embeddings: bool = False
    thumbnail_px: int = 0


class DoorJobs:
    """Jobs at a desk. Several doors may serve the same one: what must be in order is locked."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def create(self, plan: Plan, images: Sequence[str], *, more: bool, labels: int = 0) -> Job:
        """Return a new job of these paths and URLs; with `more` it stays open for uploads.

        So many `labels` were given for it.
        """
        desk = self._desk
        job = desk.jobs.create(about(images) if images else "uploads", labels)
        desk.client.set(_plan(job.id), msgspec.json.encode(plan), ex=desk.settings.result_ttl_s)
        self._send(job.id, plan, [(ImageRef(path), None) for path in images], REFERENCES)
        if not more:
            desk.jobs.set_state(job.id, "submitted")
        return desk.jobs.get(job.id)

    def add(self, job_id: str, images: Sequence[tuple[ImageRef, bytes]]) -> Job:
        """Send images by their bytes.

        Raises:
            NoSuchJobError: there is no such job.
            ClosedError: it is closed, or cancelled.
            FullError: too many of it wait already.
        """
        desk = self._desk
        with desk.client.lock(f"{_plan(job_id)}:lock", timeout=_LOCK_S):
            job = desk.jobs.get(job_id)
            kept = desk.client.get(_plan(job_id))
            if kept is None or job.state != "submitting":
                raise ClosedError
            if job.outstanding + len(images) > MOST_OUTSTANDING:
                raise FullError
            plan = msgspec.json.decode(kept, type=Plan)
            self._send(job_id, plan, images, UPLOAD_IMAGES, job)
            return desk.jobs.get(job_id)

    def close(self, job_id: str) -> Job:
        """Take no more images."""
        if self._desk.jobs.get(job_id).state == "submitting":
            self._desk.jobs.set_state(job_id, "submitted")
        return self._desk.jobs.get(job_id)

    def lines(self, job_id: str, *, follow: bool) -> Iterator[str]:
        """Yield records as lines of JSON: those that are there or, to `follow`, until the end."""
        sent: set[int] = set()
        while True:
            job = self._desk.jobs.get(job_id)
            yield from self._new(job, sent)
            if job.finished or not follow:
                return
            time.sleep(_FOLLOW_S)

    def _new(self, job: Job, sent: set[int]) -> Iterator[str]:
        left = [seq for seq in range(job.chunks) if seq not in sent]
        asked = iter(left)
        while some := list(islice(asked, REFERENCES)):
            for outcome in self._desk.jobs.collect(job.id, some):
                sent.add(outcome.seq)
                if not isinstance(outcome, LostChunk):
                    yield from (f"{line_of(record)}\n" for record in outcome.records())

    def _send(
        self,
        job_id: str,
        plan: Plan,
        images: Sequence[tuple[ImageRef, bytes | None]],
        size: int,
        before: Job | None = None,
    ) -> None:
        desk, first = self._desk, before.chunks if before else 0
        outbox = Outbox(
            Post(desk.app, desk.jobs, desk.blobs),
            lambda _: None,
            sent=(before.images, before.chunks) if before else (0, 0),
        )
        outbox.start()
        try:
            for seq, start in enumerate(range(0, len(images), size), first):
                outbox.put(_parcel(job_id, seq, plan, images[start : start + size]))
        finally:
            outbox.close()


def _parcel(
    job: str, seq: int, plan: Plan, images: Sequence[tuple[ImageRef, bytes | None]]
) -> Parcel:
    refs, blobs = [], {}
    for index, (ref, data) in enumerate(images):
        if data is None:
            refs.append(ref)
            continue
        key = blob_key(job, seq, index)
        blobs[key] = data
        refs.append(msgspec.structs.replace(ref, blob=key))
    chunk = Chunk(
        job=job,
        seq=seq,
        images=tuple(refs),
        labels=plan.labels,
        top_k=plan.top_k,
        threshold=plan.threshold,
        embeddings=plan.embeddings,
        thumbnail_px=plan.thumbnail_px,
        sent_at_s=time.time(),
    )
    return Parcel(chunk, blobs)


def _plan(job_id: str) -> str:
    return f"{KEY_PREFIX}door:{job_id}"
