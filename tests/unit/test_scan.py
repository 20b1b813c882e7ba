"""producer.sources.scan"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import pytest

from producer.errors import NoSuchPathError
from producer.sources.scan import check, count_images, path_of, read_list, scan


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*argv: str, listed: bytes = b"") -> list[str]:
    """Return what is found, relative to the directory, sorted."""
    paths = [path_of(image) for image in scan(argv, raise_error, lambda: io.BytesIO(listed))]
    assert all(map(os.path.isabs, paths))
    return sorted(os.path.relpath(path) for path in paths)


def raise_error(_directory: str, error: OSError) -> None:
    raise error


def test_a_directory_is_walked_for_images_of_any_case() -> None:
    touch("in/a.jpg", "in/b/c/d.PNG", "in/b/notes.txt", "in/b/e.WebP", "in/f.HEIC", "in/no_ending")
    assert found("in") == ["in/a.jpg", "in/b/c/d.PNG", "in/b/e.WebP", "in/f.HEIC"]


def test_hidden_files_and_directories_are_passed_over() -> None:
    touch("in/.hidden.jpg", "in/.git/a.jpg", "in/b.jpg")
    assert found("in") == ["in/b.jpg"]


def test_a_file_named_on_its_own_is_taken_whatever_its_name() -> None:
    touch("picture", ".hidden.data")
    assert found("picture", ".hidden.data") == [".hidden.data", "picture"]


def test_a_word_given_twice_counts_once() -> None:
    touch("in/a.jpg")
    assert found("in", "in") == ["in/a.jpg"]


@pytest.mark.parametrize(
    "name",
    ["猫 和 狗.jpg", "断\n行.jpg", "quote'\".jpg", "[a]*?.jpg", os.fsdecode(b"\xff\xfe.jpg")],
)
def test_strange_names_come_through(name: str) -> None:
    touch(f"in/{name}")
    assert found("in") == [f"in/{name}"]
    assert found(f"in/{name}") == [f"in/{name}"]
    (image,) = scan(["in"], raise_error)
    assert Path(path_of(image)).exists()


def test_links_in_circles_are_walked_once() -> None:
    touch("in/a/b/c.jpg")
    Path("in/a/b/back").symlink_to(Path("in").absolute())
    Path("in/again").symlink_to(Path("in/a").absolute())
    assert len(found("in")) == 1


def test_a_link_to_a_directory_elsewhere_is_followed_and_not_resolved() -> None:
    touch("elsewhere/a.jpg", "in/b.jpg")
    Path("in/link").symlink_to(Path("elsewhere").absolute())
    assert found("in") == ["in/b.jpg", "in/link/a.jpg"]


def test_images_that_nobody_can_read_are_submitted_all_the_same() -> None:
    touch("in/locked.jpg")
    Path("in/locked.jpg").chmod(0)
    Path("in/dangling.jpg").symlink_to("nowhere")
    Path("in/itself.jpg").symlink_to("itself.jpg")
    os.mkfifo("in/pipe.jpg")
    assert found("in") == ["in/dangling.jpg", "in/itself.jpg", "in/locked.jpg", "in/pipe.jpg"]


def test_a_directory_that_cannot_be_listed_is_told_and_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    touch("in/a.jpg", "in/locked/b.jpg")
    really = os.scandir

    # The one thing that is faked: tests may run as root, whom no permission stops.
    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    skipped: list[str] = []
    paths = list(scan(["in"], lambda where, _: skipped.append(where)))
    assert paths == [str(Path("in/a.jpg").absolute())]
    assert skipped == [str(Path("in/locked").absolute())]


def test_a_quoted_pattern_is_expanded() -> None:
    touch("in/a.jpg", "in/b.txt", "in/deep/c.jpg", "in/d.png")
    assert found("in/*.jpg") == ["in/a.jpg"]
    assert found("in/**/*.jpg") == ["in/a.jpg", "in/deep/c.jpg"]
    assert found("in/*") == ["in/a.jpg", "in/d.png", "in/deep/c.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file() -> None:
    touch("[1].jpg", "1.jpg")
    assert found("[1].jpg") == ["[1].jpg"]


def test_a_path_that_leads_nowhere_is_named() -> None:
    touch("a.jpg")
    check(["a.jpg", "-", "*.jpg"])
    with pytest.raises(NoSuchPathError, match=r"b\.jpg does not exist"):
        check(["a.jpg", "b.jpg"])
    with pytest.raises(NoSuchPathError, match=r"nothing matches \*\.png"):
        check(["*.png"])


def test_a_dangling_link_is_a_path_that_exists() -> None:
    Path("dangling.jpg").symlink_to("nowhere")
    check(["dangling.jpg"])
    assert found("dangling.jpg") == ["dangling.jpg"]


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\n\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0c.jpg\0", ["a\nb.jpg", "c.jpg"]),
        (b"one.jpg\0", ["one.jpg"]),
        ("猫.jpg\n".encode(), ["猫.jpg"]),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        (b"", []),
    ],
)
def test_a_list_holds_a_name_a_line_or_ends_names_with_nul(listed: bytes, names: list[str]) -> None:
    assert list(read_list(io.BytesIO(listed))) == names
    assert found("-", listed=listed) == sorted(names)


def test_a_name_without_an_end_is_one_image_that_nobody_has() -> None:
    (name, last) = read_list(io.BytesIO(b"x" * 1_000_000 + b"\nb.jpg"))
    assert len(name) < 200_000
    assert last == "b.jpg"


def test_a_shard_that_is_a_fifo_is_named_and_skipped() -> None:
    os.mkfifo("pipe.tar")
    skipped: list[str] = []
    assert not list(scan(["*.tar"], lambda _, e: skipped.append(str(e))))
    assert "it is a FIFO" in skipped[0]


def test_a_list_is_read_as_it_comes() -> None:
    def blocks() -> Iterable[bytes]:
        yield b"a.jpg\nhalf"
        yield b" a name.jpg\nb.j"
        yield b"pg"
        yield b""

    class Slow(io.RawIOBase):
        """A pipe that gives what it has."""

        def __init__(self) -> None:
            self.blocks = iter(blocks())
            self.given = 0

        def read(self, _size: int = -1) -> bytes:
            self.given += 1
            return next(self.blocks)

    slow = Slow()
    stream: IO[bytes] = slow  # type: ignore[assignment]
    names = read_list(stream)
    assert next(names) == "a.jpg"
    assert slow.given == 1
    assert list(names) == ["half a name.jpg", "b.jpg"]


def test_counting_agrees_with_scanning() -> None:
    touch("in/a.jpg", "in/b/c.jpg", "in/d.txt")
    assert count_images(["in", "in/*.jpg"]) == len(found("in", "in/*.jpg")) == 3


def test_files_stream_while_the_directory_is_still_being_listed() -> None:
    touch(*(f"in/{number}.jpg" for number in range(50)))
    paths = scan(["in"], raise_error)
    next(paths)
    for number in range(50):
        Path(f"in/{number}.jpg").unlink()
    assert len(list(paths)) <= 49
