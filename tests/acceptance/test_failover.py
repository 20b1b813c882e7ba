"""Jobs in whose middle the master fails over: every image one record, and no worker ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import LONG, PATIENCE_S, ROOT

pytestmark = [pytest.mark.integration, LONG]


def test_two_failovers_lose_nothing_where_replicas_are_waited_for(tmp_path: Path) -> None:
    """One master is killed, one is replaced while it goes on."""
    found = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "ops" / "faults" / "failover.py"), "--failovers", "2"),
            *("--images", "3000", "--wait-replicas", "1", "--json", str(found)),
        ],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(found.read_text(encoding="utf-8"))
    assert [one["kind"] for one in seen] == ["SIGKILL", "SENTINEL FAILOVER"]
    assert [one["problems"] for one in seen] == [[], []]
    assert [one["resumed"] for one in seen] == [0, 0]
    assert [one["lost_writes"] for one in seen] == [0, 0]
