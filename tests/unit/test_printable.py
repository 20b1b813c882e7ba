"""worker.contract.printable, and that whatever a person is shown has passed through it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
import structlog
from click.testing import CliRunner
from conftest import ROOT, environment
from records import record
from tornado.template import DictLoader

from producer.backend.workers import WorkerInfo
from producer.cli.exit_codes import echo, exits_with_code
from producer.console.printable_console import PrintableConsole
from producer.console.summary import Summary
from producer.errors import ServerError, UsageError
from producer.formats import open_sink, target_of
from producer.formats.terminal import human_line
from producer.monitoring import status_tables as tables
from worker.contract.commands import TranslatedGroup
from worker.contract.messages import Failure, Tag
from worker.contract.printable import printable, printable_json, printable_lines
from worker.contract.stores.dead_letters import DeadLetter
from worker.contract.stores.jobs import Job
from worker.monitoring import logs

# A title, a colour by C1, a carriage return, a turn of direction, nothing to see, a line that is
# none, half a character, and what no terminal knows.
HOSTILE = (
    "猫\x1b]0;pwned\x07\x9b31m\r\x7f\u202egpj\u2066\u200b\ufeff\u2028\x85\x00\udcff\ud800\U000e0041"
)
ESCAPED = (
    r"猫\x1b]0;pwned\x07\x9b31m\r\x7f\u202egpj\u2066\u200b"
    r"\ufeff\u2028\x85\x00\udcff\ud800\U000e0041"
)
ACTS = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0041]"
)
FAILED = record(
    HOSTILE, status="failed", tags=(), error=Failure(HOSTILE, "read", f"500 {HOSTILE}\nsecond")
)
TAGGED = record(HOSTILE, tags=(Tag(HOSTILE, 0.5, parent=HOSTILE),), worker=HOSTILE, model=HOSTILE)
JOB = Job(id=HOSTILE, created_at_s=0, state=HOSTILE, images=2, done=1, failed=1, codes={HOSTILE: 1})
JOB = msgspec.structs.replace(JOB, about=HOSTILE)
WORKER = WorkerInfo(name=HOSTILE, model=HOSTILE, device=HOSTILE, precision=HOSTILE)
LETTER = DeadLetter(id=HOSTILE, code=HOSTILE, reason=HOSTILE, at_s=0, raw=HOSTILE)


def test_what_acts_or_hides_is_escaped_and_all_else_stays() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable(ESCAPED) == ESCAPED
    assert printable("a\nb\tc") == r"a\nb\tc"
    assert printable_lines(f"a\nb\tc{HOSTILE}") == f"a\nb\tc{ESCAPED}"
    for plain in ("", "图/猫 1.jpg", "全角\u3000空格", "é\u0301", "🐈", "\\x1b"):
        assert printable(plain) == plain


def test_json_on_a_terminal_is_the_same_json() -> None:
    text = json.dumps({HOSTILE: [HOSTILE]}, ensure_ascii=False)
    shown = printable_json(text)
    assert not ACTS.search(shown)
    assert json.loads(shown) == json.loads(text)


def shown_on_console() -> str:
    console = PrintableConsole(
        file=io.StringIO(), force_terminal=True, width=200, color_system=None
    )
    summary = Summary()
    summary.add([TAGGED, FAILED])
    summary.show(console)
    console.print(human_line(TAGGED), human_line(FAILED))
    for width in (60, 200):
        console.print(tables.jobs_table([JOB], {HOSTILE: 1.0}, width))
        console.print(tables.workers_table([WORKER], width))
        console.print(tables.dead_table([LETTER], width))
    console.print(tables.job_details(JOB))
    # What nobody thought of is escaped all the same.
    console.print(HOSTILE.replace("[", ""), markup=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_and_lines_hold_nothing_that_acts_on_a_terminal() -> None:
    shown = shown_on_console()
    assert not ACTS.search(shown), ACTS.findall(shown)
    assert ESCAPED in shown


def test_what_a_command_says_and_how_it_ends_is_escaped(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    @click.group(cls=TranslatedGroup)
    def main() -> None:
        pass

    def verb(error: Exception) -> click.Command:
        @exits_with_code
        def run() -> int:
            echo(HOSTILE)
            raise error

        return click.Command("verb", callback=run)

    for error in (ServerError(HOSTILE), UsageError(HOSTILE), OSError(5, HOSTILE, HOSTILE)):
        main.add_command(verb(error))
        done = CliRunner().invoke(main, ["verb"])
        assert done.exit_code in {1, 2}
        assert not ACTS.search(done.output), done.output
        assert done.output.count(r"\x1b]0;pwned\x07") >= 2
    done = CliRunner().invoke(main, [HOSTILE[:20]])
    assert not ACTS.search(done.output)


def test_a_traceback_of_what_nobody_foresaw_is_escaped() -> None:
    code = f"""
from worker.contract.commands import TranslatedGroup
import click, logging
def fall():
    logging.getLogger("a library").warning({HOSTILE[:20]!r})
    raise RuntimeError({HOSTILE[:20]!r})
TranslatedGroup(commands={{"verb": click.Command("verb", callback=fall)}}).main(["verb"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.count(r"\x1b]0;pwned\x07") >= 2
    assert not ACTS.search(done.stderr)


def test_the_log_holds_nothing_that_acts_and_no_line_of_a_stranger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    level = root.level
    try:
        logs.configure("info")
        structlog.get_logger().warning("an.event", reason=f"a\n2026 [error] forged {HOSTILE}")
        error = OSError("a\n2026 [error] forged", HOSTILE)
        structlog.get_logger().error(f"other {HOSTILE}", exc_info=error)
        logging.getLogger("celery").warning("they say %s", f"\n2026 [error] forged {HOSTILE}")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    text = stream.getvalue()
    assert not ACTS.search(text), text
    assert text.count("pwned") == 4
    assert not [line for line in text.splitlines() if line.startswith("2026 [error] forged")]


def test_csv_is_escaped_on_a_terminal_and_exact_elsewhere(tmp_path: Path) -> None:
    lines = tmp_path / "tags.jsonl"
    path = "/\x1b]0;pwned\x07\u202e.jpg"
    with open_sink(target_of(lines, None)) as sink:
        sink.write(record(path))
    argv = [sys.executable, "-m", "producer.cli", "convert", str(lines), "--format", "csv"]
    exact = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, check=True)
    assert path.encode() in exact.stdout
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", 0) as shown:
        subprocess.run(argv, cwd=ROOT, env=environment(), stdout=theirs, stderr=theirs, check=True)
        os.close(theirs)
        text = shown.read(65536).decode()
    assert printable(path) in text
    assert not ACTS.search(text.replace("\r\n", "\n"))


def test_pages_of_flower_show_a_name_that_hides_or_marks_up(tmp_path: Path) -> None:
    pages = ROOT / "producer/monitoring/flower"
    loader = DictLoader({file.name: file.read_text() for file in pages.glob("*.html")})
    tagger: dict[str, Any] = {"model": f"<b>{HOSTILE[:30]}"}
    page = loader.load("worker_panel.html").generate(worker={"stats": {"tagger": tagger}}).decode()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert r"\x1b]0;pwned\x07" in page
    assert not ACTS.search(page)


def test_a_page_of_records_has_the_same_rule() -> None:
    page = (ROOT / "producer/formats/page.html").read_text(encoding="utf-8")
    assert r"/[\p{C}\p{Zl}\p{Zp}]/gu" in page
    for shown in re.findall(r"textContent: (.*?) \}", page):
        assert not re.search(r"\b(one|tag)\.(name|path|label|error)", shown) or "plain(" in shown
