"""Tags or failure, and the stopwatch's readings -> the image's result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker.contract.messages import Failure, ImageRef, ImageResult, Tag, Timing

_DECIMALS: Final = 3


def emit(
    ref: ImageRef,
    outcome: tuple[Tag, ...] | Failure,
    readings_ms: Mapping[str, float],
    batch_size: int | None = None,
) -> ImageResult:
    """Return one image's result. `readings_ms` names fields of `Timing`; absent: not reached."""
    tags, error = ((), outcome) if isinstance(outcome, Failure) else (outcome, None)
    return ImageResult(
        path=ref.path,
        tags=tags,
        error=error,
        timing=Timing(**{name: _tidy(ms) for name, ms in readings_ms.items()}),
        batch_size=batch_size,
    )


def _tidy(ms: float) -> float:
    """Round to microseconds. Two machines' clocks may differ, but no time is less than nothing."""
    return round(max(0.0, ms), _DECIMALS)
