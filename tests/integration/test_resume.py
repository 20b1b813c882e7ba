"""producer.jobs.resume: what is done, and what an output file tells of it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from records import LABELS, MODEL, failed, record

from producer.errors import RecordsError
from producer.formats import open_sink, records_of, target_of
from producer.jobs.options import TagSource
from producer.jobs.resume import ResumeState, resume_state_of
from producer.sources.scan import path_of
from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.messages import ChunkResult, Failure, ImageResult, Record, Stamp
from worker.contract.stores.jobs import JobStore

SOURCE = TagSource(MODEL, LABELS)
FORMS = [".jsonl", ".csv", ".parquet", ".html"]


def stamp(path: Path) -> Stamp:
    return Stamp(path.stat().st_size, path.stat().st_mtime)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{number}.jpg" for number in range(4)]
    for number, path in enumerate(found):
        path.write_bytes(b"x" * (number + 1))
    return found


def done(path: Path, **fields: object) -> Record:
    return record(str(path), **({"labels": LABELS, "file": stamp(path)} | fields))


def write(file: Path, *records: Record, appends: bool = False) -> None:
    with open_sink(target_of(file, None), appends=appends) as sink:
        for each in records:
            sink.write(each)


def resume_state(file: Path, *, retries_failed: bool = False) -> ResumeState:
    found = resume_state_of(target_of(file, None), retries_failed=retries_failed)
    found.read()
    return found


def pending(of: ResumeState, photos: list[Path], source: TagSource = SOURCE) -> list[int]:
    left = of.pending(map(str, photos), source)
    return [photos.index(Path(path_of(image))) for image in left]


@pytest.mark.parametrize("ending", FORMS)
def test_what_has_a_record_is_done(tmp_path: Path, photos: list[Path], ending: str) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, done(photos[0]), done(photos[2]))
    assert resume_state(file).images == 2
    assert pending(resume_state(file), photos) == [1, 3]


@pytest.mark.parametrize("ending", FORMS)
def test_an_image_whose_name_is_no_utf8_is_done_too(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file, odd = tmp_path / f"tags{ending}", tmp_path / os.fsdecode(b"caf\xe9.jpg")
    photos[0].rename(odd)
    write(file, done(odd))
    assert pending(resume_state(file), [odd, *photos[1:]]) == [1, 2, 3]


def test_a_file_that_has_changed_is_not_done(tmp_path: Path, photos: list[Path]) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, *map(done, photos))
    assert pending(resume_state(file), photos) == []
    os.utime(photos[1], (1, 1))
    photos[2].write_bytes(b"another")
    assert pending(resume_state(file), photos) == [1, 2]


def test_other_labels_or_another_model_are_other_work(tmp_path: Path, photos: list[Path]) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, *map(done, photos))
    assert pending(resume_state(file), photos, TagSource(MODEL, None)) == [0, 1, 2, 3]
    assert pending(resume_state(file), photos, TagSource("new@1", LABELS)) == [0, 1, 2, 3]


def test_what_failed_is_done_unless_it_is_to_be_tried_again(
    tmp_path: Path, photos: list[Path]
) -> None:
    file = tmp_path / "tags.jsonl"
    bad, gone = failed(str(photos[0]), file=stamp(photos[0])), failed(str(photos[1]))
    write(file, bad, gone, done(photos[2]), done(photos[3]))
    assert pending(resume_state(file), photos) == []
    assert pending(resume_state(file, retries_failed=True), photos) == [0, 1]
    photos[0].write_bytes(b"mended")
    assert pending(resume_state(file), photos) == [0]


def test_records_of_an_earlier_version_and_images_out_of_sight_count_by_path(
    tmp_path: Path, photos: list[Path]
) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, record(str(photos[0])), done(photos[1]))
    photos[1].unlink()
    assert pending(resume_state(file), photos) == [2, 3]


@pytest.mark.parametrize("ending", FORMS)
def test_images_that_are_tagged_again_have_one_record_in_the_end(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, *map(done, photos))
    os.utime(photos[1], (1, 1))
    again = resume_state(file)
    assert pending(again, photos) == [1]
    write(file, done(photos[1], worker="new"), appends=True)
    again.end()
    assert [(each.path, each.worker) for each in records_of(file)] == [
        (str(photos[0]), "w@h"),
        (str(photos[2]), "w@h"),
        (str(photos[3]), "w@h"),
        (str(photos[1]), "new"),
    ]
    assert pending(resume_state(file), photos) == []


@pytest.mark.parametrize("ending", FORMS)
def test_a_run_that_was_killed_leaves_no_second_record_in_the_end(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, *map(done, photos))
    os.utime(photos[1], (1, 1))
    write(file, done(photos[1], worker="killed before the end"), appends=True)
    again = resume_state(file)
    assert pending(again, photos) == []
    again.end()
    found = [(each.path, each.worker) for each in records_of(file)]
    assert len(found) == len(photos)
    assert found[-1] == (str(photos[1]), "killed before the end")


@pytest.mark.parametrize("ending", FORMS)
def test_half_a_record_at_the_end_is_cut_off(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, *map(done, photos[:2]))
    torn = file if ending in {".jsonl", ".csv"} else file.with_name(f"{file.name}.part")
    with torn.open("ab") as stream:
        stream.write(b'{"path": "/x')
    assert pending(resume_state(file), photos) == [2, 3]
    write(file, done(photos[2]), appends=True)
    assert len(list(records_of(file))) == 3


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_whole_record_without_the_end_of_its_line_is_kept(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file = tmp_path / f"tags{ending}"
    for count in (1, 2):
        write(file, *map(done, photos[:count]))
        file.write_bytes(file.read_bytes().rstrip())
        assert pending(resume_state(file), photos) == list(range(count, 4))
        write(file, done(photos[2]), appends=True)
        assert len(list(records_of(file))) == count + 1


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    "body",
    [
        b"notes of my own",
        b"one line\nand half of another",
        b'{"path": "not of ours"}',
        b'{"path": "not of ours"}\n{"path',
        b'a,"b\nc,d\r\n',
        b"\xff\xfe\x00\n\x00",
    ],
)
def test_what_is_no_file_of_records_is_refused_and_stays(
    tmp_path: Path, ending: str, body: bytes
) -> None:
    file = tmp_path / f"tags{ending}"
    theirs = file.with_name(f"{file.name}.part") if ending == ".parquet" else file
    theirs.write_bytes(body)
    with pytest.raises(RecordsError):
        resume_state(file)
    assert theirs.read_bytes() == body


def test_a_stray_quote_in_a_table_costs_no_rows(tmp_path: Path, photos: list[Path]) -> None:
    file = tmp_path / "tags.csv"
    write(file, *map(done, photos))
    rows = file.read_bytes().splitlines(keepends=True)
    body = b"".join([*rows[:2], b'"', *rows[2:]])
    file.write_bytes(body)
    with pytest.raises(RecordsError):
        resume_state(file)
    assert file.read_bytes() == body


def test_it_takes_over_what_the_job_before_it_got(
    tmp_path: Path, photos: list[Path], client: redis.Redis
) -> None:
    file, jobs = tmp_path / "tags.jsonl", JobStore(client, 60)
    write(file, done(photos[0]))
    job = jobs.create().id
    images = [ImageResult(path=str(path), stamp=stamp(path)) for path in photos[:2]]
    dropped = ImageResult(path=str(photos[2]), error=Failure("cancelled", "job", "dropped"))
    for seq, (found, labels) in enumerate([(images, LABELS), ([dropped], LABELS), (images, None)]):
        result = ChunkResult(
            job=job,
            seq=seq,
            worker="w",
            device="cpu",
            model=MODEL,
            labels=labels,
            images=tuple(found),
        )
        client.set(
            KEYS.result(f"{job}-{seq}"),
            json.dumps({"status": "SUCCESS", "result": result.to_wire()}),
        )
    jobs.set_sent(job, images=5, chunks=3)
    again = resume_state(file)
    again.begin(job)
    (taken,) = again.take_over(jobs, SOURCE)
    write(file, *taken, appends=True)
    assert [one.path for one in taken] == [str(photos[1])]
    assert pending(again, photos) == [2, 3]
    assert jobs.is_cancelled(job)
    again.end()
    assert not file.with_name("tags.jsonl.job").read_text()


def test_images_that_no_worker_has_answered_for_are_sent_again(
    tmp_path: Path, photos: list[Path], client: redis.Redis
) -> None:
    file, jobs = tmp_path / "tags.jsonl", JobStore(client, 60)
    job = jobs.create().id
    lost = {"status": "FAILURE", "result": None, "paths": [str(photos[0])]}
    client.set(KEYS.result(f"{job}-0"), json.dumps(lost))
    jobs.set_sent(job, images=1, chunks=1)
    again = resume_state(file)
    again.begin(job)
    assert list(again.take_over(jobs, SOURCE._replace(labels=None))) == []
    assert pending(again, photos) == [0, 1, 2, 3]


def test_sidecars_are_a_state_of_their_own(tmp_path: Path, photos: list[Path]) -> None:
    target = target_of(None, "xmp")
    with open_sink(target) as sink:
        for path in photos[:3]:
            sink.write(done(path))
    os.utime(photos[1], (1, 1))
    (tmp_path / "2.jpg.xmp").write_text("broken")
    assert pending(resume_state_of(target), photos) == [1, 2, 3]
    assert pending(resume_state_of(target), photos, TagSource(MODEL, None)) == [0, 1, 2, 3]


def test_what_failed_before_and_is_passed_over_is_counted(
    tmp_path: Path, photos: list[Path]
) -> None:
    file = tmp_path / "tags.jsonl"
    write(file, failed(str(photos[0]), file=stamp(photos[0])), done(photos[1]))
    one = resume_state(file)
    assert 0 not in pending(one, photos)
    assert one.failed_before == 1


def test_images_of_a_cancelled_job_are_not_done(tmp_path: Path, photos: list[Path]) -> None:
    file = tmp_path / "tags.jsonl"
    cancelled = Failure("cancelled", "job", "job x was cancelled")
    write(file, Record.untouched(str(photos[0]), cancelled))
    one = resume_state(file)
    assert 0 in pending(one, photos)
    assert (one.images, one.failed_before) == (0, 0)


@pytest.mark.parametrize("size", [1, 5, 30])
@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_half_of_a_first_record_counts_as_nothing(
    tmp_path: Path, photos: list[Path], ending: str, size: int
) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, done(photos[0]))
    file.write_bytes(file.read_bytes()[:size])
    resume_state_of(target_of(file, None)).begin("some-job")
    assert pending(resume_state(file), photos) == [0, 1, 2, 3]
    assert not file.read_bytes()


def test_half_a_line_of_somebody_else_stays(tmp_path: Path) -> None:
    file = tmp_path / "tags.jsonl"
    file.write_text('{"path": "x", "mine')
    with pytest.raises(RecordsError):
        resume_state(file)
    resume_state_of(target_of(file, None)).begin("some-job")
    file.write_text("my notes")
    with pytest.raises(RecordsError):
        resume_state(file)
    assert file.read_text() == "my notes"


@pytest.mark.parametrize("ending", [".parquet", ".html"])
def test_what_was_to_be_overwritten_does_not_come_back(
    tmp_path: Path, photos: list[Path], ending: str
) -> None:
    file = tmp_path / f"tags{ending}"
    write(file, *map(done, photos[:3]))
    resume_state_of(target_of(file, None)).begin("some-job", replaces=True)
    assert pending(resume_state(file), photos) == [3]  # no record has come: the old ones stand
    with suppress(OSError), open_sink(target_of(file, None)) as sink:
        sink.write(done(photos[0]))
        raise OSError
    assert pending(resume_state(file), photos) == [1, 2, 3]
    write(file, *map(done, photos[1:]), appends=True)
    assert sorted(one.path for one in records_of(file)) == sorted(map(str, photos))
