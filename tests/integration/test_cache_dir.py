"""worker.artifact.cache_dir

A user without a home, or whose home nobody can write to, can work too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment
from images import fill

from worker.artifact.cache_dir import cache_directory, provide_home
from worker.errors import NoCacheError

# As `docker run --user 12345`, but able to read where the tests lie.
STRANGER = (
    *("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
strangers = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="only root can become a user that is unknown, by setpriv",
)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def test_models_are_kept_in_the_users_cache(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "wanwu-tagger"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_directory() == tmp_path / "x" / "wanwu-tagger"
    provide_home()
    assert "HF_HOME" not in os.environ
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("home", ["/proc/nowhere", "/proc"])
def test_where_no_home_can_be_written_to_they_are_kept_with_temporary_files(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: not str(path).startswith("/proc"))
    monkeypatch.setenv("HOME", home)
    private = temporary / f"wanwu-tagger-{os.getuid()}"
    assert cache_directory() == private
    assert private.stat().st_mode & 0o777 == 0o700
    provide_home()
    assert os.environ.pop("HF_HOME") == str(private / "huggingface")


def test_what_others_may_write_to_is_not_trusted(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    private = temporary / f"wanwu-tagger-{os.getuid()}"
    private.mkdir()
    private.chmod(0o777)
    with pytest.raises(NoCacheError, match="set XDG_CACHE_HOME"):
        cache_directory()
    private.rmdir()
    private.symlink_to("/tmp")
    with pytest.raises(NoCacheError):
        cache_directory()


@strangers
@pytest.mark.integration
@pytest.mark.parametrize("home", [None, "/", "/proc/nowhere"])
def test_a_user_whom_the_system_does_not_know_tags_images(tmp_path: Path, home: str | None) -> None:
    fill(tmp_path / "in", 2)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 12345, 12345)
    variables = environment() | {"PYTHONPATH": str(ROOT), "TMPDIR": str(place)}
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"):
        variables.pop(name, None)
    if home:
        variables["HOME"] = home
    argv = ["submit", str(tmp_path / "in"), "--embedded", "--out", str(place / "tags.csv")]
    done = subprocess.run(
        [*STRANGER, sys.executable, "-m", "producer.cli", *argv],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((place / "tags.csv").read_text().splitlines()) == 3
    model = [*argv[:3], "--model", "~nobody/none"]
    gone = subprocess.run(
        [*STRANGER, sys.executable, "-m", "producer.cli", *model],
        cwd=place,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert gone.returncode == 1
    assert "Traceback" not in gone.stderr
    assert not (place / "~").exists()
