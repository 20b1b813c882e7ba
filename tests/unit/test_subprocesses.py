"""worker.contract.local.subprocesses"""

from __future__ import annotations

import signal
import sys
import tempfile
import time

import pytest
from conftest import PATIENCE_S

from worker.contract.local.subprocesses import ManagedProcess

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(600)
"""


def python(code: str, *, grace_s: float = PATIENCE_S, **options: object) -> ManagedProcess:
    return ManagedProcess([sys.executable, "-c", code], grace_s=grace_s, **options)  # type: ignore[arg-type]


def test_a_child_is_ready_when_it_says_so() -> None:
    with python("import time; print('ready', flush=True); time.sleep(600)") as process:
        assert process.wait_until(lambda: process.last_line() == "ready", PATIENCE_S)
        assert process.is_running
        assert process.returncode is None


def test_a_child_that_ends_is_not_waited_for() -> None:
    with python("import sys; print('first'); sys.exit('it is broken')") as process:
        assert not process.wait_until(lambda: False, PATIENCE_S)
        assert not process.is_running
        assert process.returncode == 1
        assert process.last_line() == "it is broken"


def test_a_child_that_is_not_ready_in_time_still_runs() -> None:
    with python("import time; time.sleep(600)") as process:
        assert not process.wait_until(lambda: False, 0.05)
        assert process.is_running
        assert process.last_line("it said nothing") == "it said nothing"
    assert process.returncode == -signal.SIGTERM


def test_a_child_ends_when_asked_though_its_parent_ignores_the_signal() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # conftest undoes it
    with python("import time; time.sleep(600)") as process:
        assert process.is_running
    assert process.returncode == -signal.SIGTERM


def test_a_child_that_will_not_end_is_killed() -> None:
    with python(STUBBORN, grace_s=0.1) as process:
        assert process.wait_until(lambda: process.last_line() == "on", PATIENCE_S)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("in_a_file", [False, True])
def test_what_a_child_reads_and_writes_is_kept_apart_from_its_log(in_a_file: bool) -> None:
    code = "import sys; print('noise', file=sys.stderr); print(sys.stdin.read().upper(), end='')"
    with tempfile.TemporaryFile() as file:
        file.write(b"text")
        file.seek(0)
        stdin = file if in_a_file else b"text"
        with python(code, stdin=stdin, separate_output=True) as process:
            assert process.output(PATIENCE_S) == b"TEXT"
            assert process.log() == "noise\n"


def test_a_child_that_has_not_ended_in_time_has_no_output() -> None:
    with (
        python("import time; time.sleep(600)", separate_output=True) as process,
        pytest.raises(TimeoutError),
    ):
        process.output(0.05)


def test_lines_are_followed_as_they_come_and_disturb_nothing() -> None:
    code = "import sys\nfor n in range(3):\n    print('line', n, flush=True)\nprint('end', end='')"
    with python(code) as process:
        assert list(process.follow()) == ["line 0", "line 1", "line 2", "end"]
        assert process.log() == "line 0\nline 1\nline 2\nend"


def test_a_child_that_reads_nothing_and_ends_is_no_error() -> None:
    with python("", stdin=b"x" * 10_000) as process:
        deadline_s = time.monotonic() + PATIENCE_S
        while process.is_running and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert process.returncode == 0


def test_stopping_is_harmless_before_the_start_and_when_done_twice() -> None:
    process = python("")
    process.stop()
    process.stop()
    assert not process.is_running
    assert process.returncode is None
