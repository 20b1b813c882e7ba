"""The benchmarks under ops/bench run as their documentation says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LONG, PATIENCE_S, ROOT, environment
from hub_models import save
from PIL import Image

pytestmark = LONG


def bench(script: str, out: Path, *argv: str) -> Any:
    """Run a benchmark and return what it writes."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "ops/bench" / script), *argv, "--json", str(out)],
        env=environment() | {"XDG_CACHE_HOME": str(out.parent / "cache")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.integration
def test_the_queue_s_tax_is_measured_beside_a_loop_and_the_usual_worker(tmp_path: Path) -> None:
    argv = ["--images", "160", "--rounds", "1", "--chunk", "8"]
    found = bench("overhead.py", tmp_path / "tax.json", *argv)
    assert found["chunks"]["default"]["cpu_ms"] > 0
    assert min(found["naive"][name] for name in ("cpu_ms", "bare_ms")) > 0


@pytest.mark.integration
def test_workers_with_a_simulated_device_are_counted_against_one(tmp_path: Path) -> None:
    argv = ["--latency", "50", "--workers", "1", "--workers", "2", "--seconds", "2"]
    one, two = bench("scaling.py", tmp_path / "scaling.json", *argv)
    assert (one["workers"], one["times_one"], two["workers"]) == (1, 1.0, 2)
    # No device can be faster than it is.
    assert 0 < one["of_devices"] <= 1
    assert two["images_per_s"] > 0
    assert all(cost > 0 for cost in two["cpu_ms"].values())


@pytest.mark.integration
def test_four_ways_to_tag_the_same_photographs_are_held_side_by_side(tmp_path: Path) -> None:
    model = save(tmp_path / "tiny", "chinese_clip")
    argv = ["--photos", "ops/examples", "--model", str(model), "--precision", "fp32"]
    argv += ["--seconds", "0.2", "--rounds", "1", "--chart", str(tmp_path / "chart.png")]
    argv += ["--markdown", str(tmp_path / "table.md")]
    found = bench("compare.py", tmp_path / "compare.json", *argv)
    assert list(found["contenders"]) == [
        *("bare loop", "transformers pipeline", "naive Celery", "wanwu")
    ]
    for one in found["contenders"].values():
        assert one["images_per_s"] > 0
        assert one["cpu_ms"]["worker"] > 0
        assert one["held_mb"] > 0
    assert found["contenders"]["transformers pipeline"]["times_pipeline"] == 1
    assert 1 <= found["worker"]["mean_batch"] <= 4
    assert all(found["worker"]["stages_ms"].values())
    assert found["photographs"].startswith("24 photographs")
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.width > chart.height
    table = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert all(name in table for name in found["contenders"])


@pytest.mark.integration
def test_memory_is_traced_from_the_first_thousands_of_images_on(tmp_path: Path) -> None:
    argv = ["--paths", "12000", "--images", "300"]
    found = bench("memory.py", tmp_path / "memory.json", *argv)
    assert found["producer"]["images"] == 12000
    assert found["worker"]["images"] == 300
    for one in found.values():
        assert 0 < one["settled_mb"] <= one["most_mb"]
    # Thousands of results at once would be more than this.
    assert found["producer"]["growth_mb"] < 20


@pytest.mark.integration
def test_fast_decoding_is_held_against_pillow_and_exact_decoding(tmp_path: Path) -> None:
    model = save(tmp_path / "tiny", "chinese_clip")
    argv = ["--model", str(model), "--rounds", "1"]
    found = bench("decoding.py", tmp_path / "decoding.json", *argv)
    assert list(found["cpu_ms"]) == ["Pillow", "exact", "fast"]
    assert found["times_pillow"]["Pillow"] == 1
    assert found["photographs"].startswith("4 made-up photographs")
    assert 0.99 < found["worst_cosine"] <= found["mean_cosine"] <= 1


@pytest.mark.integration
def test_flower_is_weighed_and_timed(tmp_path: Path) -> None:
    found = bench("watching.py", tmp_path / "watching.json", "--images", "160")
    assert found["chunks"] == 20
    assert 30 < found["flower_at_rest_mb"] <= found["flower_mb"] < 500
    assert all(ms > 0 for ms in found["slowest_of_five_ms"].values())


@pytest.mark.integration
def test_a_worker_that_is_watched_is_held_against_one_that_is_not(tmp_path: Path) -> None:
    argv = ["--images", "800", "--rounds", "2", "--chunk", "8"]
    found = bench("events_overhead.py", tmp_path / "telling.json", *argv)
    # Two turns, and a quarter to warm up: no event is lost.
    assert found["images_that_flower_heard_of"] == 1800
    assert found["scrapes"] >= 2
    assert all(rate > 0 for rate in found["images_per_s"].values())
    for ratios in (found["told_of_untold"], found["in_flower_of_untold"]):
        assert 0 < ratios["least"] <= ratios["median"] <= ratios["most"]


@pytest.mark.integration
def test_questions_are_answered_before_a_bulk_job_that_was_there_first(tmp_path: Path) -> None:
    found = bench("asking.py", tmp_path / "asking.json", "--asks", "10")
    assert min(found["idle_ms"], found["busy_ms"]) > 0
    assert found["bulk_images_left"] > 0


@pytest.mark.integration
def test_decoding_in_processes_is_measured_beside_threads(tmp_path: Path) -> None:
    argv = ["--photos", "ops/examples", "--seconds", "0.3", "--rounds", "1", "--decoders", "2"]
    found = bench("decode_processes.py", tmp_path / "decoders.json", *argv)
    assert set(found["decoders"]["2"]) == {"threads", "processes"}
    assert all(row["images_per_s"] > 0 for row in found["decoders"]["2"].values())


@pytest.mark.integration
def test_decoding_is_measured_by_cores_and_by_parts(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), "teal").save(tmp_path / "a.jpg")
    argv = ["--photos", str(tmp_path), "--seconds", "0.2", "--rounds", "1"]
    found = bench("decode_scaling.py", tmp_path / "scaling.json", *argv, "--cores", "1")
    assert [row["case"]["kind"] for (row,) in found["rows"]] == ["threads", "processes"]
    for (row,) in found["rows"]:
        assert row["images_per_s"] > 0
        assert row["decoders" if row["case"]["kind"] == "processes" else "worker"]["user_ms"] > 0
    assert found["parts"]["all of it"]["ms"] > 0
    assert found["memory"][0]["copied_gb_per_s"] > 0


@pytest.mark.integration
def test_decoders_that_pretend_are_as_many_as_are_wanted(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), "teal").save(tmp_path / "a.jpg")
    argv = ["--photos", str(tmp_path), "--seconds", "0.3", "--rounds", "1", "--pretend", "20"]
    found = bench("decode_scaling.py", tmp_path / "scaling.json", *argv, "--decoders", "1,4")
    one, four = (row for (row,) in found["rows"])
    assert one["images_per_s"] <= 1000 / 20
    assert four["images_per_s"] <= 4 * 1000 / 20
