"""What a worker reports about itself: to Celery's `inspect stats`, to Flower and to producers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

# The name under which a worker's `inspect stats` has it.
STATS_KEY: Final = "tagger"


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's model, limits and figures since its start.

    A producer passes over fields that it does not know, and fills in those that an older worker
    does not send.
    """

    name: str = ""
    model: str = ""
    device: str = ""
    precision: str = ""
    engine: str = ""
    # How often eager took over from an engine that failed: 0 or 1.
    fallbacks: int = 0
    # Batches that did not fit into the device's memory and were halved.
    out_of_memory: int = 0
    # Images whose embedding was in the cache.
    cache_hits: int = 0
    # Whether images are decoded in `processes` or on `threads`.
    decoder: str = ""
    # Images that took longer to decode than is allowed, and decode processes that have ended.
    decode_timeouts: int = 0
    decoder_crashes: int = 0
    # Images of the largest batch, at present.
    max_batch: int = 0
    # Whether the model has labels of its own.
    has_labels: bool = False
    # If not, the vocabulary that stands for them, and how many labels that has; "" if none does.
    vocabulary: str = ""
    vocabulary_labels: int = 0
    # Of its labels, those that the model cannot read, or not tell from others: they are not used.
    vocabulary_left_out: int = 0
    # A sentence that the model's users should read.
    notice: str | None = None
    version: str = ""
    # Why it does not work though there is work, or None.
    problem: str | None = None
    image_roots: tuple[str, ...] = ()
    image_urls: tuple[str, ...] = ()
    # Bytes of the GPU by kind: allocated, reserved, free, total; empty on the CPU.
    device_memory: Mapping[str, int] = {}
    # The share of the last moment in which the GPU computed, 0 to 1.
    device_utilisation: float | None = None
    images: int = 0
    failed: int = 0
    # Over the last seconds.
    images_per_s: float | None = None
    # Stage to its percentiles (`p50`, `p90`, `p99`) over the last images, in milliseconds.
    stages_ms: Mapping[str, Mapping[str, float]] = {}
    # Batch size, as a string, to how many batches of it have run.
    batch_sizes: Mapping[str, int] = {}
