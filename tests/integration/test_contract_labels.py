"""worker.contract.labels"""

from __future__ import annotations

import re

import msgspec
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from worker.contract.keys import DEFAULT_KEYS as KEYS
from worker.contract.label_files import read_label_file
from worker.contract.labels import LabelPack, LabelsError, LabelStore, parse_labels, unique
from worker.contract.messages import MessageError


def test_a_label_file_may_have_a_byte_order_mark_comments_and_blank_lines() -> None:
    assert parse_labels("\ufeff# 动物\n猫\n\n 狗 \n猫\n") == LabelPack(("猫", "狗"))


def test_a_label_may_have_aliases_and_a_parent() -> None:
    pack = parse_labels("猫 | 小猫 | 猫咪 < 动物\n狗 < 动物\ntench, Tinca tinca\na<b|c\n")
    assert pack.labels == ("猫", "狗", "tench, Tinca tinca", "a<b|c")
    assert pack.aliases == {"猫": ("小猫", "猫咪")}
    assert pack.parents == {"猫": "动物", "狗": "动物"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("猫\n狗 |", "line 2: it is not of the form"),
        ("| 猫", "line 1: it is not"),
        ("猫 <", "line 1: it is not"),
        ("猫 < 动物 < 生物", "line 1: it is not"),
        ("< 动物", "line 1: it is not"),
        ("猫 | 小猫\n\n小猫", "line 3: '小猫' stands in line 1 already"),
        ("猫 < 动物\n猫 < 植物", "line 2: '猫' stands in line 1 already"),
    ],
)
def test_a_line_that_cannot_be_meant_is_told_with_its_number(text: str, message: str) -> None:
    with pytest.raises(LabelsError, match=re.escape(message)):
        parse_labels(text)


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ("狗 < 动物\n动物 < 狗", "狗 < 动物 < 狗"),
        ("猫 < 猫", "猫 < 猫"),
        ("金毛 < 狗\n狗 < 动物\n动物 < 狗", "狗 < 动物 < 狗"),
        ("\n".join(f"{n} < {(n + 1) % 1000}" for n in range(1000)), "0 < 1 < 2 < 3 < 4 < … < 0"),
    ],
)
def test_a_label_that_stands_above_itself_is_refused_with_the_circle(
    text: str, circle: str
) -> None:
    message = re.escape(f"a label stands above itself: {circle}") + "$"
    with pytest.raises(LabelsError, match=message):
        parse_labels(text)
    lines = [line.split(" < ") for line in text.splitlines()]
    objects = [{"label": label, "parent": parent} for label, parent in lines]
    with pytest.raises(LabelsError, match=message):
        read_label_file(msgspec.json.encode(objects))
    # As `POST /jobs` has them.
    with pytest.raises(LabelsError, match=message):
        LabelPack(tuple(label for label, _ in lines), parents=dict(lines))


def test_a_label_that_is_too_long_is_told_with_its_line() -> None:
    with pytest.raises(LabelsError, match="line 2"):
        parse_labels("猫\n" + "狗" * 201)


def test_a_file_without_labels_is_an_error() -> None:
    with pytest.raises(LabelsError):
        parse_labels("# nothing\n\n")


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        pack = parse_labels(text)
    except LabelsError:
        return
    assert pack.labels
    assert set(pack.aliases) | set(pack.parents) <= set(pack.labels)


def test_labels_of_a_command_line_lose_blanks_and_repetitions() -> None:
    assert unique([" 猫", "狗", "", "猫"]) == ("猫", "狗")


@pytest.mark.parametrize("template", ["一张照片", "{}和{}"])
def test_a_template_holds_the_place_of_the_label_once(template: str) -> None:
    with pytest.raises(LabelsError, match="exactly once"):
        LabelPack(labels=("猫",), templates=(template,))


def test_the_hash_follows_the_content() -> None:
    pack = LabelPack(("猫", "狗"), ("{}",))
    assert pack.hash == LabelPack(("猫", "狗"), ("{}",)).hash
    assert pack.hash != LabelPack(("狗", "猫"), ("{}",)).hash
    assert pack.hash != LabelPack(("猫", "狗")).hash
    assert pack.hash != LabelPack(("猫", "狗"), ("{}",), {"猫": ("小猫",)}).hash
    assert pack.hash != LabelPack(("猫", "狗"), ("{}",), parents={"猫": "动物"}).hash


def test_a_pack_is_stored_by_its_hash(client: redis.Redis) -> None:
    store, pack = LabelStore(client), LabelPack(("猫", "狗"), (), {"猫": ("小猫",)}, {"狗": "动物"})
    assert store.get(store.put(pack)) == pack
    store.put(pack)
    assert len(client.keys("wanwu:labels:*")) == 1


def test_a_pack_that_is_gone_or_broken_raises_one_error(client: redis.Redis) -> None:
    store = LabelStore(client)
    with pytest.raises(MessageError, match="not in Redis any more"):
        store.get("0" * 16)
    client.set("wanwu:labels:x", b'{"labels": 3}')
    with pytest.raises(MessageError, match="label pack x"):
        store.get("x")


def test_a_label_set_is_bounded_as_a_whole(client: redis.Redis) -> None:
    many = tuple(f"猫{number}" for number in range(20_000))
    templates = tuple(f"{number} {{}}" for number in range(10))
    assert LabelPack(many, templates).labels == many
    for fields in (
        {"labels": many, "templates": (*templates, "and {}")},
        {"labels": many, "templates": templates, "background": ("狗",)},
        {"labels": ("猫",), "aliases": {"猫": tuple(f"小{name}" for name in many * 2)}},
        {"labels": ("猫",), "background": many + tuple(f"小{name}" for name in many) + ("狗",)},
        {"labels": ("猫",), "parents": {f"{number}": "x" for number in range(40_001)}},
        {"labels": ("猫" * 1001,)},
    ):
        with pytest.raises(LabelsError, match="at most"):
            LabelPack(**fields)
    # Also what somebody else has put there.
    client.set(KEYS.labels("f" * 16), msgspec.json.encode({"labels": ["猫" * 1001]}))
    with pytest.raises(MessageError, match="at most"):
        LabelStore(client).get("f" * 16)


def test_labels_of_one_request_are_forgotten_soon_but_never_too_soon(client: redis.Redis) -> None:
    store, pack = LabelStore(client), LabelPack(("这是一次性的",))
    key = KEYS.labels(pack.hash)
    for before_s, after_s in ((None, 600), (500, 500), (20, 600), (9000, 9000)):
        if before_s is not None:
            client.expire(key, before_s)
        assert store.get(store.put_briefly(pack, 600)) == pack
        assert client.ttl(key) == pytest.approx(after_s, abs=5)
    assert store.put(pack) == pack.hash
    assert client.ttl(key) > 9000
