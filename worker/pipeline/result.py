"""Outcome of an image -> its result; results of a chunk -> the fields of its event."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any, Final, NamedTuple

from worker.contract.messages import (
    ChunkResult,
    Failure,
    ImageRef,
    ImageResult,
    Stamp,
    Tag,
    Timing,
)

_DECIMALS: Final = 3
_EVENT_DECIMALS: Final = 1
_STAGES: Final = ("queue_ms", "read_ms", "decode_ms", "batch_wait_ms", "infer_ms", "total_ms")


class Extras(NamedTuple):
    """What a result holds of an image beside its tags; see `ImageResult`."""

    stamp: Stamp | None = None
    embedding: str | None = None
    thumbnail: str | None = None


_NOTHING: Final = Extras()


def emit(
    ref: ImageRef,
    outcome: tuple[Tag, ...] | Failure,
    readings_ms: Mapping[str, float],
    batch_size: int | None = None,
    extras: Extras = _NOTHING,
) -> ImageResult:
    """Return one image's result. `readings_ms` names fields of `Timing`; absent: not reached."""
    tags, error = ((), outcome) if isinstance(outcome, Failure) else (outcome, None)
    return ImageResult(
        path=ref.path,
        tags=tags,
        error=error,
        timing=Timing(**{name: _tidy(ms) for name, ms in readings_ms.items()}),
        batch_size=batch_size,
        stamp=extras.stamp,
        embedding=extras.embedding,
        thumbnail=extras.thumbnail,
    )


def event_fields(result: ChunkResult) -> dict[str, Any]:
    """Return the fields of a chunk's event beside Celery's own: plain JSON.

    `images` and `failed_images`; `batch`, the mean size of the batches that they were in; the mean
    of each stage in ms over the images that reached it, None if none did; `device` and `model`.
    """
    sizes = [image.batch_size for image in result.images if image.batch_size]
    times = {
        stage: [ms for image in result.images if (ms := getattr(image.timing, stage)) is not None]
        for stage in _STAGES
    }
    means = {
        stage: round(fmean(found), _EVENT_DECIMALS) if found else None
        for stage, found in times.items()
    }
    return {
        "images": len(result.images),
        "failed_images": result.failed,
        "batch": round(fmean(sizes), _EVENT_DECIMALS) if sizes else None,
        **means,
        "device": result.device,
        "model": result.model,
    }


def _tidy(ms: float) -> float:
    """Round to microseconds. Two machines' clocks may differ, but no time is less than nothing."""
    return round(max(0.0, ms), _DECIMALS)
