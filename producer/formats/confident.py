"""Records -> the same without tags below a score, counted: what a sidecar keeps is for good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from producer.formats import Sink
from worker.contract.messages import Record, Tag

# Shares of one image sum to 1 at most, but for rounding.
_WHOLE: Final = 1.001


class ConfidentSink:
    """Hands records on to another sink, without the tags that score less."""

    def __init__(self, sink: Sink, least_score: float, *, adds_kinds: bool) -> None:
        """Take the sink and the score; with `adds_kinds`, see `shares_with_kinds`."""
        self._sink = sink
        self._adds_kinds = adds_kinds
        self.least_score: Final = least_score
        # Tags that were left out, and images of which none is left.
        self.tags = self.images = 0

    def write(self, record: Record) -> None:
        """Hand one record on."""
        tags = record.tags
        scores = shares_with_kinds(tags) if self._adds_kinds else [tag.score for tag in tags]
        kept = tuple(
            tag for tag, score in zip(tags, scores, strict=True) if score >= self.least_score
        )
        if len(kept) < len(tags):
            self.tags += len(tags) - len(kept)
            self.images += not kept
            record = msgspec.structs.replace(record, tags=kept)
        self._sink.write(record)

    def flush(self) -> None:
        """Make what was handed on safe."""
        self._sink.flush()


def shares_with_kinds(tags: Sequence[Tag]) -> list[float]:
    """Return for each tag its share and those of the tags below it: a tabby is a cat, too.

    Scores that are no shares of one whole stay as they are, as do those of records that do not say
    what lies above their labels.
    """
    scores = [tag.score for tag in tags]
    if sum(scores) > _WHOLE:
        return scores
    return [
        sum((other.score for other in tags if tag.label in other.above), tag.score) for tag in tags
    ]
