"""Tar archive, here or at a URL -> where each image lies in it. Reads headers alone.

Shards as WebDataset has them: a plain tar whose members are images, among other files.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import IO, Final

from producer.sources.extensions import is_image
from worker.contract.i18n import gettext as _
from worker.contract.messages import INSIDE, ImageRef, Part

ENDING: Final = ".tar"
OnSkip = Callable[[str, OSError], None]


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
    except tarfile.TarError as e:
        on_skip(
            path,
            OSError(0, _("it is not a tar archive, or it is damaged ({reason})").format(reason=e)),
        )
    except OSError as e:
        on_skip(path, e)


def _members(path: str, stream: IO[bytes]) -> Iterator[ImageRef]:
    with tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as archive:
        while (member := archive.next()) is not None:
            # A sparse member's bytes do not lie there one after the other.
            if member.isreg() and not member.issparse() and is_image(member.name):
                part = Part(member.offset_data, member.size)
                yield ImageRef(f"{path}{INSIDE}{member.name}", part=part)
            # It would remember them all: a million names.
            archive.members = []  # type: ignore[attr-defined]
