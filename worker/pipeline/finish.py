"""Images that have landed -> results: ranked, remembered, emitted; on the task's thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from worker.errors import ImageError
from worker.images.thumbnail import embedding_text
from worker.pipeline.batch_policy import Inferred
from worker.pipeline.in_flight import Journey, blame
from worker.pipeline.rank import rank
from worker.pipeline.result import Kept, emit

if TYPE_CHECKING:
    from worker.contract.messages import Chunk, Failure, ImageResult, Tag
    from worker.labels.encoder import LabelSet
    from worker.pipeline.embedding_cache import Recall

# A thousand images times ten thousand labels would be 80 MB.
_RANKED_TOGETHER: Final = 64


class Arrivals:
    """Makes results for one model."""

    def __init__(self, logit_scale: float, recall: Recall | None) -> None:
        """Take the model's scale, and where embeddings are remembered."""
        self._logit_scale = logit_scale
        self._recall = recall

    def arrive(
        self, journeys: Sequence[Journey], chunk: Chunk, label_set: LabelSet
    ) -> list[ImageResult]:
        """Tag the images that have landed, on the task's thread."""
        outcomes = [one.verdict() for one in journeys]
        self._remember(journeys, outcomes)
        inferred = [one for one in outcomes if not isinstance(one, ImageError)]
        tags = iter(self._tag(inferred, chunk, label_set))
        results = []
        for journey, outcome in zip(journeys, outcomes, strict=True):
            journey.watch.stop()
            readings_ms = journey.watch.readings_ms
            kept = Kept(journey.stamp, thumbnail=journey.thumbnail)
            if isinstance(outcome, ImageError):
                results.append(emit(journey.ref, outcome.failure(), readings_ms, kept=kept))
                continue
            if outcome.batch_size:
                readings_ms["batch_wait_ms"] = outcome.batch_wait_ms
                readings_ms["infer_ms"] = outcome.infer_ms
            if chunk.embeddings:
                kept = kept._replace(embedding=embedding_text(outcome.embedding_D))
            results.append(
                emit(journey.ref, next(tags), readings_ms, outcome.batch_size or None, kept)
            )
        return results

    def _remember(
        self, journeys: Sequence[Journey], outcomes: Sequence[Inferred | ImageError]
    ) -> None:
        if self._recall is not None:
            pairs = zip(journeys, outcomes, strict=True)
            self._recall.put(
                [
                    (journey.key, outcome.embedding_D)
                    for journey, outcome in pairs
                    if journey.key and isinstance(outcome, Inferred)
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
            except Exception as e:  # noqa: BLE001 - `blame` tells them apart
                found += [blame(e).failure()] * len(some)
        return found

    def _rank(
        self, inferred: Sequence[Inferred], chunk: Chunk, label_set: LabelSet
    ) -> list[tuple[Tag, ...]]:
        return rank(
            np.stack([one.embedding_D for one in inferred]),
            label_set,
            self._logit_scale,
            top_k=chunk.top_k,
            threshold=chunk.threshold,
        )
