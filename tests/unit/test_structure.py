"""The import contracts of pyproject.toml catch what they are there for, and no ring is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest
from conftest import PATIENCE_S, ROOT

LINT = Path(sys.executable).with_name("lint-imports")
PACKAGES = ("producer", "worker")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources to break."""
    copy = tmp_path_factory.mktemp("tree")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            copy / package,
            ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.safetensors"),
        )
    return copy


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINT, "--no-cache"],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def broken(tree: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The copy with one line more in one file, which may be a new one."""
    place, line = request.param
    file = tree / place
    before = file.read_text(encoding="utf-8") if file.exists() else None
    file.write_text(f"{before or ''}\n{line}\n", encoding="utf-8")
    yield tree
    if before is None:
        file.unlink()
    else:
        file.write_text(before, encoding="utf-8")


def test_the_tree_as_it_is_keeps_all_contracts(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("broken", "contract"),
    [
        pytest.param(
            ("producer/backend/workers.py", "from worker.errors import TaggerError"),
            "The producer knows the worker by its contract alone",
            id="the producer imports the worker's errors",
        ),
        pytest.param(
            ("producer/formats/jsonl.py", "from producer.cli import main"),
            "producer, top down",
            id="formats import the command line",
        ),
        pytest.param(
            ("worker/images/read.py", "from worker.engines.base import Engine"),
            "worker, top down",
            id="images import engines",
        ),
        pytest.param(
            ("worker/newthing.py", '"""A module that no layer names."""'),
            "worker, top down",
            id="a stray new module of the worker",
        ),
    ],
    indirect=["broken"],
)
def test_a_violation_breaks_the_contract_that_is_there_for_it(broken: Path, contract: str) -> None:
    done = lint(broken)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout


def test_a_stray_module_that_the_producer_imports_is_caught_as_that_too(tree: Path) -> None:
    stray, importer = tree / "worker" / "stray.py", tree / "producer" / "stray_user.py"
    stray.write_text('"""Nothing."""\n')
    importer.write_text("from worker import stray\n")
    try:
        done = lint(tree)
    finally:
        stray.unlink()
        importer.unlink()
    assert "The producer knows the worker by its contract alone BROKEN" in done.stdout


def rings(graph: grimp.ImportGraph, parent: str) -> list[tuple[str, str]]:
    """Return pairs of folders of `parent` that reach each other."""
    folders = sorted(child for child in graph.find_children(parent) if graph.find_children(child))
    return [
        (one, other)
        for place, one in enumerate(folders)
        for other in folders[place + 1 :]
        if graph.find_shortest_chain(one, other, as_packages=True)
        and graph.find_shortest_chain(other, one, as_packages=True)
    ]


@pytest.mark.parametrize("parent", [*PACKAGES, "worker.contract", "producer.monitoring"])
def test_no_folders_import_each_other_in_a_ring(parent: str) -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert not rings(graph, parent)


def test_a_ring_is_seen() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    graph.add_import(importer="worker.images.read", imported="worker.service.task")
    assert ("worker.images", "worker.service") in [tuple(sorted(r)) for r in rings(graph, "worker")]
