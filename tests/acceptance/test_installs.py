"""The wheel in environments that hold nothing else: each extra, and what the images install."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import HEAVY, PATIENCE_S, ROOT, Fleet, until
from fresh import CONSTRAINTS, Factory, Fresh, build_wheel, interpreter
from images import fill
from uses import USES, Live, nothing, statuses
from web import object_store

from worker.contract.local.redis_server import EmbeddedRedis

pytestmark = [pytest.mark.matrix, pytest.mark.integration]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name != "all"]
DOCKERFILE = (ROOT / "ops" / "Dockerfile").read_text(encoding="utf-8")
IMAGES = re.findall(r"pip install\b.*?\.\[([a-z0-9,]+)\]", DOCKERFILE)
PYTHON_OF_IMAGES = re.findall(r"FROM python:(3\.\d+)", DOCKERFILE)[0]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
OURS = f"{sys.version_info.major}.{sys.version_info.minor}"
# What works only together; the first is what ops/quickstart installs.
TOGETHER = ["worker,embedded", "all", "worker,onnx", "worker,bench"]
WITHOUT_TORCH = ",".join(name for name in EXTRAS if name != "worker")


def rows() -> list[tuple[str, str]]:
    """Return Pythons and extras: each extra on ours, the images on theirs.

    With FULL_MATRIX=1 in the environment, all on each.
    """
    if os.environ.get("FULL_MATRIX"):
        wanted = dict.fromkeys(["", *EXTRAS, *TOGETHER, *IMAGES, WITHOUT_TORCH])
        return [(version, extras) for version in VERSIONS for extras in wanted]
    ours = [(OURS, extras) for extras in ("", *EXTRAS, *TOGETHER[:2])]
    images = [(PYTHON_OF_IMAGES, extras) for extras in IMAGES]
    rest = [one for one in VERSIONS if one not in (OURS, PYTHON_OF_IMAGES)]
    others = [(one, extras) for one in rest for extras in ("", WITHOUT_TORCH)]
    return list(dict.fromkeys([*ours, *images, *others]))


@pytest.fixture(scope="module")
def live(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    images = tmp_path_factory.mktemp("images")
    fill(images, 2)
    with EmbeddedRedis() as server, object_store() as store:
        base = store["AWS_ENDPOINT_URL"]
        put(f"{base}/photos", b"")
        put(f"{base}/photos/a.jpg", next(images.rglob("*.jpg")).read_bytes())
        fleet.start(server.url, variables=store, image_urls="*")
        yield Live(server.url, images, store)


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory, live: Live) -> Factory:
    directory = tmp_path_factory.mktemp("installs")
    return Factory(build_wheel(directory), directory, {"WANWU_BROKER_URL": live.url})


def has_worker(status: str) -> bool:
    return bool(json.loads(status)["workers"])


def parameters() -> list[Any]:
    """Return the rows; the one with everything is heavy."""
    return [
        pytest.param(*one, marks=[HEAVY] if one[1] == "all" else [], id="-".join(one).strip("-"))
        for one in rows()
    ]


@pytest.mark.parametrize(("version", "extras"), parameters())
def test_each_installation_does_what_it_is_for(
    version: str, extras: str, factory: Factory, live: Live
) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    with factory.environment(extras, python) as fresh:
        assert not unpinned(fresh)
        assert ("torch" in fresh.packages()) == bool({"worker", "all"} & set(extras.split(",")))
        status = fresh.start("producer", "status", "--json")
        doctor = fresh.start("producer", "doctor", str(live.images))
        fresh.run("producer", "submit", str(live.images), "--out", "tags.jsonl")
        assert "the workers may read there" in doctor.end()
        if not has_worker(status.end()):
            # On a busy machine it may miss the second in which it could answer.
            until(lambda: has_worker(fresh.run("producer", "status", "--json")))
        assert statuses(fresh, "tags.jsonl") == ["ok", "ok"]
        for name in [extras] if extras in TOGETHER else extras.split(","):
            USES.get(name, nothing)(fresh, live)


def test_what_an_extra_is_for_ends_in_a_sentence_without_it(factory: Factory, live: Live) -> None:
    with factory.environment() as fresh:
        shutil.copytree(live.images, fresh.directory / "images")
        fresh.run("producer", "submit", "images", "--out", "tags.jsonl")
        (fresh.directory / "tags.parquet").touch()
        started = [(extra, fresh.start(*line.split())) for extra, line in without_extras()]
        for extra, running in started:
            said = running.end(code=None).strip()
            assert running.child.returncode in {1, 2}, said
            assert re.search(rf"wanwu-tagger\[(\w+,)*{extra}(,\w+)*\]'", said), said


def without_extras() -> Iterator[tuple[str, str]]:
    """An extra, and a command that needs it."""
    for verb in ("submit images", "convert tags.jsonl", "results JOB"):
        yield "parquet", f"producer {verb} --out new.parquet"
        yield "xmp", f"producer {verb} --format xmp"
        yield "s3", f"producer {verb} --out s3://photos/new.jsonl"
        yield "gs", f"producer {verb} --out gs://photos/new.jsonl"
    for argv in (
        "convert tags.parquet --out new.jsonl",
        "retag tags.jsonl",
        "search tags.jsonl x",
    ):
        yield "parquet", f"producer {argv}"
    yield "xmp", "producer untag images"
    yield "s3", "producer submit s3://photos/"
    yield "gs", "producer submit gs://photos/a.jpg"
    yield "watch", "producer watch images --out new.jsonl"
    yield "http", "producer serve"
    yield "ops", "producer exporter"
    for argv in ("", "--flower", "--model x"):
        yield "worker", f"producer submit images --embedded {argv}"
        yield "embedded", f"producer submit images --embedded {argv}"
    for argv in ("start", "export --model x", "bench", "texts", "health"):
        yield "worker", f"worker {argv}"


def test_an_installation_that_lacks_a_part_is_a_finding(factory: Factory) -> None:
    with factory.environment("http") as fresh:
        (packages,) = (fresh.venv / "lib").glob("python*/site-packages")
        shutil.rmtree(packages / "packaging")
        shutil.rmtree(packages / "uvicorn")
        sentence = "this installation is incomplete: it lacks the module packaging"
        found = fresh.run("producer", "doctor", code=1)
        assert f"fail  {sentence}" in found
        assert "the extra http lacks uvicorn" in found
        assert fresh.run("producer", "status", code=1).startswith(f"error: {sentence}")
        assert "wanwu-tagger[http]" in fresh.run("producer", "serve", code=1)


def put(url: str, body: bytes) -> None:
    kind = {"Content-Type": "image/jpeg"}
    request = urllib.request.Request(url, body, kind, method="PUT")
    urllib.request.urlopen(request, timeout=PATIENCE_S).close()


def unpinned(fresh: Fresh) -> set[str]:
    """Return what is installed in a version that the constraints do not name."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return {f"{name}=={version}" for name, version in fresh.packages().items()} - set(lines)
