"""Sidecars -> the same without our keywords; one that held nothing else goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from producer.formats.xmp_problems import problem_with
from producer.formats.xmp_sidecar import ENDING, Sidecar, sidecar_of
from producer.sources.scan import walk
from producer.sources.tar import OnSkip


class Untagged(msgspec.Struct):
    """How many sidecars lost our keywords, how many of them went; what could not be done."""

    cleaned: int = 0
    removed: int = 0
    problems: list[str] = []


def untag(files: Iterable[Path]) -> Untagged:
    """Take our keywords and notes out of sidecars; those that are none of ours stay untouched."""
    found = Untagged()
    for file in files:
        try:
            sidecar = Sidecar.read(file)
            if not sidecar.untag():
                continue
            if sidecar.is_blank:
                file.unlink()
                found.removed += 1
            else:
                sidecar.write(file)
            found.cleaned += 1
        except (OSError, ValueError) as e:
            found.problems.append(problem_with(file, e))
    return found


def find_sidecars(paths: Iterable[str], on_skip: OnSkip) -> Iterator[Path]:
    """Yield the sidecars in directories, of images, and those named themselves."""
    for path in paths:
        if Path(path).is_dir():
            yield from map(Path, walk(path, set(), on_skip, _is_sidecar))
        elif _is_sidecar(path):
            yield Path(path)
        else:
            both = (sidecar_of(path), sidecar_of(path, by_stem=True))
            yield from (one for one in both if one.exists())


def _is_sidecar(name: str) -> bool:
    return name.lower().endswith(ENDING)
