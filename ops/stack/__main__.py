"""Build the images, run all of docker-compose.yml from a clean checkout, and take it down again.

    ops/containers [--no-build] [--keep]

With the commands that ops/docs/deployment.md gives to operators, and nothing set but .env. A table
shows the outcome of each step. Exit code 0: all was as it should be; 1: something was not; 3:
there is no engine.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ops.stack import checks, crash
from ops.stack.engine import EngineError, find
from ops.stack.project import Project, check_out

NO_ENGINE = 3


class Table:
    """What was seen: a line for each step, told when it is done."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; what it puts into the list is what was seen."""
        print(f"... {name}", file=sys.stderr, flush=True)
        seen: list[str] = []
        start = time.monotonic()
        try:
            yield seen
        except BaseException:
            seen.append("FAILED")
            raise
        finally:
            self.rows.append((name, "; ".join(seen), time.monotonic() - start))

    def show(self) -> None:
        """Print all of it."""
        wide = max(len(name) for name, _, _ in self.rows)
        for name, seen, took_s in self.rows:
            print(f"{took_s:6.0f} s  {name:<{wide}}  {seen}")


def main() -> int:
    """Run the whole, and return the exit code."""
    parser = argparse.ArgumentParser(prog="ops/containers", description=__doc__.split("\n")[0])
    parser.add_argument("--no-build", action="store_true", help="take the images of an earlier run")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        engine = find()
    except EngineError as e:
        print(f"skipped: {e}", file=sys.stderr)
        return NO_ENGINE
    place = Path(tempfile.mkdtemp(prefix="wanwu-containers-"))
    table = Table()
    project = None
    try:
        with table.step("a clean checkout, and .env") as seen:
            check_out(place)
            project = Project(engine, place)
            seen.append(f"{engine.version}; project {project.name}")
        _run(project, table, build=not wanted.no_build)
    except (EngineError, checks.WrongError) as e:
        print(f"\n{e}\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    else:
        return 0
    finally:
        _end(project, place, table, keep=wanted.keep)


def _run(project: Project, table: Table, *, build: bool) -> None:
    """All steps, in the order in which an operator would come to them."""
    if build:
        with table.step("docker compose build") as seen:
            checks.build(project)
            seen.extend(checks.sizes(project))
    with table.step("docker compose up -d --wait") as seen:
        project.up()
        seen.append(checks.healthy(project, "redis", "worker", "flower"))
    with table.step("run --rm producer submit: the examples") as seen:
        seen.append(checks.examples(project))
    with table.step("up -d --wait, the other profiles") as seen:
        seen.extend(checks.other_profiles(project))
    with table.step("HTTP: Flower, API, metrics") as seen:
        seen.extend(checks.answers(project))
    with table.step("users and roots of the file system") as seen:
        seen.append(checks.users(project))
    with table.step("three workers, one of them killed") as seen:
        seen.extend(crash.job_with_a_crash(project))
    with table.step("docker compose stop") as seen:
        seen.append(checks.stopped(project))


def _end(project: Project | None, place: Path, table: Table, *, keep: bool) -> None:
    """Take down what was put up, and show what was seen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if keep and project:
        print(f"kept: COMPOSE_PROJECT_NAME={project.name} in {place}", file=sys.stderr)
    else:
        with table.step("docker compose down") as seen:
            if project:
                try:
                    project.down()
                    seen.append(checks.nothing_left(project))
                except (EngineError, checks.WrongError) as e:
                    print(e, file=sys.stderr)
            shutil.rmtree(place)
    table.show()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
