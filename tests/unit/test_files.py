"""worker.contract.local.files and neighbours: nobody makes us wait, or leads us elsewhere."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, environment

from worker.contract.i18n import in_language
from worker.contract.local.files import (
    UnfitFileError,
    open_given,
    open_regular,
    read_given,
    read_regular,
)
from worker.contract.local.neighbours import neighbour, new_beside, open_own, read_neighbour
from worker.contract.reasons import os_reason

LIMIT = 1000


def a_socket(file: Path) -> None:
    # Its name may have a hundred bytes at most.
    with socket.socket(socket.AF_UNIX) as at:
        before = Path.cwd()
        os.chdir(file.parent)
        at.bind(file.name)
        os.chdir(before)


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2 << 30)


UNFIT: dict[str, Callable[[Path], object]] = {
    "it is a FIFO": os.mkfifo,
    "it is a directory": Path.mkdir,
    "it is a socket": a_socket,
    "bytes are more than the 1,000": sparse,
}
LINKS = {
    "/dev/zero": "it is a device",
    "/proc/self/environ": "",
    "../elsewhere/theirs": "",
    "../elsewhere/nothing": "",
    "../elsewhere/link": "",
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "theirs").write_bytes(b"theirs")
    (elsewhere / "link").symlink_to("../here/file")
    here = tmp_path / "here"
    here.mkdir()
    return here


@pytest.mark.parametrize("reason", UNFIT)
def test_what_is_no_small_regular_file_is_refused_at_once(directory: Path, reason: str) -> None:
    file = directory / "file"
    UNFIT[reason](file)
    for read in (read_regular, read_neighbour):
        with pytest.raises(UnfitFileError, match=reason) as e:
            read(file, LIMIT)
        assert str(file) in str(e.value)
        assert str(os_reason(e.value)).startswith(("it is", "2,147,483,648"))


@pytest.mark.parametrize("target", LINKS)
def test_a_link_of_a_name_of_ours_leads_to_a_neighbour_only(directory: Path, target: str) -> None:
    file, theirs = directory / "file.xmp", directory.parent / "elsewhere"
    file.symlink_to(target)
    for act in (neighbour, lambda file: read_neighbour(file, LIMIT), open_own):
        with pytest.raises(UnfitFileError, match="link"):
            act(file)
    assert {one.name for one in theirs.iterdir()} == {"link", "theirs"}


def test_a_link_to_a_neighbour_is_followed_also_by_a_long_way_and_in_no_circle(
    directory: Path,
) -> None:
    (directory / "real").write_bytes(b"1")
    (directory / "near").symlink_to("real")
    (directory / "far").symlink_to(f"{directory}/../here/near")
    assert neighbour(directory / "far") == directory.resolve() / "real"
    assert read_neighbour(directory / "far", LIMIT) == b"1"
    (directory / "itself").symlink_to("itself")
    (directory / "above").symlink_to("..")
    for name in ("itself", "above"):
        with pytest.raises(UnfitFileError, match="link"):
            neighbour(directory / name)
    assert neighbour(directory / "nothing") == directory.resolve() / "nothing"


def test_what_a_user_names_is_followed_wherever_it_leads(directory: Path) -> None:
    (directory / "file").symlink_to("../elsewhere/theirs")
    assert read_regular(directory / "file", LIMIT) == b"theirs"
    with pytest.raises(UnfitFileError, match="it is a device"):
        open_regular(Path("/dev/zero"))


def test_a_file_of_two_names_is_not_written_to(directory: Path) -> None:
    theirs = directory.parent / "elsewhere" / "theirs"
    (directory / "file").hardlink_to(theirs)
    with pytest.raises(UnfitFileError, match="another name"):
        open_own(directory / "file")
    assert theirs.read_bytes() == b"theirs"


def test_a_new_file_has_a_name_that_nobody_knows(directory: Path) -> None:
    names = {new_beside(directory / ("x" * 255)).name for _ in range(3)}
    assert names == {one.name for one in directory.iterdir()}
    assert len(names) == 3


def test_a_fifo_that_a_user_names_is_read_to_its_end(directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    # The writer comes later: a FIFO without one is not at its end.
    writer = threading.Timer(0.2, lambda: fifo.write_bytes(b"one\ntwo\n"))
    writer.start()
    with open_given(fifo) as stream:
        assert list(stream) == [b"one\n", b"two\n"]
    writer.join()


def test_the_wait_for_what_a_user_names_has_an_end_and_so_has_its_size(directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    with open_given(fifo, wait_s=0.05) as stream, pytest.raises(UnfitFileError, match=r"0\.05 s"):
        stream.read()
    with pytest.raises(UnfitFileError, match="more than the 1,000"):
        read_given(Path("/dev/zero"), LIMIT)
    with pytest.raises(UnfitFileError, match="it is a directory"):
        open_given(directory)
    assert read_given(Path("/dev/null"), LIMIT) == b""


def test_the_sentence_is_in_the_language_of_the_user(directory: Path) -> None:
    with in_language("zh"), pytest.raises(UnfitFileError) as e:
        open_regular(directory)
    with in_language("zh"):
        assert "它是目录" in str(e.value)


def test_standard_input_and_substituted_commands_can_be_label_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for argv in (
        "$SUBMIT --labels <(sleep 0.1; echo 猫)",
        "echo 猫 | $SUBMIT --labels /dev/stdin",
    ):
        submit = f"{sys.executable} -m producer.cli submit a.jpg --dry-run"
        done = subprocess.run(
            ["bash", "-c", argv],
            cwd=tmp_path,
            env=environment(broker_url="redis://127.0.0.1:1")
            | {"PYTHONPATH": str(ROOT), "SUBMIT": submit},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
