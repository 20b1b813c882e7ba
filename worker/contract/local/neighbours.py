"""Files whose names are ours by convention, beside a user's: sidecars, journals, notes of jobs.

Nobody named them, so whoever may write to the directory can have put anything there first. A link
is followed to a neighbour in the same directory, and never out of it; what is written is a new file
that takes the place of the old one, or a regular file that has no other name.
"""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import Final

from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import (
    FLAGS,
    UnfitFileError,
    open_to_change,
    read_regular,
    refuse_kind,
)

_MOST_LINKS: Final = 8
_MODE: Final = 0o666


def neighbour(file: Path) -> Path:
    """Return where a name leads: to itself, or by links to another of its directory.

    Nothing need be there. The directory's own path may have links in it: the user named that.

    Raises:
        UnfitFileError: a link leads elsewhere, or in a circle.
    """
    directory, name = Path(os.path.realpath(file.parent)), file.name
    for _ in range(_MOST_LINKS):
        try:
            target = (directory / name).readlink()
        except OSError:
            # It is no link, or there is nothing, or what opens it will say more.
            return directory / name
        name = target.name
        if name in {"", os.pardir} or os.path.realpath(directory / target.parent) != str(directory):
            raise UnfitFileError(file, N_("it is a link that leads out of its directory"))
    raise UnfitFileError(file, N_("it is a link in a circle"))


def read_neighbour(file: Path, most_bytes: int) -> bytes:
    """Return what the file of a name of ours holds.

    Raises:
        UnfitFileError: it is no regular file, holds more, or is a link that leads elsewhere.
        OSError: it cannot be read.
    """
    return read_regular(neighbour(file), most_bytes, os.O_NOFOLLOW)


def open_own(file: Path) -> io.BufferedRandom:
    """Open a file that only we write, to be read and written; make it if there is none.

    Raises:
        UnfitFileError: something else is there: no regular file, a link, or one with more names.
        OSError: it cannot be made or opened.
    """
    try:
        stream = open_to_change(file, os.O_NOFOLLOW)
    except FileNotFoundError:
        # Somebody may make one at this moment: what is then there is looked at by its handle.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | FLAGS
        stream = os.fdopen(os.open(file, flags, _MODE), "rb+")
    try:
        _refuse_names(file, os.fstat(stream.fileno()))
    except BaseException:
        stream.close()
        raise
    return stream


def new_beside(file: Path) -> Path:
    """Make an empty file in the directory of another, of a name that nobody knows before.

    Raises:
        OSError: it cannot be made.
    """
    new = file.with_name(f".wanwu-{secrets.token_hex(8)}.new")
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | FLAGS, _MODE))
    return new


def _refuse_names(file: Path, status: os.stat_result) -> None:
    refuse_kind(file, status)
    if status.st_nlink > 1:
        raise UnfitFileError(file, N_("it has another name, too, of which nothing is known"))
