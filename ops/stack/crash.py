"""A job of 2,000 images for three workers, one of which is killed in the middle of it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from ops.stack.checks import READY_S, SUBMIT_S, healthy, image_of, require, tagged
from ops.stack.project import Project, health_of

IMAGES: Final = 2000
WORKERS: Final = 3
# Somewhere in the middle of the job.
_DONE_AT_LEAST: Final = 200
_PAUSE_S: Final = 0.2


def job_with_a_crash(project: Project) -> list[str]:
    """Every image has one record, and the worker that was killed works again."""
    many = _many_images(project.place)
    project.set(IMAGES="./many")
    project.up("--scale", f"worker={WORKERS}")
    healthy(project, "worker")
    require(len(project.containers("worker")) == WORKERS, "there are not three workers")
    out = project.place / "ops" / "out" / "many.jsonl"
    options = ("run", "--rm", "producer", "submit", "/images", "--out", "/out/many.jsonl")
    log = project.place / "submit.log"
    submit = project.start(*options, log=log)
    try:
        done = _wait_for_lines(out, submit)
        victim = project.containers("worker")[0]["Id"]
        project.kill(victim, image_of(project, "producer"))
        require(submit.poll() is None, f"the job was done before a worker was killed ({done})")
        code = submit.wait(SUBMIT_S)
    finally:
        if submit.poll() is None:
            submit.terminate()
    require(code == 0, f"submit ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    images = tagged(out)
    require(len(images) == len(many), f"{len(images)} images have records, not {len(many)}")
    return [
        f"killed at {done:,} of {IMAGES:,}; {len(images):,} images have one record each",
        _back_again(project, victim),
    ]


def _many_images(place: Path) -> list[Path]:
    """Copy the examples until there are enough."""
    directory = place / "many"
    directory.mkdir()
    examples = sorted(one for one in (place / "ops" / "examples").iterdir() if one.suffix != ".md")
    made = []
    for number in range(IMAGES):
        source = examples[number % len(examples)]
        made.append(directory / f"{number:04}{source.suffix}")
        shutil.copyfile(source, made[-1])
    return made


def _wait_for_lines(out: Path, submit: subprocess.Popen[bytes]) -> int:
    """Return the number of records, when it is enough for the job to be in its middle."""
    end = time.monotonic() + SUBMIT_S
    while time.monotonic() < end and submit.poll() is None:
        lines = out.read_bytes().count(b"\n") if out.exists() else 0
        if lines >= _DONE_AT_LEAST:
            return lines
        time.sleep(_PAUSE_S)
    require(fact=False, options="the job did not come to its middle")
    return 0


def _back_again(project: Project, container: str) -> str:
    """The engine has started it again, and it is well."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        one: dict[str, Any] = project.engine.inspect(container)
        restarts = int(one["RestartCount"])
        if restarts and health_of(one) == "healthy":
            return f"the killed worker was started again ({restarts} time), and is healthy"
        time.sleep(_PAUSE_S)
    require(fact=False, options=f"the killed worker did not come back: {one['State']}")
    return ""
