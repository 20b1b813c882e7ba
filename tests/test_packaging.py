"""What is installed, and what it may import."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, environment

HEAVY = ["torch", "torchvision", "transformers", "PIL", "numpy"]


def test_the_producer_imports_nothing_heavy() -> None:
    program = f"""
import sys
import producer.cli, producer.scan, producer.submit, producer.collect, producer.sinks
assert not set({HEAVY!r}) & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.integration
def test_the_base_install_is_a_working_producer_without_torch(tmp_path: Path) -> None:
    installer = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    venv, source = tmp_path / "venv", tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "tests", "ops")
    shutil.copytree(ROOT, source, ignore=ignored)
    install = [installer, "pip", "install", "--quiet", "--python", str(venv / "bin/python")]
    limits = ["--constraint", str(ROOT / "ops/constraints.txt")]
    subprocess.run([installer, "venv", "--quiet", str(venv)], check=True)
    subprocess.run([*install, *limits, str(source)], check=True)
    (packages,) = (venv / "lib").glob("python*/site-packages")
    assert not {entry.name for entry in packages.iterdir()} & set(HEAVY)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        path = str(venv / "bin" / words[0])
        return subprocess.run(
            [path, *words[1:]],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert call("producer", "--help").returncode == 0
    (tmp_path / "a.jpg").write_bytes(b"x")
    away = call("producer", "submit", "a.jpg", "--broker", "redis://127.0.0.1:1/0")
    assert away.returncode == 1
    assert "cannot reach Redis" in away.stderr
    started = call("worker", "start")
    assert started.returncode == 1
    assert "wanwu-tagger[worker]" in started.stderr
    embedded = call("producer", "submit", "a.jpg", "--embedded")
    assert embedded.returncode == 1
    assert "wanwu-tagger[" in embedded.stderr
