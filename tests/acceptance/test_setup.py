"""ops/setup and ops/quickstart: what stands in their way is one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What ops/setup reads, in a directory where nothing is set up yet."""
    (tmp_path / "ops").mkdir()
    for name in ("pyproject.toml", "ops/setup", "ops/quickstart", "ops/constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def call(checkout: Path, *argv: str, **variables: str) -> tuple[int, str]:
    done = subprocess.run(
        [str(checkout / argv[0]), *argv[1:]],
        env=os.environ | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def python(place: Path, fails_at: str, version: str) -> str:
    """Return a Python that says to be of a version, and fails at a program with some word."""
    place.write_text(f'#!/bin/sh\ncase "$*" in *{fails_at}*) exit 1;; esac\necho {version}\n')
    place.chmod(0o755)
    return str(place)


def test_what_is_missing_or_wrong_is_one_sentence(checkout: Path) -> None:
    bare = python(checkout / "bare", "ensurepip", "3.12")
    for argv, variables, said in (
        (("ops/setup",), {"PYTHON": "no-such-python"}, "there is no no-such-python"),
        (("ops/setup",), {"PYTHON": bare}, "lacks the module venv: apt-get install python3-venv"),
        (("ops/setup",), {"PYTHON": python(checkout / "old", "xx", "3.10")}, "3.11 to 3.14 is"),
        (("ops/setup", "worker,none"), {}, "there is no extra none"),
    ):
        code, reply = call(checkout, *argv, **variables)
        assert (code, reply.count("\n")) == (1, 0), reply
        assert said in reply
        assert not (checkout / ".venv").exists()


def test_a_directory_that_is_not_there_is_said_before_anything_is_installed(checkout: Path) -> None:
    assert call(checkout, "ops/quickstart", "none") == (2, "ops/quickstart: there is no none")
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [("C", "The tags are in {file}."), ("zh_CN.UTF-8", "标签在 {file} 中。")],
)
def test_each_directory_has_a_file_of_its_own_and_the_end_speaks_the_users_language(
    checkout: Path, locale: str, sentence: str
) -> None:
    programs = checkout / ".venv" / "bin"
    programs.mkdir(parents=True)
    scripts = {
        checkout / "ops/setup": "exit 0",
        programs / "producer": f'echo "$*" >> {checkout}/calls',
        programs / "python": f'PYTHONPATH={ROOT} exec {sys.executable} "$@"',
    }
    for place, line in scripts.items():
        place.write_text(f"#!/bin/sh\n{line}\n")
        place.chmod(0o755)
    (checkout / "my photos").mkdir()
    (checkout / "ops/examples").mkdir()
    said = [
        call(checkout, "ops/quickstart", *argv, LC_ALL=locale, LANGUAGE="")
        for argv in ((), (str(checkout / "my photos"),), (".", "mine.csv"))
    ]
    calls = (checkout / "calls").read_text().splitlines()
    files = ["tags.jsonl", "tags-my photos.jsonl", "mine.csv"]
    for (code, reply), argv, file in zip(said, calls, files, strict=True):
        assert code == 0, reply
        assert argv.endswith(f"--embedded --out {file}")
        assert sentence.format(file=file) in reply


@pytest.mark.integration
def test_a_second_call_does_nothing_and_says_what_to_type() -> None:
    before = (ROOT / ".venv").stat().st_mtime_ns
    code, reply = call(ROOT, "ops/setup", VIRTUAL_ENV="")
    assert code == 0
    assert "producer submit" in reply.splitlines()[-1]
    assert reply.splitlines()[1].endswith(".venv/bin/activate")
    assert (ROOT / ".venv").stat().st_mtime_ns == before
