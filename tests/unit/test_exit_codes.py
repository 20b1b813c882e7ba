"""An interruption ends a command, whatever the interpreter was at when it came."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import PATIENCE_S, ROOT

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
