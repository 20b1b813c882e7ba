"""worker.contract.keys: what may be a prefix, what it names, and that nobody forgets it."""

from __future__ import annotations

import ast
import inspect

import msgspec
import pytest
from conftest import ROOT

from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import Chunk, ImageRef, MessageError
from worker.contract.settings import Settings, SettingsError

# What works in Redis, and by whose prefix.
STORES = {
    *("JobStore", "BlobStore", "LabelStore", "DeadLetters", "Deliveries"),
    *("RedisLabelMatrixStore", "LegacyQueue"),
}
LONGEST = "x" * 64
SOURCES = [file for folder in ("producer", "worker") for file in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("a", "a:"),
        ("a1", "a1:"),
        ("a:", "a:"),
        ("a.b-", "a.b-"),
        ("Ab_", "Ab_"),
        ("x" * 64, "x" * 64 + ":"),
    ],
)
def test_a_prefix_ends_with_a_separator(given: str, prefix: str) -> None:
    assert Keys(given).prefix == prefix
    assert Settings(prefix=given).keys == Keys(prefix[:64]) or len(given) == 64


@pytest.mark.parametrize(
    "given", ["", "a b", "a*", "a?", "[a]", "a{b}", "a%s", "é", "a\n", "x" * 65]
)
def test_what_means_something_elsewhere_is_no_prefix(given: str) -> None:
    with pytest.raises(ValueError, match="a prefix is"):
        Keys(given)
    with pytest.raises(SettingsError, match="WANWU_PREFIX"):
        Settings(prefix=given)
    if given:
        with pytest.raises(SettingsError, match="WANWU_PREFIX"):
            Settings.from_env({"WANWU_PREFIX": given})


def test_an_empty_variable_is_the_default() -> None:
    assert Settings.from_env({"WANWU_PREFIX": ""}).keys == DEFAULT_KEYS
    assert Settings.from_env({"WANWU_PREFIX": "a"}).keys.queue == "a:tag"


def test_every_name_has_the_prefix_and_no_two_are_the_same() -> None:
    keys = Keys("p")
    names = []
    for name, found in inspect.getmembers(Keys):
        if isinstance(found, property):
            names.append(getattr(keys, name))
        elif inspect.isfunction(found) and name[0] != "_" and name != "check_blobs":
            parameters = list(inspect.signature(found).parameters)[1:]
            values = {"seq": 1, "index": 2}
            names.append(found(keys, *(values.get(one, "x") for one in parameters)))
    assert len(names) == len(set(names)) > 15
    assert all(name.startswith("p:") for name in names)


@pytest.mark.parametrize(
    "blob",
    [
        "other:blob:j-3:0",
        "wanwu:blob:j-30:0",
        "wanwu:blob:j-3:00000",
        "wanwu:x:blob:j-3:0",
        "xwanwu:blob:j-3:0",
        "wanwu:blob:other:blob:j-3:0",
    ],
)
def test_a_chunk_may_name_only_its_own_blobs_of_its_own_installation(blob: str) -> None:
    own = Chunk(job="j", seq=3, images=(ImageRef("/a", blob="wanwu:blob:j-3:0"),), sent_at_s=1.0)
    DEFAULT_KEYS.check_blobs(own)
    with pytest.raises(MessageError, match="does not belong"):
        Keys("a").check_blobs(own)
    with pytest.raises((MessageError, ValueError), match="does not belong"):
        DEFAULT_KEYS.check_blobs(
            msgspec.structs.replace(own, images=(ImageRef("/a", blob=blob), *own.images))
        )


def test_whoever_works_in_redis_is_given_its_names() -> None:
    """Their default is the default prefix: with another, one that is forgotten works elsewhere."""
    calls = [
        (file, node)
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in STORES
    ]
    assert len(calls) >= len(STORES)
    for file, node in calls:
        given = [*node.args, *(one.value for one in node.keywords)]
        assert any("keys" in ast.unparse(one) for one in given), f"{file}:{node.lineno}"
