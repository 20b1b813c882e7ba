"""What is installed, and what it may import."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

HEAVY = ["torch", "torchvision", "transformers", "PIL", "numpy"]


def test_the_producer_imports_nothing_heavy() -> None:
    program = f"""
import sys
import producer.cli, producer.scan, producer.submit, producer.collect, producer.sinks
assert not set({HEAVY!r}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
