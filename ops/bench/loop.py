"""The floor: the worker's own stages in one loop, with neither queue nor batcher.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Artifact
from worker.contract.settings import Settings
from worker.engines.base import Engine
from worker.engines.infer import Embeddings, launch, warm
from worker.images.decode import decode, set_up
from worker.labels.label_sets import LabelSet
from worker.pipeline.rank import rank

Pixels = npt.NDArray[np.uint8]


class Bare:
    """A warm engine, its labels, and the loop over them."""

    def __init__(
        self, settings: Settings, artifact: Artifact, engine: Engine, labels: LabelSet
    ) -> None:
        self._settings = settings
        self._artifact = artifact
        self._engine = engine
        self._labels = labels
        spec = artifact.manifest.preprocessing
        set_up(settings.max_pixels)
        warm(
            engine,
            (3, spec.height, spec.width),
            settings.largest_batch,
            artifact.manifest.embedding_dim,
        )

    def one_by_one(self, paths: Sequence[str]) -> float:
        """Decode and infer in turns on one thread: the least CPU, in seconds."""
        return _cpu_s(lambda: self._loop(map(self._prepare, paths)))

    def threaded(self, paths: Sequence[str]) -> float:
        """Decode on as many threads as a worker does, while this one infers; CPU seconds."""

        def loop() -> None:
            with ThreadPoolExecutor(self._settings.decoders) as pool:
                self._loop(self._ahead(pool, paths))

        return _cpu_s(loop)

    def _ahead(self, pool: ThreadPoolExecutor, paths: Sequence[str]) -> Iterator[Pixels]:
        """Yield the pixels in order; as many are decoded or under way as a worker would have."""
        waiting: deque[Future[Pixels]] = deque()
        for path in paths:
            waiting.append(pool.submit(self._prepare, path))
            if len(waiting) == self._settings.images_in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _prepare(self, path: str) -> Pixels:
        settings = self._settings
        return decode(
            Path(path).read_bytes(),
            self._artifact.manifest.preprocessing,
            max_pixels=settings.max_pixels,
            fast=self._artifact.manifest.decodes_fast(settings.decode),
        )

    def _loop(self, decoded: Iterable[Pixels]) -> None:
        """Infer batches; where the device works on its own, one is launched while another runs."""
        images = iter(decoded)
        ahead: deque[Callable[[], Embeddings]] = deque()
        while batch_CHW := list(islice(images, self._settings.largest_batch)):
            ahead.append(launch(self._engine, batch_CHW))
            if len(ahead) > self._engine.pipelined:
                self._rank(ahead.popleft()())
        while ahead:
            self._rank(ahead.popleft()())

    def _rank(self, embeddings_ND: Embeddings) -> None:
        scale = self._artifact.manifest.scale
        rank(embeddings_ND, self._labels, scale, top_k=5, threshold=0.0)


def _cpu_s(loop: Callable[[], None]) -> float:
    began_s = time.process_time()
    loop()
    return time.process_time() - began_s
