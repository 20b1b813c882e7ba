"""worker.pipeline.embedding_cache: the same bytes are inferred once, and tagged the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
import tiny_model
from conftest import PATIENCE_S, Fleet, run
from images import fill
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.artifact.manifest import Artifact, open_artifact
from worker.contract.local.redis_server import EmbeddedRedis
from worker.contract.queue.app import make_app
from worker.contract.secret import SecretUrl
from worker.contract.settings import Settings
from worker.pipeline.embedding_cache import EmbeddingCache


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return open_artifact(tiny_model.build(tmp_path / "model"))


def embedding(artifact: Artifact, value: float) -> Any:
    return np.full(artifact.manifest.embedding_dim, value, np.float32)


def test_what_was_put_is_got_by_its_content(client: redis.Redis, artifact: Artifact) -> None:
    embedding_cache = EmbeddingCache(client, artifact, Settings(embedding_cache_size=10))
    key = embedding_cache.key_of(b"bytes")
    assert embedding_cache.get(key) is None
    embedding_cache.put([(key, embedding(artifact, 1 / 3))])
    found = embedding_cache.get(embedding_cache.key_of(b"bytes"))
    assert found is not None
    assert found.tolist() == embedding(artifact, 1 / 3).tolist()
    assert embedding_cache.get(embedding_cache.key_of(b"others")) is None
    assert embedding_cache.hits == 1


def test_another_model_or_way_of_decoding_knows_nothing_of_it(
    client: redis.Redis, artifact: Artifact
) -> None:
    keys = {
        EmbeddingCache(client, one, Settings(embedding_cache_size=1, decode=decode)).key_of(b"x")
        for one in (artifact, msgspec.structs.replace(artifact, id="other@1"))
        for decode in ("exact", "fast")
    }
    assert len(keys) == 4


def test_the_least_recently_used_go_first(client: redis.Redis, artifact: Artifact) -> None:
    embedding_cache = EmbeddingCache(client, artifact, Settings(embedding_cache_size=3))
    keys = [embedding_cache.key_of(bytes([n])) for n in range(5)]
    for n, key in enumerate(keys[:3]):
        embedding_cache.put([(key, embedding(artifact, n))])
        client.zadd(embedding_cache._index, {key: n})
    assert embedding_cache.get(keys[0]) is not None
    embedding_cache.put([(key, embedding(artifact, 9)) for key in keys[3:]])
    assert [embedding_cache.get(key) is not None for key in keys] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert client.zcard(embedding_cache._index) == 3


def test_what_is_no_embedding_and_a_redis_that_is_away_are_nothing_known(
    client: redis.Redis, artifact: Artifact
) -> None:
    embedding_cache = EmbeddingCache(client, artifact, Settings(embedding_cache_size=3))
    for body in (b"short", embedding(artifact, float("nan")).tobytes()):
        client.set(embedding_cache.key_of(b"x"), body)
        assert embedding_cache.get(embedding_cache.key_of(b"x")) is None
    away = EmbeddingCache(
        redis.Redis(port=1, retry=Retry(NoBackoff(), 0)), artifact, Settings(embedding_cache_size=3)
    )
    assert away.get("x") is None
    away.put([("x", embedding(artifact, 1))])


@pytest.mark.integration
def test_images_that_come_again_are_not_inferred_again(
    server: EmbeddedRedis, fleet: Fleet, tmp_path: Path
) -> None:
    photos = fill(tmp_path / "photos", 12)
    (tmp_path / "photos" / "copy.jpg").write_bytes(photos[0].read_bytes())
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no image")
    worker = fleet.start(server.url, embedding_cache_size="1000")
    found = []
    for number, labels in enumerate((["猫", "狗"], ["猫", "狗"], ["树"])):
        out = tmp_path / f"{number}.jsonl"
        argv = [word for label in labels for word in ("--label", label)]
        run(
            *("producer", "submit", str(tmp_path / "photos"), *argv, "--out", str(out)),
            broker_url=server.url,
        )
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert len(lines) == 14
        found.append({line["path"]: line for line in lines})
    first, second, third = found
    for path, line in second.items():
        scores = {tag["label"]: tag["score"] for tag in first[path]["tags"]}
        # An image and its copy may have been in different batches, which round differently.
        assert {tag["label"]: tag["score"] for tag in line["tags"]} == pytest.approx(
            scores, abs=1e-4
        )
    for line in (*second.values(), *third.values()):
        assert line["batch_size"] is None
        assert line["timing"]["infer_ms"] is None
        assert line["status"] == ("failed" if line["path"].endswith("bad.jpg") else "ok")
    (stats,) = (
        make_app(Settings(broker_url=SecretUrl(server.url)), stores_results=False)
        .control.inspect(timeout=PATIENCE_S, limit=1)
        .stats()
        .values()
    )
    batches = {int(size): n for size, n in stats["tagger"]["batch_sizes"].items()}
    assert sum(size * n for size, n in batches.items()) <= 13
    assert stats["tagger"]["cache_hits"] >= 26
    worker.stop()
