"""Records -> the same without tags below a score, counted: what a sidecar keeps is for good."""

from __future__ import annotations

from typing import Final

import msgspec

from producer.formats import Sink
from worker.contract.messages import Record


class ConfidentSink:
    """Hands records on to another sink, without the tags that score less."""

    def __init__(self, sink: Sink, least_score: float) -> None:
        self._sink = sink
        self.least_score: Final = least_score
        # Tags that were left out, and images of which none is left.
        self.tags = self.images = 0

    def write(self, record: Record) -> None:
        """Hand one record on."""
        tags = record.tags
        # Each by itself: records do not say whether scores are shares, which alone may be added up.
        kept = tuple(tag for tag in tags if tag.score >= self.least_score)
        if len(kept) < len(tags):
            self.tags += len(tags) - len(kept)
            self.images += not kept
            record = msgspec.structs.replace(record, tags=kept)
        self._sink.write(record)

    def flush(self) -> None:
        """Make what was handed on safe."""
        self._sink.flush()
