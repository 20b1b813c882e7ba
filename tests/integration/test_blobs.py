"""worker.contract.stores.blobs"""

from __future__ import annotations

import traceback

import pytest
import redis

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.messages import MAX_WAIT_S
from worker.contract.stores.blobs import BlobStore


def test_bytes_are_kept_until_they_are_dropped(client: redis.Redis) -> None:
    store, key = BlobStore(client, ttl_s=60), KEYS.blob("j", 0, 1)
    store.put({key: b"\x00\xff", KEYS.blob("j", 0, 2): b""})
    assert store.get(key) == b"\x00\xff"
    store.drop([key])
    assert store.get(key) is None
    assert store.get(KEYS.blob("j", 0, 2)) == b""


def test_forgotten_bytes_go_by_themselves(client: redis.Redis) -> None:
    store, key = BlobStore(client, ttl_s=60), KEYS.blob("j", 0, 0)
    store.put({key: b"x"})
    assert 60 < client.ttl(key) <= MAX_WAIT_S, "its message may wait for long"
    store.keep([key])
    assert 0 < client.ttl(key) <= 60


def test_an_error_repeats_no_bytes(client: redis.Redis) -> None:
    picture = b"sec" + b"ret"
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.ResponseError) as caught:
            BlobStore(client, ttl_s=60).put({KEYS.blob("j", 0, 0): picture})
    finally:
        client.config_set("maxmemory", "0")
    shown = "".join(traceback.format_exception(caught.value))
    assert "memory" in str(caught.value)
    assert "secret" not in shown


def test_nothing_to_drop_is_nothing_to_do(client: redis.Redis) -> None:
    BlobStore(client, ttl_s=60).drop([])
    assert client.dbsize() == 0
