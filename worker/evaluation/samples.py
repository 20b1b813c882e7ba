"""A directory, or a table -> pictures with the names of what they show."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

from worker.contract.extensions import is_image
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_files import decoded_text
from worker.contract.labels import LabelsError
from worker.contract.local.files import read_regular
from worker.contract.printable import printable
from worker.errors import TaggerError
from worker.evaluation.table import read_table

Truths = Literal["folders", "captions"]
TRUTHS: Final[tuple[Truths, ...]] = get_args(Truths)
_CAPTION_ENDING: Final = ".txt"
_MOST_CAPTION_BYTES: Final = 64 * 1024
# Between the labels of a caption, and what stands at the end of one.
_BETWEEN: Final = re.compile(r"[,，、;；|｜\n]")
_FULL_STOPS: Final = " \t\r.。!！"


class EvaluationError(TaggerError):
    """Nothing can be measured; `str()` says why."""


class Sample(NamedTuple):
    """A picture, and what it shows by the names that its owner uses; none if that is not known."""

    path: str
    names: tuple[str, ...]


def read_samples(place: Path, truths: Truths | None) -> list[Sample]:
    """Return the pictures at a place, ordered by their paths; a table keeps its order.

    A file is a table of paths and labels. Below a directory, a picture shows what its folder is
    called, or what the file of the same name and the ending `.txt` says; which of both is found out
    if `truths` is None: captions, if there is any.

    Raises:
        EvaluationError: there is no picture, or the table cannot be used.
        OSError: the directory cannot be read.
    """
    if place.is_dir():
        samples = _in_directory(place, truths)
    elif truths is None:
        samples = [Sample(path, names) for path, names in _table(place)]
    else:
        raise EvaluationError(N_("--truth is for directories: a table names the labels itself"))
    if not samples:
        raise EvaluationError(N_("no picture is in {place}"), place=printable(str(place)))
    return samples


def _table(file: Path) -> list[tuple[str, tuple[str, ...]]]:
    try:
        return read_table(file)
    except LabelsError as e:
        raise EvaluationError(
            N_("{file}: {reason}"), file=printable(str(file)), reason=str(e)
        ) from e


def _in_directory(directory: Path, truths: Truths | None) -> list[Sample]:
    paths = sorted(_pictures(directory))
    if truths is None:
        has_captions = any(_caption_file(path).is_file() for path in paths)
        truths = "captions" if has_captions else "folders"
    names_of: Callable[[Path], tuple[str, ...]] = _caption
    if truths == "folders":

        def names_of(path: Path) -> tuple[str, ...]:
            return () if path.parent == directory else (path.parent.name,)

    return [Sample(str(path), names_of(path)) for path in paths]


def _pictures(directory: Path) -> Iterator[Path]:
    """Yield files named like pictures; what is hidden is passed over."""

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(directory, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_image(name) and not name.startswith("."):
                yield Path(place, name)


def _caption_file(picture: Path) -> Path:
    return picture.with_suffix(_CAPTION_ENDING)


def _caption(picture: Path) -> tuple[str, ...]:
    """Return the labels of a picture's caption; none if there is no such file.

    Raises:
        EvaluationError: it cannot be read.
    """
    file = _caption_file(picture)
    try:
        text = decoded_text(read_regular(file, _MOST_CAPTION_BYTES))
    except FileNotFoundError:
        return ()
    except (LabelsError, OSError) as e:
        why = e.strerror if isinstance(e, OSError) else str(e)
        raise EvaluationError(N_("{file}: {reason}"), file=printable(str(file)), reason=why) from e
    parts = (part.strip(_FULL_STOPS) for part in _BETWEEN.split(text.removeprefix("\ufeff")))
    return tuple(dict.fromkeys(part for part in parts if part))
