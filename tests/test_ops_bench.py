"""The benchmarks under ops/bench run as their documentation says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment


@pytest.mark.integration
def test_the_queue_s_tax_is_measured_beside_a_loop_and_the_usual_worker(tmp_path: Path) -> None:
    out = tmp_path / "tax.json"
    words = ["--images", "160", "--rounds", "1", "--chunk", "8", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "ops/bench/tax.py"), *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["chunks"]["8"]["cpu_ms"] > 0
    assert found["naive"]["cpu_ms"] > found["naive"]["bare_ms"] > 0
