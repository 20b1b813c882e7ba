"""What libraries raise -> the error that an image fails with."""

from __future__ import annotations

from typing import Final

from worker.errors import UnreadableError

_DETAIL_CHARS: Final = 160


def unreadable(error: Exception | str) -> UnreadableError:
    """Return the error of an image that a server, or a library for us, did not give."""
    detail = " ".join(str(error).split())[:_DETAIL_CHARS]
    return UnreadableError(f"the image cannot be fetched: {detail or type(error).__name__}")
