"""Photographs to measure with: a directory's, or made up."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Final

from PIL import Image

from worker.export.synthetic import photographs

_MILLION: Final = 1e6


def find_photos(directory: Path | None, place: Path) -> tuple[list[str], str]:
    """Return the images in the directory, or some that are made up in `place`, and what they are.

    Raises:
        SystemExit: there is none.
    """
    made = place / "photos"
    if directory is None:
        made.mkdir()
        for number, data in enumerate(photographs()):
            (made / f"{number}.jpg").write_bytes(data)
    sizes: dict[str, int] = {}
    for file in sorted((directory or made).rglob("*")):
        try:
            with Image.open(file) as image:
                # Workers may run elsewhere than here.
                sizes[str(file.resolve())] = image.width * image.height
        except OSError:
            continue
    if not sizes:
        msg = f"there is no image in {directory}"
        raise SystemExit(msg)
    kind = "made-up photographs" if directory is None else "photographs"
    return list(sizes), f"{len(sizes)} {kind} of {fmean(sizes.values()) / _MILLION:.1f} MP"
