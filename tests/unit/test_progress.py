"""producer.console.progress and what producer.console shows of records and jobs"""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from producer.console.durations import age
from producer.console.progress import Bar, Lines, progress
from producer.console.summary import Summary
from producer.console.tally import Tally
from producer.formats.terminal import human_line
from worker.contract.messages import Failure, Record, Tag, Timing
from worker.contract.printable import printable
from worker.contract.stores.jobs import Job


class FakeTime:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def record(path: str = "/图/猫.jpg", label: str = "猫", score: float = 0.93) -> Record:
    tags = (Tag(label, score), Tag("别的", 0.03))
    return Record(
        path=path,
        status="ok",
        tags=tags,
        error=None,
        timing=Timing(),
        batch_size=1,
        worker="w",
        device="cpu",
        model="m",
    )


def failure(path: str = "/图/坏.jpg") -> Record:
    error = Failure("empty_file", "read", "the file is empty")
    return Record(
        path=path,
        status="failed",
        tags=(),
        error=error,
        timing=Timing(),
        batch_size=None,
        worker="w",
        device="cpu",
        model="m",
    )


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=80)


def said(where: Console) -> str:
    assert isinstance(where.file, io.StringIO)
    return where.file.getvalue()


def test_a_tally_tells_how_many_how_fast_and_how_many_failed() -> None:
    time = FakeTime()
    tally = Tally(time)
    tally.add([record()] * 1999)
    tally.add([failure()])
    time.now_s += 12.5
    assert str(tally) == "2,000 images in 12.5 s, 160.0 img/s, 1 failed"


def test_a_tally_of_one_image_is_grammatical() -> None:
    time = FakeTime()
    tally = Tally(time)
    tally.add([record()])
    time.now_s += 2
    assert str(tally) == "1 image in 2.0 s, 0.5 img/s"


def test_lines_are_said_every_five_seconds_at_most() -> None:
    time, where = FakeTime(), console()
    tally = Tally(time)
    with Lines(where, tally, time) as lines:
        for _ in range(11):
            time.now_s += 1
            tally.add([record()] * 10)
            lines.update(200)
    assert said(where).splitlines() == [
        "50 of 200 images, 10.0 img/s, 0 failed, 15 s left",
        "100 of 200 images, 10.0 img/s, 0 failed, 10 s left",
    ]


def test_without_a_total_no_time_left_is_promised() -> None:
    time, where = FakeTime(), console()
    tally = Tally(time)
    lines = Lines(where, tally, time)
    time.now_s += 6
    lines.update(None)
    tally.add([record()] * 12)
    time.now_s += 6
    lines.update(None)
    assert said(where).splitlines() == [
        "0 images, 0.0 img/s, 0 failed",
        "12 images, 1.0 img/s, 0 failed",
    ]


def test_more_images_than_were_counted_take_no_negative_time() -> None:
    time, where = FakeTime(), console()
    tally = Tally(time)
    lines = Lines(where, tally, time)
    tally.add([record()] * 12)
    time.now_s += 6
    lines.update(10)
    assert "0 s left" in said(where)


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines() -> None:
    assert isinstance(progress(console(), Tally()), Lines)
    terminal, tally = console(terminal=True), Tally()
    bar = progress(terminal, tally)
    assert isinstance(bar, Bar)
    with bar:
        tally.add([record(), failure()])
        bar.update(4)
    shown = said(terminal)
    assert "2/4" in shown
    assert "1 failed" in shown
    assert "img/s" in shown


def test_the_summary_counts_first_tags_and_shows_the_commonest() -> None:
    summary, where = Summary(), console()
    for number in range(20):
        summary.add([record(label=f"标签{number}", score=0.5)] * (20 - number))
    summary.show(where)
    shown = said(where)
    assert "标签0" in shown
    assert "标签14" in shown
    assert "标签15" not in shown
    assert "5 more" in shown
    assert "0.50" in shown


def test_failures_are_listed_up_to_a_point_each_on_a_line() -> None:
    summary, where = Summary(), console()
    summary.add(failure(f"/{'长' * 60}/{number}\n.jpg") for number in range(25))
    summary.show(where)
    lines = said(where).splitlines()
    assert len(lines) == 21
    assert lines[0].endswith("0\\n.jpg: empty_file: the file is empty")
    assert lines[-1] == "and 5 more"


def test_a_summary_of_nothing_says_nothing() -> None:
    summary, where = Summary(), console()
    summary.show(where)
    assert said(where) == ""


def test_a_person_reads_a_line_an_image() -> None:
    assert human_line(record()) == "猫.jpg  猫 0.93, 别的 0.03?"
    assert human_line(failure()) == "坏.jpg  failed: the file is empty"


def test_names_that_no_terminal_can_show_are_escaped() -> None:
    assert printable("/a\nb\x1b[31m\udcff.jpg") == "/a\\nb\\x1b[31m\\udcff.jpg"
    assert printable("/图/猫 1.jpg") == "/图/猫 1.jpg"


def test_a_job_stands_where_its_state_and_its_counts_say() -> None:
    job = Job(id="j", created_at_s=0, state="submitted", images=2, done=1)
    assert job.status == "submitted"
    assert Job(id="j", created_at_s=0, state="submitted", images=2, done=2).status == "finished"
    assert Job(id="j", created_at_s=0, state="cancelled", images=2).status == "cancelled"


def test_an_age_has_a_sensible_unit() -> None:
    assert [age(s) for s in (-1, 5, 90, 7200)] == ["0 s", "5 s", "2 min", "2.0 h"]


def test_the_summary_counts_no_guesses_but_the_kind_behind_them() -> None:
    summary, where = Summary(), console()
    guess = record(label="狗", score=0.49)
    kind = msgspec.structs.replace(guess, tags=(*guess.tags, Tag("动物", 0.7)))
    summary.add([guess, guess, kind])
    summary.show(where)
    assert "狗" not in said(where)
    assert "动物" in said(where)
    assert "2 images have no certain tag: none scores 0.50 or more" in said(where)


def test_who_asks_for_less_certain_tags_has_them_counted() -> None:
    summary, where = Summary(0.2), console()
    summary.add([record(label="狗", score=0.3)])
    summary.show(where)
    assert "狗" in said(where)
    assert "certain" not in said(where)


def test_a_summary_tells_how_many_images_no_label_suits() -> None:
    for untagged, sentence in ((1, "1 image has no tag"), (2000, "2,000 images have no tag")):
        summary, where = Summary(), console()
        summary.add([msgspec.structs.replace(record(), tags=())] * untagged)
        summary.show(where)
        assert f"{sentence}: no label reached the threshold" in said(where)
