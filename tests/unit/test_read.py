"""Reference -> bytes: every kind of thing that can lie at a path."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
import redis

from worker.contract.messages import Failure, ImageRef, Stamp
from worker.contract.settings import Settings
from worker.contract.stores.blobs import BlobStore
from worker.errors import (
    BlobMissingError,
    EmptyFileError,
    ImageError,
    NotAFileError,
    NotFoundError,
    OutsideRootsError,
    ReportedError,
    TooLargeError,
    UnreadableError,
)
from worker.images import read as intake

BODY = b"some bytes"
ANYWHERE = Settings(image_roots=("/",))


def limited(max_bytes: int) -> Settings:
    return Settings(image_roots=("/",), max_file_bytes=max_bytes)


def read(ref: ImageRef, blobs: BlobStore, settings: Settings) -> bytes:
    return intake.read(ref, blobs, settings).data


@pytest.fixture
def blobs(client: redis.Redis) -> BlobStore:
    return BlobStore(client, ttl_s=60)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "图.jpg"
    path.write_bytes(BODY)
    return path


def test_a_file_is_read_whole(image: Path, blobs: BlobStore) -> None:
    assert read(ImageRef(str(image)), blobs, ANYWHERE) == BODY


def test_the_stamp_is_that_of_the_file_which_was_read(image: Path, blobs: BlobStore) -> None:
    os.utime(image, (1, 1_700_000_000.25))
    found = intake.read(ImageRef(str(image)), blobs, ANYWHERE)
    assert found.stamp == Stamp(len(BODY), 1_700_000_000.25)


def test_a_blob_has_the_stamp_that_its_sender_knew(blobs: BlobStore) -> None:
    blobs.put({"wanwu:blob:x": BODY})
    ref = ImageRef("/far.jpg", blob="wanwu:blob:x", stamp=Stamp(9, 1.5))
    assert intake.read(ref, blobs, ANYWHERE).stamp == Stamp(9, 1.5)


def test_a_name_that_is_no_utf8_is_found(tmp_path: Path, blobs: BlobStore) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"\xff\xfe.jpg")  # noqa: PTH118 - of bytes
    with open(name, "wb") as file:  # noqa: PTH123
        file.write(BODY)
    assert read(ImageRef(os.fsdecode(name)), blobs, ANYWHERE) == BODY


def test_a_link_is_followed(image: Path, tmp_path: Path, blobs: BlobStore) -> None:
    link = tmp_path / "link"
    link.symlink_to(image)
    assert read(ImageRef(str(link)), blobs, ANYWHERE) == BODY


@pytest.mark.parametrize("path", ["/nowhere/at/all.jpg", "/etc/passwd/x.jpg", "a\0b", "\ud800"])
def test_a_path_that_leads_nowhere_is_not_found(path: str, blobs: BlobStore) -> None:
    with pytest.raises(NotFoundError):
        read(ImageRef(path), blobs, ANYWHERE)


def test_a_directory_is_not_a_file(tmp_path: Path, blobs: BlobStore) -> None:
    with pytest.raises(NotAFileError, match="a directory"):
        read(ImageRef(str(tmp_path)), blobs, ANYWHERE)


def test_a_fifo_without_a_writer_does_not_hang(tmp_path: Path, blobs: BlobStore) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NotAFileError, match="a FIFO"):
        read(ImageRef(str(tmp_path / "fifo")), blobs, ANYWHERE)


def test_a_device_is_not_read(blobs: BlobStore) -> None:
    with pytest.raises(NotAFileError, match="a device"):
        read(ImageRef("/dev/zero"), blobs, ANYWHERE)


def test_a_socket_is_not_a_file(
    tmp_path: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A socket's own name may have 107 bytes at most.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        with pytest.raises(NotAFileError):
            read(ImageRef(str(tmp_path / "s")), blobs, ANYWHERE)


def test_a_loop_of_links_is_unreadable(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UnreadableError, match="too many levels of symbolic links"):
        read(ImageRef(str(tmp_path / "loop")), blobs, ANYWHERE)


def test_no_sentence_repeats_the_path_or_an_error_number(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", tmp_path, tmp_path / "none"):
        with pytest.raises(ImageError) as caught:
            read(ImageRef(str(path)), blobs, ANYWHERE)
        assert str(tmp_path) not in str(caught.value)
        assert "Errno" not in str(caught.value)


def test_an_empty_file_is_called_so(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(EmptyFileError):
        read(ImageRef(str(tmp_path / "empty")), blobs, ANYWHERE)


def test_a_file_at_the_limit_is_read_and_one_beyond_is_not(image: Path, blobs: BlobStore) -> None:
    assert read(ImageRef(str(image)), blobs, limited(len(BODY))) == BODY
    with pytest.raises(TooLargeError, match="10 bytes are more than the limit of 9"):
        read(ImageRef(str(image)), blobs, limited(len(BODY) - 1))


def test_a_file_below_a_root_is_read(image: Path, tmp_path: Path, blobs: BlobStore) -> None:
    roots = ("/nowhere", str(tmp_path))
    assert read(ImageRef(str(image)), blobs, Settings(image_roots=roots)) == BODY


def test_the_root_of_the_file_system_allows_everything(image: Path, blobs: BlobStore) -> None:
    assert read(ImageRef(str(image)), blobs, Settings(image_roots=("/",))) == BODY


@pytest.mark.parametrize("way_out", ["../图.jpg", "link", "../inside-too/x.jpg"])
def test_no_way_leads_out_of_the_roots(
    way_out: str, image: Path, tmp_path: Path, blobs: BlobStore
) -> None:
    root = tmp_path / "inside"
    root.mkdir()
    (root / "link").symlink_to(image)
    (tmp_path / "inside-too").mkdir()
    (tmp_path / "inside-too" / "x.jpg").write_bytes(BODY)
    with pytest.raises(OutsideRootsError):
        read(ImageRef(f"{root}/{way_out}"), blobs, Settings(image_roots=(str(root),)))


def test_without_roots_no_path_is_read_and_bytes_are(image: Path, blobs: BlobStore) -> None:
    with pytest.raises(OutsideRootsError):
        read(ImageRef(str(image)), blobs, Settings())
    blobs.put({"wanwu:blob:x": BODY})
    assert read(ImageRef(str(image), blob="wanwu:blob:x"), blobs, Settings()) == BODY


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "/proc/self/environ", "/dev/zero", "/proc/self/root/etc/hostname"]
)
def test_what_lies_outside_is_refused_before_it_is_looked_at(
    path: str, tmp_path: Path, blobs: BlobStore
) -> None:
    with pytest.raises(OutsideRootsError):
        read(ImageRef(path), blobs, Settings(image_roots=(str(tmp_path),)))


def test_a_path_that_changes_while_it_is_looked_at_leads_nowhere_else(
    image: Path, tmp_path: Path, blobs: BlobStore
) -> None:
    secret, root, stop = image.rename(tmp_path / "secret"), tmp_path / "root", threading.Event()
    secret.write_bytes(b"not for you")
    root.mkdir()
    (root / "good").write_bytes(BODY)
    (root / "a").symlink_to(root / "good")

    def swap() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            (root / "b").symlink_to(secret if turn % 2 else root / "good")
            (root / "b").rename(root / "a")

    ref, settings = ImageRef(str(root / "a")), Settings(image_roots=(str(root),))
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        refused = seen = 0
        while refused + seen < 2000 or not (refused and seen):
            try:
                assert read(ref, blobs, settings) == BODY
                seen += 1
            except OutsideRootsError:
                refused += 1
    finally:
        stop.set()
        swapping.join()


def test_a_root_that_is_a_link_still_counts(image: Path, tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "root").symlink_to(image.parent)
    settings = Settings(image_roots=(str(tmp_path / "root"),))
    assert read(ImageRef(str(image)), blobs, settings) == BODY


def test_a_blob_comes_from_redis_whatever_lies_at_the_path(blobs: BlobStore) -> None:
    blobs.put({"wanwu:blob:x": BODY})
    assert read(ImageRef("/gone.jpg", blob="wanwu:blob:x"), blobs, ANYWHERE) == BODY


def test_a_blob_that_is_gone_is_missing(blobs: BlobStore) -> None:
    with pytest.raises(BlobMissingError):
        read(ImageRef("/x.jpg", blob="wanwu:blob:none"), blobs, ANYWHERE)


def test_blobs_have_the_same_limits_as_files(blobs: BlobStore) -> None:
    blobs.put({"wanwu:blob:x": BODY, "wanwu:blob:y": b""})
    with pytest.raises(TooLargeError):
        read(
            ImageRef("/x.jpg", blob="wanwu:blob:x"),
            blobs,
            limited(3),
        )
    with pytest.raises(EmptyFileError):
        read(ImageRef("/y.jpg", blob="wanwu:blob:y"), blobs, ANYWHERE)


def test_a_failure_that_the_producer_saw_comes_first(image: Path, blobs: BlobStore) -> None:
    seen = Failure("unreadable", "read", "permission denied")
    with pytest.raises(ReportedError) as caught:
        read(ImageRef(str(image), error=seen), blobs, ANYWHERE)
    assert caught.value.failure() == seen
