"""Files of records: none is replaced unasked, and each is written by one command at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from conftest import PATIENCE_S, ROOT, STEADY, Fleet, environment, run, until
from images import fill
from records import record

from producer.errors import InUseError
from producer.formats import existing_of, open_sink, records_of, target_of
from producer.formats.journal import replace
from producer.formats.output import Output
from producer.formats.output_lock import OutputLock
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.stores.jobs import JobStore

ENDINGS = (".jsonl", ".csv", ".parquet", ".html")
HOLD = """
import sys
from pathlib import Path
from producer.formats.output import Output
from producer.formats.output_lock import OutputLock
with OutputLock(Path(sys.argv[1])).held(print):
    print("held", flush=True)
    sys.stdin.read()
"""


def write(file: Path, count: int) -> None:
    with open_sink(target_of(file, None)) as sink:
        for number in range(count):
            sink.write(record(f"/{number}.jpg"))


def convert(file: Path, out: Path | str, *argv: str) -> subprocess.CompletedProcess[str]:
    return run("producer", "convert", str(file), "--out", str(out), *argv)


def quiet(argv: str) -> None:
    raise AssertionError(argv)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two records."""
    file = tmp_path / "few.jsonl"
    write(file, 2)
    return file


@contextmanager
def holder(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes the file."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        yield child
        child.stdin.close()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_records_is_replaced_only_if_that_is_asked_for(
    tmp_path: Path, few: Path, ending: str
) -> None:
    out = tmp_path / f"tags{ending}"
    write(out, 3)
    before = out.read_bytes()
    refused = convert(few, out)
    assert refused.returncode == 2
    assert f"{out} already holds 3 records" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert out.read_bytes() == before
    done = convert(few, out, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert len(list(records_of(out))) == 2
    assert sorted(tmp_path.iterdir()) == sorted([few, out])


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_file_of_records_is_refused_as_such(
    tmp_path: Path, few: Path, ending: str
) -> None:
    out = tmp_path / f"tags{ending}"
    for content in (b"precious", b"precious\nlines\n", b'{"a": 1}\n', b"\0" * 1000):
        out.write_bytes(content)
        refused = convert(few, out)
        assert refused.returncode == 2
        assert f"{out} holds something other than records" in refused.stderr
        assert out.read_bytes() == content


def test_a_large_file_without_lines_is_not_read_as_one(tmp_path: Path) -> None:
    out = tmp_path / "film.jsonl"
    with out.open("wb") as file:
        file.truncate(1 << 40)
    assert existing_of(target_of(out, None)).foreign


def test_records_of_a_run_that_ended_early_are_kept_too(tmp_path: Path, few: Path) -> None:
    out, journal = tmp_path / "tags.parquet", tmp_path / "tags.parquet.part"
    write(tmp_path / "lines.jsonl", 3)
    (tmp_path / "lines.jsonl").rename(journal)
    refused = convert(few, out)
    assert refused.returncode == 2
    assert f"{journal} already holds 3 records" in refused.stderr
    assert len(list(records_of(journal, "jsonl"))) == 3
    assert convert(few, out, "--overwrite").returncode == 0
    assert not journal.exists()


def test_files_that_hold_nothing_are_written(tmp_path: Path, few: Path) -> None:
    for out in (tmp_path / "empty.jsonl", Path("/dev/null")):
        out.touch()
        done = convert(few, out, "--format", "jsonl")
        assert done.returncode == 0, done.stderr
    write(tmp_path / "heads.csv", 0)
    assert existing_of(target_of(tmp_path / "heads.csv", None)).is_nothing
    assert not Path("/dev/null.job").exists()


def test_a_pipe_and_standard_output_are_written_to(tmp_path: Path, few: Path) -> None:
    pipe, log = tmp_path / "pipe.jsonl", tmp_path / "log"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
    assert convert(few, pipe).returncode == 0
    assert reader.communicate(timeout=PATIENCE_S)[0] == few.read_bytes()
    log.write_text("before\n")
    argv = f"-m producer.cli convert {few} --out /dev/stdout --format jsonl >> {log}"
    subprocess.run(f"{sys.executable} {argv}", shell=True, check=True, cwd=ROOT)
    assert log.read_bytes() == b"before\n" + few.read_bytes()


def a_link(file: Path) -> None:
    file.symlink_to(file.parent.parent / "made")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, a_link])
def test_what_lies_where_a_note_or_a_journal_would_is_named_and_left(
    tmp_path: Path, few: Path, make: Callable[[Path], object]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    make(here / "tags.jsonl.job")
    done = convert(few, here / "tags.jsonl")
    assert done.returncode == 0, done.stderr
    assert "nothing keeps other commands from writing" in done.stderr
    assert (here / "tags.jsonl").read_bytes() == few.read_bytes()
    make(here / "tags.html.part")
    refused = convert(few, here / "tags.html")
    assert refused.returncode == 1
    assert "tags.html.part: it is a" in refused.stderr
    assert not (here / "tags.html").exists()
    assert not (tmp_path / "made").exists()


def test_a_long_file_is_not_counted_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ending in (".jsonl", ".html"):
        write(tmp_path / f"tags{ending}", 30)
    monkeypatch.setattr("producer.formats.existing.MOST_BYTES", 2000)
    monkeypatch.setattr("producer.formats.existing.MOST_RECORDS", 10)
    lines = existing_of(target_of(tmp_path / "tags.jsonl", None))
    assert 0 < lines.records < 30
    assert lines.how_many == f"at least {lines.records}"
    assert existing_of(target_of(tmp_path / "tags.html", None)).how_many == "at least 10"


def test_a_url_that_holds_something_is_refused(tmp_path: Path, few: Path) -> None:
    out = tmp_path / "there" / "tags.jsonl"
    out.parent.mkdir()
    write(out, 3)
    url = out.as_uri()
    refused = convert(few, url)
    assert refused.returncode == 2
    assert f"{url} already holds {out.stat().st_size:,} bytes" in refused.stderr
    assert len(list(records_of(out))) == 3
    assert convert(few, url, "--overwrite").returncode == 0
    assert len(list(records_of(out))) == 2


def test_what_comes_from_no_record_leaves_the_old_file(tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.jsonl", tmp_path / "tags.jsonl"
    bad.write_text("no record\n")
    write(out, 3)
    done = convert(bad, out, "--overwrite")
    assert done.returncode == 2
    assert "this is not a record" in done.stderr
    assert len(list(records_of(out))) == 3


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["submit", "{images}", "--overwrite"], "give its --out"),
        (["submit", "{images}", "--overwrite", "--resume", "--out", "x.jsonl"], "give one of them"),
        (["convert", "{file}", "--overwrite"], "give its --out"),
        (["results", "j", "--overwrite"], "give its --out"),
    ],
)
def test_overwrite_is_for_a_file(tmp_path: Path, few: Path, argv: list[str], reason: str) -> None:
    fill(tmp_path / "images", 1)
    places = {"images": tmp_path / "images", "file": few}
    done = run("producer", *(word.format(**places) for word in argv), cwd=tmp_path)
    assert done.returncode == 2
    assert reason in done.stderr


def test_two_commands_do_not_write_one_file(tmp_path: Path, few: Path) -> None:
    out = tmp_path / "tags.jsonl"
    with holder(out) as first:
        second = convert(few, out)
        assert second.returncode == 1
        assert f"{out} is being written by another command (process {first.pid})" in second.stderr
        # By another name it is the same file.
        link = tmp_path / "link.jsonl"
        link.symlink_to(out)
        assert convert(few, link).returncode == 1
    assert convert(few, out).returncode == 0
    assert sorted(tmp_path.iterdir()) == sorted([few, link, out])


def test_two_names_of_one_file_are_locked_as_one(tmp_path: Path, few: Path) -> None:
    out, twin = tmp_path / "tags.jsonl", tmp_path / "twin.jsonl"
    out.touch()
    twin.hardlink_to(out)
    with holder(out) as first:
        second = convert(few, twin)
        assert second.returncode == 1
        assert f"{twin} is being written by another command (process {first.pid})" in second.stderr
    assert convert(few, twin).returncode == 0
    assert sorted(tmp_path.iterdir()) == sorted([few, out, twin])


def test_a_command_that_is_killed_leaves_no_lock(tmp_path: Path, few: Path) -> None:
    out = tmp_path / "tags.jsonl"
    with holder(out) as first:
        first.kill()
        first.wait()
        assert convert(few, out).returncode == 0
    assert sorted(tmp_path.iterdir()) == sorted([few, out])


def test_a_file_that_is_put_in_its_place_is_locked_as_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "tags.jsonl"
    with OutputLock(out).held(quiet):
        write(out, 1)
        replace(out, Path.touch)
        # At the end of a round of `watch` the job is forgotten, and the lock is not.
        OutputLock(out).begin("j")
        OutputLock(out).end()
        with pytest.raises(InUseError, match=f"process {os.getpid()}"), OutputLock(out).held(quiet):
            pass
    with OutputLock(out).held(quiet):
        pass


def test_an_output_that_lies_elsewhere_is_locked_for_this_machine(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/tags.jsonl"
    with Output.at(url, None).held(quiet):
        with pytest.raises(InUseError, match=re.escape(url)), Output.at(url, None).held(quiet):
            pass
        with Output.at(f"{url}.csv", None).held(quiet):
            pass
    with Output.at(url, None).held(quiet):
        pass


def test_a_job_that_did_not_end_stays_noted(tmp_path: Path) -> None:
    note = OutputLock(tmp_path / "tags.jsonl")
    with note.held(quiet):
        note.begin("some-job")
    assert note.job == "some-job"
    with note.held(quiet):
        note.end()
    assert note.job == ""
    assert not note.path.exists()


def test_without_locks_it_goes_on_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with OutputLock(tmp_path / "tags.jsonl").held(said.append):
        pass
    (line,) = said
    assert line.startswith("note: nothing keeps other commands from")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_a_submit_replaces_a_file_only_when_it_has_records(
    server: EmbeddedRedis,
    client: redis.Redis,
    fleet: Fleet,
    tmp_path: Path,
) -> None:
    photos, out = str(tmp_path / "photos"), tmp_path / "tags.jsonl"
    fill(tmp_path / "photos", 40)
    write(out, 7)
    before = out.read_bytes()
    argv = ("submit", photos, "--out", str(out))
    tried = run("producer", *argv, "--dry-run", broker_url=server.url)
    assert tried.returncode == 0
    assert f"note: {out} already holds 7 records: continue with --resume" in tried.stderr
    nobody = run("producer", *argv, "--overwrite", broker_url=server.url)
    assert nobody.returncode == 1
    assert "no worker is online" in nobody.stderr
    assert out.read_bytes() == before
    fleet.start(server.url, program=STEADY)
    refused = run("producer", *argv, broker_url=server.url)
    assert refused.returncode == 2
    assert f"{out} already holds 7 records: continue with --resume" in refused.stderr
    assert client.keys("wanwu:job:*") == []
    done = run("producer", *argv, "--overwrite", broker_url=server.url)
    assert done.returncode == 0, done.stderr
    assert len(list(records_of(out))) == 40
    job = JobStore(client, 3600).list()[0].id
    again = run("producer", "results", job, "--out", str(out), broker_url=server.url)
    assert again.returncode == 2
    assert "choose another --out, or replace them with --overwrite" in again.stderr
    JobStore(client, 3600).drop_results(job, range(40))
    once_more = ("results", job, "--out", str(out), "--overwrite")
    gone = run("producer", *once_more, broker_url=server.url)
    assert gone.returncode == 1
    assert f"job {job} has no results to write: {out} is unchanged" in gone.stderr
    assert (
        "they were dropped, or have expired"
        in run("producer", "results", job, broker_url=server.url).stderr
    )
    assert len(list(records_of(out))) == 40
    new = str(tmp_path / "new.jsonl")
    gone = run("producer", *once_more[:3], new, "--overwrite", broker_url=server.url)
    assert gone.stderr.strip() == f"error: job {job} has no results to write"
    interrupt_before_any_result(server.url, fill(tmp_path / "one", 1)[0], out)
    assert len(list(records_of(out))) == 40


def interrupt_before_any_result(url: str, photo: Path, out: Path) -> None:
    """Begin a job whose only image waits for others to travel with, and interrupt it."""
    argv = ["submit", "-", "--out", str(out), "--overwrite"]
    with subprocess.Popen(
        [sys.executable, "-m", "producer.cli", *argv],
        cwd=ROOT,
        env=environment(broker_url=url),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin
        assert child.stderr
        child.stdin.write(f"{photo}\n")
        child.stdin.flush()
        note = OutputLock(out)
        until(lambda: bool(note.job))
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 130
        said = child.stderr.read()
    assert f"interrupted before any result came; {out} is unchanged" in said
    assert "with --resume in place of --overwrite" in said
