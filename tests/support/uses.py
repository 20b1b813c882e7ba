"""What each extra is for, tried in an environment that has it."""

from __future__ import annotations

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import PATIENCE_S, ROOT
from fresh import Fresh, Running
from server import free_port

from worker.contract.local.redis_server import EmbeddedRedis


class Live(NamedTuple):
    """What is there for all environments: a queue, a worker at it, images, and a store."""

    url: str
    images: Path
    store: dict[str, str]


def statuses(fresh: Fresh, name: str) -> list[str]:
    lines = (fresh.directory / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["status"] for line in lines]


def answer(running: Running, url: str) -> str:
    """Return what is answered at an address, once something answers."""
    ends_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE_S) as found:
                return str(found.read().decode())
        except urllib.error.HTTPError as e:
            return str(e.code)
        except OSError:
            if running.child.poll() is not None or time.monotonic() > ends_s:
                pytest.fail(f"nothing answers at {url}:\n{running.text}")
            time.sleep(0.1)


def for_ops(fresh: Fresh, live: Live) -> None:
    ports = str(free_port()), str(free_port())
    exporter = fresh.start("producer", "exporter", "--port", ports[0])
    flower = fresh.start(
        *("celery", "flower", f"--conf={ROOT / 'ops' / 'flowerconfig.py'}", f"--port={ports[1]}"),
        *("--address=127.0.0.1", "--basic-auth=ann:secret"),
        BROKER_URL=live.url,
    )
    assert "wanwu_" in answer(exporter, f"http://127.0.0.1:{ports[0]}/metrics")
    assert answer(flower, f"http://127.0.0.1:{ports[1]}/throughput") == "401"


def for_http(fresh: Fresh, live: Live) -> None:
    port = str(free_port())
    api = fresh.start("producer", "serve", "--port", port)
    assert '"workers"' in answer(api, f"http://127.0.0.1:{port}/health")
    url = f"http://127.0.0.1:{port}"
    fresh.run("producer", "submit", str(live.images), "--server", url, "--out", "far.jsonl")
    assert statuses(fresh, "far.jsonl") == ["ok", "ok"]


def for_parquet(fresh: Fresh, live: Live) -> None:
    fresh.run("producer", "submit", str(live.images), "--embeddings", "--out", "tags.parquet")
    fresh.run("producer", "convert", "tags.parquet", "--out", "again.jsonl")
    assert statuses(fresh, "again.jsonl") == ["ok", "ok"]
    assert fresh.run("producer", "search", "tags.parquet", "猫").count("\n") == 2


def for_xmp(fresh: Fresh, live: Live) -> None:
    shutil.copytree(live.images, fresh.directory / "album")
    fresh.run("producer", "submit", "album", "--format", "xmp")
    assert len(list(fresh.directory.rglob("album/**/*.xmp"))) == 2
    fresh.run("producer", "untag", "album")
    assert not list(fresh.directory.rglob("album/**/*.xmp"))


def for_watch(fresh: Fresh, live: Live) -> None:
    shutil.copytree(live.images, fresh.directory / "inbox")
    watching = fresh.start(
        "producer", "watch", "inbox", "--out", "seen.jsonl", "--settle-seconds", "0.1"
    )
    watching.wait_for("watching")
    assert statuses(fresh, "seen.jsonl") == ["ok", "ok"]


def for_s3(fresh: Fresh, live: Live) -> None:
    fresh.variables |= live.store
    fresh.run(
        "producer", "submit", "s3://photos/a.jpg", "--out", f"s3://photos/{time.time()}.jsonl"
    )


def for_gs(fresh: Fresh, live: Live) -> None:
    """A server that knows no such store: it is asked, and its refusal is told."""
    there = {"STORAGE_EMULATOR_HOST": live.store["AWS_ENDPOINT_URL"], "GOOGLE_CLOUD_PROJECT": "x"}
    reply = fresh.start("producer", "submit", "gs://photos/", **there).end(2)
    assert "skipped: gs://photos/ cannot be listed" in reply


def for_embedded(fresh: Fresh, live: Live) -> None:
    program = "from worker.contract.local.redis_server import EmbeddedRedis as R\nwith R(): pass"
    fresh.run("python", "-c", program)


def for_embedded_worker(fresh: Fresh, live: Live) -> None:
    fresh.run("producer", "submit", str(live.images), "--embedded", "--out", "own.jsonl")
    assert statuses(fresh, "own.jsonl") == ["ok", "ok"]


def for_chart(fresh: Fresh, _live: Live) -> None:
    program = "from pathlib import Path\nfrom worker.bench.report import chart\n"
    fresh.run("python", "-c", f"{program}chart([], 'empty', Path('chart.png'))")
    assert (fresh.directory / "chart.png").stat().st_size > 0


def for_worker(fresh: Fresh, live: Live) -> None:
    with EmbeddedRedis() as server:
        there = {"WANWU_BROKER_URL": server.url}
        running = fresh.start("worker", "start", "--allow", str(live.images), **there)
        running.wait_for("worker.ready")
        fresh.start("producer", "submit", str(live.images), "--out", "own.jsonl", **there).end()
        running.stop()
    assert statuses(fresh, "own.jsonl") == ["ok", "ok"]
    if "matplotlib" not in fresh.packages():
        reply = fresh.run("worker", "bench", "--chart", "chart.png", code=1)
        assert "wanwu-tagger[bench]" in reply


def for_onnx(fresh: Fresh, live: Live) -> None:
    running = fresh.start("worker", "start", "--engine", "onnx", WANWU_BROKER_URL=live.url)
    running.wait_for("worker.ready")


def for_all(fresh: Fresh, live: Live) -> None:
    for_embedded_worker(fresh, live)
    for_onnx(fresh, live)
    for_chart(fresh, live)


def nothing(_fresh: Fresh, _live: Live) -> None:
    """Other extras are of use only together with another."""


USES: dict[str, Callable[[Fresh, Live], None]] = {
    "worker": for_worker,
    "embedded": for_embedded,
    "s3": for_s3,
    "gs": for_gs,
    "parquet": for_parquet,
    "xmp": for_xmp,
    "watch": for_watch,
    "http": for_http,
    "ops": for_ops,
    "worker,embedded": for_embedded_worker,
    "worker,onnx": for_onnx,
    "worker,bench": for_chart,
    "all": for_all,
}
