"""worker.contract.stores.blobs"""

from __future__ import annotations

import redis

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.stores.blobs import BlobStore


def test_bytes_are_kept_until_they_are_dropped(client: redis.Redis) -> None:
    store, key = BlobStore(client, ttl_s=60), KEYS.blob("j", 0, 1)
    store.put({key: b"\x00\xff", KEYS.blob("j", 0, 2): b""})
    assert store.get(key) == b"\x00\xff"
    store.drop([key])
    assert store.get(key) is None
    assert store.get(KEYS.blob("j", 0, 2)) == b""


def test_forgotten_bytes_go_by_themselves(client: redis.Redis) -> None:
    BlobStore(client, ttl_s=60).put({KEYS.blob("j", 0, 0): b"x"})
    assert 0 < client.ttl(KEYS.blob("j", 0, 0)) <= 60


def test_nothing_to_drop_is_nothing_to_do(client: redis.Redis) -> None:
    BlobStore(client, ttl_s=60).drop([])
    assert client.dbsize() == 0
