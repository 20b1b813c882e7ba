"""A worker that answers every chunk at once, without a look at its images: for what feeds on it.

    python ops/bench/answering.py

Messages, Redis and results are those of a real worker, of which one process answers several
thousand images a second.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from worker.contract.messages import Chunk, ChunkResult, ImageResult, Tag, Timing
from worker.contract.queue.app import make_app
from worker.contract.settings import Settings
from worker.service.task import register

NAME: Final = "answering"
TAGS: Final = tuple(Tag(label, 0.2) for label in ("动物", "植物", "交通工具", "电子产品", "食物"))
TIMING: Final = Timing(
    queue_ms=1.5, read_ms=0.2, decode_ms=24.8, batch_wait_ms=0.4, infer_ms=9.7, total_ms=36.6
)


class Answerer:
    """Takes the place of a worker's tagger."""

    def chunk_of(self, wire: dict[str, Any]) -> Chunk:
        """Return the chunk of a message."""
        return Chunk.from_wire(wire)

    def tag(self, chunk: Chunk, _received_at_s: float) -> ChunkResult:
        """Return the same tags for every image."""
        images = tuple(
            ImageResult(path=ref.path, tags=TAGS, timing=TIMING, batch_size=4)
            for ref in chunk.images
        )
        return ChunkResult(
            job=chunk.job, seq=chunk.seq, worker=NAME, device="cpu", model=NAME, images=images
        )

    def release_blobs(self, chunk: Chunk, result: ChunkResult) -> None:
        """Nothing is held for a chunk."""


def main() -> int:
    """Answer until a signal ends it."""
    app = make_app(Settings.from_env(), stores_results=True)
    answerer: Any = Answerer()
    register(app, answerer)
    worker = app.Worker(
        pool="threads", concurrency=2, loglevel="WARNING", without_gossip=True, without_mingle=True
    )
    worker.start()
    return int(worker.exitcode or os.EX_OK)


if __name__ == "__main__":
    sys.exit(main())
