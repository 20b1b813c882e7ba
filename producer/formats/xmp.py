"""Records -> XMP sidecars beside the images: automatic keywords replace automatic ones."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final, Self

from producer.formats.xmp_problems import problem_with
from producer.formats.xmp_sidecar import Sidecar, sidecar_of
from worker.contract.messages import Record

LISTED_PROBLEMS: Final = 20
# These concern all that is still to come.
_FATAL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class XmpSink:
    """Writes a sidecar for each image that has tags; those of failed images stay as they are."""

    def __init__(self, *, by_stem: bool) -> None:
        self._by_stem = by_stem
        self.unwritten = 0
        self.problems: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def write(self, record: Record) -> None:
        """Bring the sidecar of an image up to date, or note why it cannot be.

        Raises:
            OSError: the disk is full.
        """
        if record.status == "failed":
            return
        file = Path(record.path)
        try:
            file = sidecar_of(record.path, by_stem=self._by_stem)
            sidecar = Sidecar.read(file)
            sidecar.tag(record)
            sidecar.write(file)
        except (OSError, ValueError) as e:
            if isinstance(e, OSError) and e.errno in _FATAL:
                raise
            self._note(problem_with(file, e))

    def _note(self, problem: str) -> None:
        self.unwritten += 1
        if len(self.problems) < LISTED_PROBLEMS:
            self.problems.append(problem)

    def flush(self) -> None:
        """Have nothing to do: each sidecar is written at once."""
