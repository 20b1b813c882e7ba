"""Paths, globs, URLs, shards, standard input -> images, streamed. Opens no image."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Final

from producer.errors import NoSuchPathError
from producer.sources import stores as urls
from producer.sources import tar as shards
from producer.sources.tar import OnSkip
from worker.contract.extensions import is_image
from worker.contract.i18n import gettext as _
from worker.contract.local.files import open_regular
from worker.contract.messages import ImageRef
from worker.contract.urls import is_url

STANDARD_INPUT: Final = "-"
_BLOCK_BYTES: Final = 65_536
_LONGEST_NAME: Final = 65_536

# Most are files, and a million strings cost less than as many references.
Image = str | ImageRef


def path_of(image: Image) -> str:
    """Return the path by which an image is known."""
    return image if isinstance(image, str) else image.path


def standard_input() -> IO[bytes]:
    """Return standard input, unbuffered: a thread that waits in it then holds no lock at exit."""
    return open(0, "rb", buffering=0, closefd=False)


def check(names: Iterable[str]) -> None:
    """Look once at each name, before any work begins.

    Raises:
        NoSuchPathError: naming the first that leads nowhere.
        StoreError: a store cannot be listed from here.
    """
    for name in names:
        if name == STANDARD_INPUT or os.path.lexists(name):
            continue
        if is_url(name):
            urls.check_images(name)
            continue
        if not name:
            msg = _("the name of a path is empty")
            raise NoSuchPathError(msg)
        if not glob.has_magic(name):
            msg = _("{path} does not exist").format(path=name)
            raise NoSuchPathError(msg)
        if next(glob.iglob(name, recursive=True), None) is None:
            msg = _("nothing matches {pattern}").format(pattern=name)
            raise NoSuchPathError(msg)


def scan(
    names: Iterable[str], on_skip: OnSkip, stdin: Callable[[], IO[bytes]] = standard_input
) -> Iterator[Image]:
    """Yield the images that the names stand for, as absolute paths, links not resolved, or as URLs.

    Archives that are named, or match a pattern, are shards: their images come as references. URLs
    are listed where the store can. Directories are walked, each real one once, so links in circles
    do no harm; hidden entries and files without an image's ending are passed over there. `on_skip`
    is called with what cannot be listed. Names that are no UTF-8 come as lone surrogates (PEP 383).
    Names in a list on standard input are taken as they are: each is an image.
    """
    visited: set[tuple[int, int]] = set()
    for name in dict.fromkeys(names):
        if name == STANDARD_INPUT:
            yield from map(absolute, read_list(stdin()))
            continue
        if is_url(name) and not os.path.lexists(name):
            yield from _at_url(name, on_skip)
            continue
        is_pattern = glob.has_magic(name) and not os.path.lexists(name)
        found = glob.iglob(name, recursive=True) if is_pattern else [name]
        for path in map(os.path.abspath, found):
            if os.path.isdir(path):
                yield from walk(path, visited, on_skip)
            elif shards.is_shard(path):
                yield from shards.members(path, _open, on_skip)
            elif not is_pattern or is_image(path):
                yield path


def absolute(name: str) -> str:
    """Return the name of one image as it travels: an absolute path, or a URL."""
    return name if is_url(name) else os.path.abspath(name)


def _open(path: str) -> IO[bytes]:
    return open_regular(Path(path))


def _at_url(name: str, on_skip: OnSkip) -> Iterator[Image]:
    try:
        for url in urls.find(name):
            if shards.is_shard(url):
                yield from shards.members(url, urls.open_url, on_skip)
            elif url == name or is_image(url):
                yield url
    except Exception as e:  # noqa: BLE001 - each store has errors of its own, and many
        on_skip(name, OSError(0, " ".join(str(e).split()) or type(e).__name__))


def count_images(names: Iterable[str]) -> int:
    """Return how many images `scan` would yield."""
    return sum(1 for _ in scan(names, lambda *_: None))


def read_list(stream: IO[bytes]) -> Iterator[str]:
    """Yield the names in a list as they come: one a line, or ended by NUL if there is a NUL."""
    rest, separator = b"", b"\n"
    while block := stream.read(_BLOCK_BYTES):
        if b"\0" in block:
            separator = b"\0"
        *names, rest = (rest + block).split(separator)
        # Of a name without an end, as of a film, the beginning is kept: no file is called so.
        rest = rest[:_LONGEST_NAME]
        yield from (os.fsdecode(name[:_LONGEST_NAME]) for name in names if name)
    if rest:
        yield os.fsdecode(rest)


def walk(
    root: str,
    visited: set[tuple[int, int]],
    on_skip: OnSkip,
    is_wanted: Callable[[str], bool] = is_image,
) -> Iterator[str]:
    """Yield the files below a directory whose names are wanted; see `scan`."""
    # Directories still to see are held, files never: a million of them in one folder stream by.
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        try:
            if _seen(directory, visited):
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _is_directory(entry):
                        waiting.append(entry.path)
                    elif is_wanted(entry.name):
                        yield entry.path
        except OSError as e:
            on_skip(directory, e)


def _seen(directory: str, visited: set[tuple[int, int]]) -> bool:
    status = os.stat(directory)
    identity = (status.st_dev, status.st_ino)
    known = identity in visited
    visited.add(identity)
    return known


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself: no directory, and its image ends in a failed record.
        return False
