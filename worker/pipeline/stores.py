"""What a pipeline finds outside of a chunk, and what it shares with other workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from worker.contract.labels import LabelPack
from worker.images.read import Blobs
from worker.labels.matrix_store import LabelMatrixStore
from worker.pipeline.embedding_cache import EmbeddingCache


class LabelPacks(Protocol):
    """Where label packs lie, by their hashes."""

    def get(self, pack_hash: str) -> LabelPack:
        """Return a pack; a `MessageError` says that it is not there."""


@dataclass(frozen=True)
class Stores:
    """Where bytes of images and label packs lie, and what was computed before, if that is kept.

    Label matrices are shared with other workers in `matrix_store`; embeddings of images that were
    seen before come from `embedding_cache`.
    """

    blobs: Blobs
    labels: LabelPacks
    matrix_store: LabelMatrixStore | None = None
    embedding_cache: EmbeddingCache | None = None

    @property
    def usable_cache(self) -> EmbeddingCache | None:
        """The embedding cache, if there is one that is on."""
        cache = self.embedding_cache
        return cache if cache is not None and cache.is_on else None
