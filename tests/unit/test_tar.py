"""producer.sources.tar: headers alone are read, and no header takes all memory, or for ever."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from producer.sources.tar import members

BLOCK = 512
IMAGE = b"x" * BLOCK


def header(name: str, size_bytes: int = 10, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size_bytes, kind
    return member.tobuf(tarfile.GNU_FORMAT)


def found(body: bytes) -> tuple[list[str], list[str]]:
    """Return the images of an archive, and why the rest was skipped."""
    skipped: list[str] = []
    images = members("a.tar", lambda _: io.BytesIO(body), lambda _, e: skipped.append(str(e)))
    return [image.path for image in images], skipped


LONG = 40_000_000
GLOBAL = f"{BLOCK * 1000} comment=".encode().ljust(BLOCK * 1000 - 1, b"v") + b"\n"
ODD = {
    "a name of 40 MB": header("long", LONG, tarfile.GNUTYPE_LONGNAME) + bytes(LONG),
    "a size below zero": header("b.jpg", -3 * BLOCK),
    "names within names": (header("n", 10, tarfile.GNUTYPE_LONGNAME) + IMAGE) * 2000,
    "headers for all": (header("g", len(GLOBAL), tarfile.XGLTYPE) + GLOBAL) * 9,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_header_ends_its_archive_and_takes_no_memory(kind: str) -> None:
    body = header("a.jpg") + IMAGE + ODD[kind] + header("c.jpg") + IMAGE
    tracemalloc.start()
    images, skipped = found(body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images == ["a.tar!/a.jpg"]
    assert len(skipped) == 1
    assert "it is damaged" in skipped[0]
    assert peak_bytes < 8_000_000


def test_an_archive_of_many_members_has_no_limit() -> None:
    body = b"".join(header(f"{n}.jpg") + IMAGE for n in range(3000)) + bytes(2 * BLOCK)
    images, skipped = found(body)
    assert (len(images), skipped) == (3000, [])
