"""Images that are done -> results: ranked, cached, written out; on the task's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from worker.errors import ImageError
from worker.images.thumbnail import embedding_text
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.in_flight import ImageTask, to_image_error
from worker.pipeline.rank import rank
from worker.pipeline.result import Extras, emit

if TYPE_CHECKING:
    from worker.contract.messages import Chunk, Failure, ImageResult, Tag
    from worker.contract.scoring import Scale
    from worker.labels.label_sets import LabelSet
    from worker.pipeline.embedding_cache import EmbeddingCache

# A thousand images times ten thousand labels would be 80 MB.
_RANKED_TOGETHER: Final = 64


class TaggingStage:
    """Makes results for one model."""

    def __init__(self, scale: Scale, embedding_cache: EmbeddingCache | None) -> None:
        """Take the model's scale, and the cache of embeddings if there is one."""
        self._scale = scale
        self._embedding_cache = embedding_cache

    def complete(
        self, image_tasks: Sequence[ImageTask], chunk: Chunk, label_set: LabelSet
    ) -> list[ImageResult]:
        """Return the results of images that are done, in their order."""
        outcomes = [one.result() for one in image_tasks]
        self._fill_cache(image_tasks, outcomes)
        inferred = [one for one in outcomes if not isinstance(one, ImageError)]
        tags = iter(self._tag(inferred, chunk, label_set))
        results = []
        for image_task, outcome in zip(image_tasks, outcomes, strict=True):
            image_task.watch.stop()
            readings_ms = image_task.watch.readings_ms
            extras = Extras(image_task.stamp, thumbnail=image_task.thumbnail)
            if isinstance(outcome, ImageError):
                results.append(emit(image_task.ref, outcome.failure(), readings_ms, extras=extras))
                continue
            if outcome.batch_size:
                readings_ms["batch_wait_ms"] = outcome.batch_wait_ms
                readings_ms["infer_ms"] = outcome.infer_ms
            if chunk.embeddings:
                extras = extras._replace(embedding=embedding_text(outcome.embedding_D))
            results.append(
                emit(image_task.ref, next(tags), readings_ms, outcome.batch_size or None, extras)
            )
        return results

    def _fill_cache(
        self, image_tasks: Sequence[ImageTask], outcomes: Sequence[Inferred | ImageError]
    ) -> None:
        if self._embedding_cache is not None:
            pairs = zip(image_tasks, outcomes, strict=True)
            self._embedding_cache.put(
                [
                    (image_task.key, outcome.embedding_D)
                    for image_task, outcome in pairs
                    if image_task.key and isinstance(outcome, Inferred)
                ]
            )

    def _tag(
        self, inferred: Sequence[Inferred], chunk: Chunk, label_set: LabelSet
    ) -> Sequence[tuple[Tag, ...] | Failure]:
        """Return the tags of each image, or why there are none."""
        found: list[tuple[Tag, ...] | Failure] = []
        for start in range(0, len(inferred), _RANKED_TOGETHER):
            some = inferred[start : start + _RANKED_TOGETHER]
            try:
                found += self._rank(some, chunk, label_set)
            except Exception as e:  # noqa: BLE001 - `to_image_error` tells them apart
                found += [to_image_error(e).failure()] * len(some)
        return found

    def _rank(
        self, inferred: Sequence[Inferred], chunk: Chunk, label_set: LabelSet
    ) -> list[tuple[Tag, ...]]:
        return rank(
            np.stack([one.embedding_D for one in inferred]),
            label_set,
            self._scale,
            top_k=chunk.top_k,
            threshold=chunk.threshold,
        )
