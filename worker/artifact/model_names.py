"""What --model names -> why no model can be there, with what may be given, and what is near.

A name is empty for the bundled model, or it is a directory, of an artifact or of a Hugging Face
model, or an id of the hub.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Final

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import read_regular
from worker.contract.printable import printable
from worker.contract.settings import expanded

MANIFEST: Final = "manifest.json"
# It lists some files, and figures of some trials.
MOST_MANIFEST_BYTES: Final = 4 * 1024 * 1024
CONFIG: Final = "config.json"
OPEN_CLIP: Final = "open_clip_config.json"
# One of these is in the directory of a model, and of one that can be exported.
_SOURCE_MARKS: Final = (CONFIG, OPEN_CLIP)
_MARKS: Final = (MANIFEST, *_SOURCE_MARKS)
# An id of the Hugging Face hub, with its owner; a path that looks like one is a path if it exists.
HUB_ID: Final = re.compile(r"\w[\w.-]*/[\w.-]+")
# As deep lie the models of a download from the hub: models--owner--name/snapshots/commit.
_DEPTH: Final = 3
_MOST_DIRECTORIES: Final = 500
_ANY: Final = N_(
    "give an artifact that `worker export` made, the directory of a Hugging Face model, which has "
    "a config.json, or an id of the hub (owner/name)"
)
_SOURCE: Final = N_(
    "give the directory of a Hugging Face model, which has a config.json, or an id of the hub "
    "(owner/name)"
)


def is_source(name: str) -> bool:
    """Whether a model is in transformers' form: a directory of it, or an id of the hub."""
    place = expanded(name)
    if place.exists():
        return not (place / MANIFEST).exists() and (place / CONFIG).exists()
    return HUB_ID.fullmatch(name) is not None


def place_of(name: str) -> str | Path:
    """Return where the artifact of a name is; nothing for the bundled one."""
    return name and expanded(name)


def no_model(name: str) -> Message | None:
    """Return why there is no model of that name; None if there is one, or may be on the hub."""
    place = expanded(name)
    if not name or _is_model(place) or _is_closed(place) or _may_be_on_the_hub(name, place):
        return None
    return _missing(place, _ANY, _MARKS)


def no_source(name: str) -> Message | None:
    """Return why nothing can be exported by that name; None if it can, or may be on the hub."""
    place = expanded(name)
    if _holds(place, MANIFEST) and not _holds(place, CONFIG):
        return _exported_already(place)
    if _is_model(place) or _is_closed(place) or _may_be_on_the_hub(name, place):
        return None
    return _missing(place, _SOURCE, _SOURCE_MARKS)


def _missing(place: Path, advice: str, marks: tuple[str, ...]) -> Message:
    """Return that there is no model at a place, what may be given, and the nearest, if any."""
    near = _nearest(place, marks)
    message = N_("there is no model at {place}: {advice}")
    if near is not None:
        message = N_("there is no model at {place}; is {near} meant? Else {advice}")
    return Message(
        message, place=printable(str(place)), near=printable(str(near)), advice=Message(advice)
    )


def _exported_already(place: Path) -> Message:
    message = N_(
        "{place} is an artifact already, which `worker start --model {place}` runs; to export "
        "its model in another way, such as --precision, give what it was made of{origin}"
    )
    origin = _origin(place)
    return Message(message, place=printable(str(place)), origin=f" ({origin})" if origin else "")


def _origin(place: Path) -> str:
    """Return what an artifact says that it was made of: an id of the hub, or a directory's name."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        manifest = json.loads(read_regular(place / MANIFEST, MOST_MANIFEST_BYTES))
        return printable(str(manifest["source"]["id"]))
    return ""


def _nearest(place: Path, marks: tuple[str, ...]) -> Path | None:
    """Return the model that was probably meant: around a place, below it, or of a similar name."""
    if os.path.lexists(place) and _is_model(place.parent, marks):
        return place.parent
    if _is_directory(place):
        return next((one for one in _below(place) if _is_model(one, marks)), None)
    with suppress(OSError):
        beside = {one.name: one for one in islice(place.parent.iterdir(), _MOST_DIRECTORIES)}
        similar = get_close_matches(place.name, beside)
        return next((beside[name] for name in similar if _is_model(beside[name], marks)), None)
    return None


def _below(place: Path) -> Iterator[Path]:
    """Yield the directories below a place, the nearest first, down to some depth."""
    level = [place]
    left = _MOST_DIRECTORIES
    for _depth in range(_DEPTH):
        found: list[Path] = []
        for directory in level:
            with suppress(OSError):
                names = sorted(one for one in islice(directory.iterdir(), left) if one.is_dir())
                found += [one for one in names if not one.name.startswith(".")]
        yield from found
        level, left = found, max(left - len(found), 0)


def _holds(directory: Path, name: str) -> bool:
    """Whether there is anything of that name: what is no file is refused when it is read."""
    return os.path.lexists(directory / name)


# Path's own `is_dir` and `exists` raise where nobody may look.
def _is_directory(place: Path) -> bool:
    return os.path.isdir(place)  # noqa: PTH112


def _is_model(place: Path, marks: tuple[str, ...] = _MARKS) -> bool:
    return any(_holds(place, name) for name in marks)


def _is_closed(place: Path) -> bool:
    """Whether nobody can tell what a directory holds: that is said when it is read."""
    return _is_directory(place) and not os.access(place, os.R_OK | os.X_OK)


def _may_be_on_the_hub(name: str, place: Path) -> bool:
    return HUB_ID.fullmatch(name) is not None and not os.path.exists(place)  # noqa: PTH110
