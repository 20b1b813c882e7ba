"""Tar archive, here or at a URL -> where each image lies in it. Reads headers alone.

Shards as WebDataset has them: a plain tar whose members are images, among other files.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, Final, cast

from worker.contract.extensions import is_image
from worker.contract.i18n import gettext as _
from worker.contract.messages import INSIDE, ImageRef, Part

ENDING: Final = ".tar"
OnSkip = Callable[[str, OSError], None]
# A name or a comment in it may be long; more than so much, before one member, nobody writes.
_MOST_HEADER_BYTES: Final = 1024 * 1024
# What tarfile raises where headers hold what they should not, as one within the other for ever.
_DAMAGED: Final = (tarfile.TarError, ValueError, ArithmeticError, RecursionError, LookupError)


class _Headers:
    """An archive of which headers alone are read, and of each member no more than is reasonable.

    tarfile reads a long name, or a table of extended headers, whole: whatever length it claims.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = _MOST_HEADER_BYTES
        self.tell = stream.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go on to the next member."""
        self._left = _MOST_HEADER_BYTES
        return self._stream.seek(offset, whence)

    def read(self, size: int) -> bytes:
        """Read a part of a header.

        Raises:
            tarfile.ReadError: it has become too long.
        """
        self._left -= size
        if size < 0 or self._left < 0:
            msg = "a header is too long"
            raise tarfile.ReadError(msg)
        return self._stream.read(size)


def is_shard(name: str) -> bool:
    """Whether a name ends like an archive's."""
    return name.lower().endswith(ENDING)


def members(
    path: str, open_file: Callable[[str], IO[bytes]], on_skip: OnSkip
) -> Iterator[ImageRef]:
    """Yield the images of an archive, in its order, or call `on_skip` if it cannot be read."""
    try:
        with closing(open_file(path)) as stream:
            yield from _members(path, stream)
    except _DAMAGED as e:
        on_skip(
            path,
            OSError(0, _("it is not a tar archive, or it is damaged ({reason})").format(reason=e)),
        )
    except OSError as e:
        on_skip(path, e)


def _members(path: str, stream: IO[bytes]) -> Iterator[ImageRef]:
    headers = cast("IO[bytes]", _Headers(stream))
    with tarfile.open(fileobj=headers, mode="r:", errors="surrogateescape") as archive:
        before = -1
        while (member := archive.next()) is not None:
            # A size below zero leads back, and round in a circle.
            if archive.offset <= before:
                msg = "a member ends before it begins"
                raise tarfile.ReadError(msg)
            before = archive.offset
            if sum(map(len, archive.pax_headers.values())) > _MOST_HEADER_BYTES:
                msg = "headers for all members are too long"
                raise tarfile.ReadError(msg)
            # A sparse member's bytes do not lie there one after the other.
            if member.isreg() and not member.issparse() and is_image(member.name):
                part = Part(member.offset_data, member.size)
                yield ImageRef(f"{path}{INSIDE}{member.name}", part=part)
            # It would remember them all: a million names.
            archive.members = []  # type: ignore[attr-defined]
