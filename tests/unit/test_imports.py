"""Large libraries are loaded without searches for garbage, and programs go on with them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from conftest import ROOT

from worker.contract.imports import importing


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.enable()


def test_nothing_is_searched_in_the_block_and_all_of_it_is_kept() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_searches_go_on_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_who_has_switched_them_off_finds_them_off() -> None:
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled()


def test_numpy_starts_no_threads_of_its_own() -> None:
    program = (
        "from worker.blas import multiply_alone; multiply_alone()\n"
        "import os, numpy; rows = numpy.ones((900, 900), numpy.float32); rows @ rows\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux alone")
@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_of_torch_spin_briefly_unless_the_environment_says_otherwise(
    given: dict[str, str], found: str
) -> None:
    program = (
        "from worker.blas import wait_briefly; wait_briefly()\n"
        "import ctypes, importlib.util, pathlib\n"
        "torch = pathlib.Path(importlib.util.find_spec('torch').origin).parent\n"
        "ctypes.CDLL(str(next((torch / 'lib').glob('libgomp*'))))"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **given, "OMP_DISPLAY_ENV": "VERBOSE"},
    )
    assert f"GOMP_SPINCOUNT = '{found}'" in done.stderr
