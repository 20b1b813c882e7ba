"""torch is loaded with the help of a thread, and without what most workers do not need."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def run(program: str) -> str:
    """Return what a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_kernels_for_meta_tensors_are_loaded_when_they_are_needed() -> None:
    program = """
from worker.torch_start import load_libraries, postpone_meta_kernels, provide_meta_kernels
postpone_meta_kernels()
load_libraries(["celery.bin"])
import inspect, sys, torch
assert "celery.bin" in sys.modules
inspect.getmodule(inspect.currentframe())  # looks through all modules
assert "torch._decomp.decompositions" not in sys.modules
assert torch.ones(2, 3).sum() == 6
rows = torch.ones(4, 3, device="meta")
try:
    torch.cdist(rows, rows)
except NotImplementedError:
    print("none yet")
provide_meta_kernels()
provide_meta_kernels()
print(tuple(torch.cdist(rows, rows).shape))
"""
    assert run(program) == "none yet\n(4, 4)\n"


def test_whoever_asks_for_one_has_all() -> None:
    program = """
from worker.torch_start import postpone_meta_kernels
postpone_meta_kernels()
import torch
from torch._meta_registrations import activate_meta
print(torch._meta_registrations.activate_meta is activate_meta)
rows = torch.ones(4, 3, device="meta")
print(tuple(torch.cdist(rows, rows).shape))
"""
    assert run(program) == "True\n(4, 4)\n"
