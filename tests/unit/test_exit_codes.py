"""An interruption ends a command, whatever the interpreter was at when it came."""

from __future__ import annotations

import signal as signals
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from conftest import PATIENCE_S, ROOT

from worker import torch_start
from worker.cli import main
from worker.contract.settings import Settings
from worker.contract.stops import INTERRUPTED, STOPS, end_as_usual, end_at_once
from worker.errors import DeviceError
from worker.export import on_first_use
from worker.service import app

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = """
import os, signal, time
import click
from producer.cli.exit_codes import exits_with_code

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0)

@click.command()
@exits_with_code
def command():
    try:
        {work}
        time.sleep(600)
    finally:
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0.05)
        print("cleaned up", flush=True)
    return 0

command()
"""


@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "work",
    ["os.kill(os.getpid(), signal.{})", "Held()", "exec('os.kill(os.getpid(), signal.{})')"],
    ids=["at any time", "in a destructor", "in code made at run time"],
)
def test_an_interruption_is_neither_lost_nor_disturbed(
    tmp_path: Path, signal: str, work: str
) -> None:
    (tmp_path / "command.py").write_text(COMMAND.format(signal=signal, work=work.format(signal)))
    done = subprocess.run(
        [sys.executable, "-m", "command"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned up\n", "")


# The program of an entry point, which a signal finds while it looks for a module.
LOADING = """
import os, signal, sys
from {program}.__main__ import main

class Signals:
    def find_spec(name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.{signal})

sys.meta_path.insert(0, Signals)
sys.argv = {argv}
main()
"""
SUBMIT = ("producer", "submit", "a.jpg", "--dry-run")
BENCH = ("worker", "bench", "--runs", "1", "--seconds", "1")


@pytest.mark.parametrize(
    ("argv", "module", "signal", "code"),
    [
        (SUBMIT, "click", "SIGINT", 130),
        (SUBMIT, "producer.cli.submit", "SIGINT", 130),
        (SUBMIT, "producer.cli.submit", "SIGTERM", 130),  # as later
        (SUBMIT, "producer.cli.run_submit", "SIGINT", 130),
        (("producer", "status"), "producer.cli.jobs", "SIGINT", 130),
        (BENCH, "click", "SIGINT", 130),
        (BENCH, "worker.blas", "SIGTERM", 143),
        (BENCH, "worker.bench.command", "SIGINT", 130),
        (BENCH, "worker.bench.command", "SIGTERM", 143),
        (("worker", "health"), "worker.blas", "SIGINT", 130),
    ],
)
def test_a_command_that_still_loads_ends_without_a_traceback(
    argv: tuple[str, ...], module: str, signal: str, code: int
) -> None:
    source = LOADING.format(program=argv[0], module=module, signal=signal, argv=list(argv))
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_worker_that_has_loaded_is_interrupted_as_any_program() -> None:
    before = [signals.getsignal(number) for number in STOPS]
    try:
        signals.signal(signals.SIGTERM, signals.SIG_IGN)
        end_at_once()
        assert signals.getsignal(signals.SIGTERM) is signals.SIG_IGN
        assert signals.getsignal(signals.SIGINT) is not signals.default_int_handler
        end_as_usual()
        assert signals.getsignal(signals.SIGINT) is signals.default_int_handler
        assert signals.getsignal(signals.SIGTERM) is signals.SIG_IGN
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signals.signal(number, handler)


def test_a_file_that_could_not_be_written_later_is_refused_at_once(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", "--json", str(tmp_path / "nowhere" / "a.json")])
    assert done.exit_code == 2
    assert "nowhere does not exist" in done.stderr.replace("\n", "")


def test_an_export_that_is_interrupted_ends_with_the_code_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(on_first_use, "export_to", interrupted)
    done = CliRunner().invoke(main, ["export", "--model", "somebody/something"])
    assert (done.exit_code, done.stdout, done.stderr) == (INTERRUPTED, "", "")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["start", "--max-batch", "many"], "'many' is neither a whole number nor auto"),
        (["start", "--max-batch", "9" * 20], "is not a whole number from 1 to 1024"),
        (["start", "--threads", "3000000000"], "is not a whole number from 1 to 1024"),
        (["start", "--model", ""], "no model is named: give --model an id or a directory"),
        (["start", "--allow", ""], "an empty name is no directory and no URL"),
        (["export", "--model", ""], "no model is named: give --model an id or a directory"),
        (
            ["export", "--accept", "abc"],
            "'--accept': 'abc' is not a number from 0.9 to less than 1",
        ),
        (["export", "--accept", "1"], "'1' is not a number from 0.9 to less than 1"),
        (["evaluate", ".", "--threshold", "nan"], "'nan' is not a number from 0 to 1"),
        (["bench", "--seconds", "0"], "'0' is not a number above 0"),
        (["bench", "--runs", "1.5"], "'1.5' is not a whole number from 1 up"),
        (["start", "--device", "gpu"], "device 'gpu' is none of auto, cpu, cuda and cuda:n"),
        (["start", "--model", "/no/where"], "there is no model at /no/where: give an artifact"),
        (["export", "--model", "/no/where"], "there is no model at /no/where: give the directory"),
    ],
)
def test_what_is_no_value_is_refused_in_a_sentence(argv: list[str], sentence: str) -> None:
    done = CliRunner().invoke(main, argv)
    assert done.exit_code == 2
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("options", "settings", "code", "sentence"),
    [
        ((), {"device": "gpu"}, 2, "WANWU_DEVICE: device 'gpu' is none of auto, cpu"),
        (("--device", "cpu"), {"precision": "fp16"}, 1, "an fp16 model runs on CUDA alone"),
        (("--device", "cuda", "--precision", "int8"), {}, 1, "an int8 model runs on the CPU alone"),
        (("--precision", "bf16"), {}, 1, "was exported in fp32, not bf16"),
        ((), {"model": "/no/where"}, 2, "there is no model at /no/where"),
    ],
)
def test_a_worker_that_could_not_run_is_refused_before_anything_is_loaded(
    options: tuple[str, ...],
    settings: dict[str, str],
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(torch_start, "load_libraries", loaded)
    for name, value in settings.items():
        monkeypatch.setenv(f"WANWU_{name.upper()}", value)
    done = CliRunner().invoke(main, ["start", *options])
    assert done.exit_code == code, done.output
    assert sentence in done.stderr


def test_a_device_that_is_not_here_is_refused_before_redis_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked(_settings: object) -> None:
        raise AssertionError

    monkeypatch.setattr(app, "check_early", asked)
    with pytest.raises(DeviceError, match="cuda:99 was asked for"):
        app.serve(Settings(device="cuda:99", decoder="threads"))


@pytest.mark.parametrize("settings", [{}, {"WANWU_MONITOR_PORT": "0"}])
def test_without_a_port_there_is_nobody_to_ask(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANWU_MONITOR_PORT", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, ["health"])
    assert done.exit_code == 1
    assert "WANWU_MONITOR_PORT is not set, or 0, which means no port" in done.stderr
