"""What torch saves -> a file, written by ourselves."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path


def write(save: Callable[[BytesIO], object], file: Path) -> None:
    """Let `save` write to memory, and that to the file.

    Torch's own writer ends the process when the disk is full.

    Raises:
        OSError: the file cannot be written.
    """
    buffer = BytesIO()
    save(buffer)
    file.write_bytes(buffer.getbuffer())
