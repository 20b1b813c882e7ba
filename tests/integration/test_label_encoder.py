"""Label packs -> label matrices: right, and encoded once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numbered_model
import numpy as np
import pytest
import redis
from conftest import PATIENCE_S, until
from tiny_model import build, write_manifest

from worker.artifact.manifest import open_artifact
from worker.contract.ancestors import ancestors_of
from worker.contract.label_check import LabelCheck, named
from worker.contract.labels import LabelPack, LabelStore
from worker.contract.scoring import Scale
from worker.contract.vocabularies import find_vocabulary
from worker.errors import ArtifactError, InferenceError, LabelsAlikeError, LabelsMissingError
from worker.labels.distinct import alike_embeddings
from worker.labels.encoder import LabelEncoder
from worker.labels.label_sets import LabelCache, LabelSet, Matrix
from worker.labels.matrix_store import RedisLabelMatrixStore
from worker.labels.own_labels import UsedVocabulary
from worker.labels.text_tower import TextEmbedder
from worker.pipeline.rank import rank

GREY = 0.01


@pytest.fixture
def encoder_of(tmp_path: Path) -> Callable[..., LabelEncoder]:
    def make(**changes: Any) -> LabelEncoder:
        return LabelEncoder(open_artifact(build(tmp_path / "tiny", **changes)), "cpu")

    return make


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> LabelEncoder:
    return LabelEncoder(open_artifact(build(tmp_path_factory.mktemp("model") / "tiny")), "cpu")


def vocabulary(name: str) -> LabelPack:
    found = find_vocabulary(name)
    assert found
    return found.read_pack()


def unit(*values: float) -> list[float]:
    return list(np.array(values) / np.linalg.norm(values))


# --- the encoder


def test_row_k_is_the_unit_embedding_of_label_k(encoder: LabelEncoder) -> None:
    label_set = encoder.encode(LabelPack(("蓝", "红"), ("{}",)))
    assert label_set.labels == ("蓝", "红")
    assert label_set.matrix_KD.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert label_set.matrix_KD.dtype == np.float32
    assert label_set.matrix_KD.flags.c_contiguous


def test_an_empty_pack_takes_labels_and_template_from_the_model(encoder: LabelEncoder) -> None:
    label_set = encoder.encode(LabelPack())
    assert label_set.labels == ("红", "绿", "蓝")
    # 这, 是 and 色 are unknown to the tiny tokenizer, and grey to its tower.
    grey = 3 * GREY
    assert label_set.matrix_KD[1].tolist() == pytest.approx(unit(grey, 1 + grey, grey))


def test_the_manifest_knows_what_lies_above_the_parents(
    encoder_of: Callable[..., LabelEncoder],
) -> None:
    encoder = encoder_of(labels="红 < 暖色\n蓝\n", kinds={"暖色": "颜色"})
    assert ancestors_of("红", encoder.encode(LabelPack()).parents) == ("暖色", "颜色")
    # Labels that are given have the parents that are given.
    assert not encoder.encode(LabelPack(("红",))).parents


def test_several_templates_are_averaged_and_made_unit_again(encoder: LabelEncoder) -> None:
    label_set = encoder.encode(LabelPack(("红",), ("{}", "{}绿")))
    half = unit(1, 1, 0)
    assert label_set.matrix_KD[0].tolist() == pytest.approx(unit(1 + half[0], half[1], 0))


def test_a_label_and_its_aliases_are_averaged(encoder: LabelEncoder) -> None:
    pack = LabelPack(("红", "绿"), ("{}",), {"红": ("蓝", "蓝红")}, {"绿": "色"})
    label_set = encoder.encode(pack)
    assert label_set.labels == ("红", "绿")
    half = unit(1, 0, 1)
    assert label_set.matrix_KD[0].tolist() == pytest.approx(unit(1 + half[0], 0, 1 + half[2]))
    assert label_set.matrix_KD[1].tolist() == [0, 1, 0]
    assert dict(label_set.parents) == {"绿": "色"}


def test_the_text_is_cut_at_the_length_that_was_traced(encoder: LabelEncoder) -> None:
    label_set = encoder.encode(LabelPack(("红" * 6 + "蓝" * 20,), ("{}",)))
    assert label_set.matrix_KD.tolist() == [[1, 0, 0]]


def test_a_label_does_not_depend_on_those_around_it(tmp_path: Path) -> None:
    encoder = LabelEncoder(open_artifact(numbered_model.build(tmp_path / "model")), "cpu")
    many = tuple(f"{'红绿蓝'[k % 3]}{k}" for k in range(150))
    together = encoder.encode(LabelPack(many)).matrix_KD
    assert together.shape == (150, numbered_model.DIM)
    for k in (0, 63, 64, 127, 128, 149):
        alone = encoder.encode(LabelPack((many[k],))).matrix_KD[0]
        assert together[k] == pytest.approx(alone, abs=1e-6)


def test_braces_in_a_label_are_just_letters(encoder: LabelEncoder) -> None:
    assert encoder.encode(LabelPack(("{0}红",), ("{}",))).labels == ("{0}红",)


def test_a_calibrated_set_has_words_for_all_else(encoder: LabelEncoder) -> None:
    pack = LabelPack(("红", "紫"), aliases={"紫": ("绿",)}, calibrated=True)
    found = encoder.encode(pack)
    # The model's own labels: red is the label itself, green an alias of the other.
    assert found.background is not None
    plain = encoder.encode(LabelPack(("红", "绿", "蓝"))).matrix_KD
    np.testing.assert_allclose(found.background.matrix_JD, plain, atol=1e-6)
    same = found.matrix_KD @ plain.T > 0.95
    apart_KJ = found.background.apart_JK.T
    assert apart_KJ[0, 0] == 0
    assert apart_KJ[1, 1] == 0
    assert (apart_KJ[same] == 0).all()
    assert found.labels == ("红", "紫")


def test_the_words_may_be_ones_own(encoder: LabelEncoder) -> None:
    pack = LabelPack(("红",), calibrated=True, background=("绿", "蓝"))
    found = encoder.encode(pack).background
    assert found is not None
    assert found.matrix_JD.shape[0] == 2


def test_background_words_that_the_model_cannot_read_are_left_out(encoder: LabelEncoder) -> None:
    plain = LabelPack(("红",), calibrated=True, background=("绿", "蓝"))
    pack = msgspec.structs.replace(plain, background=("黑", "绿", "cat", "蓝", "白"))
    found, expected = encoder.encode(pack), encoder.encode(plain)
    assert found.background is not None
    assert expected.background is not None
    np.testing.assert_array_equal(found.background.matrix_JD, expected.background.matrix_JD)
    assert (found.left_out, expected.left_out) == (3, 0)
    assert encoder.check(pack).background == named(["黑", "cat", "白"])
    assert encoder.check(plain) == LabelCheck()


@pytest.mark.parametrize("labels", [("红",), ()])
def test_a_background_of_which_no_word_can_be_read_is_refused(
    encoder: LabelEncoder, labels: tuple[str, ...]
) -> None:
    pack = LabelPack(labels, calibrated=True, background=("黑", "白"))
    with pytest.raises(LabelsAlikeError, match=r"no word of the background.*: 黑, 白;"):
        encoder.encode(pack)
    (refusal,) = encoder.check(pack).refusals
    assert "nothing to compare labels with: 黑, 白" in refusal.english


def test_parents_and_children_do_not_weigh_against_each_other(encoder: LabelEncoder) -> None:
    texts = ("红绿", "红", "石头")
    pack = LabelPack(("红", "红绿"), parents={"红": "红绿"}, calibrated=True, background=texts)
    found = encoder.encode(pack).background
    assert found is not None
    assert found.apart_JK[0].tolist() == [0, 0]
    assert found.apart_JK[1].tolist() == [0, 0]


def test_a_model_without_labels_is_calibrated_by_general_words(
    encoder_of: Callable[..., LabelEncoder],
) -> None:
    found = encoder_of(labels=None).encode(LabelPack(("红",), calibrated=True)).background
    assert found is not None
    # Those of which the tiny model knows a character.
    assert 1 < len(found.matrix_JD) < 50


class Keys:
    """A matrix store that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get(self, key: str, shape: tuple[int, int], make: Callable[[], Matrix]) -> Matrix:
        self.asked.append(key.partition(":")[2])
        found_KD = make()
        assert found_KD.shape == shape
        return found_KD


def test_a_chinese_model_without_labels_has_the_general_vocabulary(tmp_path: Path) -> None:
    store, progress = Keys(), list[None]()
    encoder = LabelEncoder(
        open_artifact(build(tmp_path / "tiny", labels=None)),
        "cpu",
        store,
        lambda: progress.append(None),
    )
    general = vocabulary("general")
    found = encoder.encode(LabelPack())
    # Of which it can read those that name a colour, and tell few apart.
    assert set(found.labels) < set(general.labels)
    assert all(set("红绿蓝") & set("".join((k, *general.aliases.get(k, ())))) for k in found.labels)
    assert alike_embeddings(found.labels, found.matrix_KD) == []
    assert found.left_out == len(general.labels) - len(found.labels)
    used = encoder.vocabulary()
    assert used.name == "general"
    assert used.labels + used.left_out == len(general.labels)
    # By tokens alone, before anything is embedded.
    assert len(found.labels) <= used.labels < len(general.labels)
    assert ancestors_of("金毛", found.parents) == ("狗", "动物")
    # The worker is not taken for hung meanwhile.
    assert progress
    # An edited vocabulary has another matrix; one of prompts lives as long as they do.
    asked = LabelPack(templates=("{}",))
    encoder.encode(asked)
    of_model, of_prompts = store.asked
    assert ":" not in of_model
    assert of_prompts.endswith(f":{asked.hash}")


def test_a_vocabulary_of_which_the_model_can_read_nothing_is_none(tmp_path: Path) -> None:
    model = build(tmp_path / "tiny", labels=None)
    tokenizer = model / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(re.sub("[红绿蓝]", lambda found: f"{found[0]}?", tokenizer.read_text()))
    write_manifest(model)
    encoder = LabelEncoder(open_artifact(model), "cpu")
    assert encoder.vocabulary() == UsedVocabulary()
    with pytest.raises(LabelsMissingError, match="can read no word of the vocabulary"):
        encoder.encode(LabelPack())


@pytest.mark.parametrize("template", ["a photo of {}", "{}", "{}の写真"])
def test_a_model_without_labels_that_reads_no_chinese_needs_some(
    encoder_of: Callable[..., LabelEncoder], template: str
) -> None:
    encoder = encoder_of(labels=None, template=template)
    with pytest.raises(LabelsMissingError, match="no labels of its own"):
        encoder.encode(LabelPack())
    assert encoder.encode(LabelPack(("红",))).labels == ("红",)


def test_a_label_file_without_a_label_is_the_models_fault(
    encoder_of: Callable[..., LabelEncoder],
) -> None:
    with pytest.raises(ArtifactError, match=r"labels\.txt of model tiny@.*no label"):
        encoder_of(labels="# nothing\n").encode(LabelPack())


def test_a_text_without_any_token_is_named(encoder: LabelEncoder) -> None:
    with pytest.raises(LabelsAlikeError, match=r"knows no word of these labels.*: '';"):
        encoder.encode(LabelPack(("红", ""), ("{}",)))


def test_an_embedding_without_a_length_is_an_error_not_a_nan(tmp_path: Path) -> None:
    texts = TextEmbedder(open_artifact(build(tmp_path / "tiny")), "cpu")
    with pytest.raises(InferenceError, match="not a finite vector"):
        texts.embed([""])


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    model = build(tmp_path / "tiny")
    (model / "tokenizer" / "tokenizer.json").write_text("{}")
    write_manifest(model)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json of model tiny@"):
        LabelEncoder(open_artifact(model), "cpu")


# --- the cache


class Counting:
    """An encoder that counts, and waits to be released if asked to."""

    def __init__(self) -> None:
        self.packs: list[LabelPack] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, pack: LabelPack) -> LabelSet:
        self.packs.append(pack)
        assert self.go_on.wait(PATIENCE_S)
        return LabelSet(pack.labels, np.eye(len(pack.labels), dtype=np.float32))


def pack_of(label: str) -> Callable[[], LabelPack]:
    return lambda: LabelPack((label,))


def test_a_set_is_encoded_once_for_all_who_ask_at_the_same_time() -> None:
    encode = Counting()
    encode.go_on.clear()
    cache = LabelCache(encode)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(cache.get, "a", pack_of("红")) for _ in range(8)]
        encode.go_on.set()
        sets = [future.result(PATIENCE_S) for future in asked]
    assert len(encode.packs) == 1
    assert all(one is sets[0] for one in sets)


def test_whoever_asks_for_a_set_that_stands_does_not_wait_for_another() -> None:
    encode = Counting()
    cache = LabelCache(encode)
    cache.get("stands", pack_of("红"))
    encode.go_on.clear()
    with ThreadPoolExecutor(1) as thread:
        slow = thread.submit(cache.get, "slow", pack_of("绿"))
        assert cache.get("stands", pack_of("红")).labels == ("红",)
        encode.go_on.set()
        assert slow.result(PATIENCE_S).labels == ("绿",)


def test_after_a_failure_the_next_to_ask_tries_again() -> None:
    cache = LabelCache(Counting())

    def gone() -> LabelPack:
        raise LabelsMissingError

    with pytest.raises(LabelsMissingError):
        cache.get("a", gone)
    assert cache.get("a", pack_of("红")).labels == ("红",)


def test_that_labels_are_alike_is_found_out_once() -> None:
    asked: list[str] = []

    def alike(pack: LabelPack) -> LabelSet:
        asked.extend(pack.labels)
        raise LabelsAlikeError("they are")  # noqa: EM101, TRY003 - short

    cache = LabelCache(alike)
    found = []
    for _ in range(3):
        with pytest.raises(LabelsAlikeError, match="they are") as error:
            cache.get("a", pack_of("红"))
        found.append(error.value)
    assert asked == ["红"]
    # Each its own: one that is raised again would keep every traceback.
    assert len({id(one) for one in found}) == 3


def test_the_set_that_was_not_used_for_longest_goes_first() -> None:
    encode = Counting()
    cache = LabelCache(encode)
    for k in range(16):
        cache.get(str(k), pack_of(str(k)))
    cache.get("0", pack_of("0"))
    cache.get("16", pack_of("16"))
    encode.packs.clear()
    cache.get("0", pack_of("0"))
    assert encode.packs == []
    cache.get("1", pack_of("1"))
    assert encode.packs == [LabelPack(("1",))]


# --- shared with other workers


class Counted(LabelEncoder):
    """An encoder that counts how often it encodes."""

    encodings = 0

    def _matrix(self, pack: LabelPack, templates: Sequence[str]) -> Matrix:
        Counted.encodings += 1
        return super()._matrix(pack, templates)


def test_a_set_that_one_worker_has_encoded_no_other_encodes_again(
    client: redis.Redis, tmp_path: Path
) -> None:
    artifact = open_artifact(build(tmp_path / "tiny"))
    pack = LabelPack(("蓝", "红"), parents={"红": "色"})
    first = LabelEncoder(artifact, "cpu", RedisLabelMatrixStore(client)).encode(pack)
    before = Counted.encodings
    second = Counted(artifact, "cpu", RedisLabelMatrixStore(client)).encode(pack)
    assert Counted.encodings == before
    assert (second.labels, second.parents) == (first.labels, first.parents)
    np.testing.assert_array_equal(second.matrix_KD, first.matrix_KD)
    assert LabelEncoder(artifact, "cpu", RedisLabelMatrixStore(client)).encode(
        LabelPack()
    ).labels == tuple("红绿蓝")


def test_another_model_encodes_for_itself(client: redis.Redis, tmp_path: Path) -> None:
    pack, before = LabelPack(("蓝",)), Counted.encodings
    for name in ("one", "two"):
        artifact = open_artifact(build(tmp_path / name, name=name))
        Counted(artifact, "cpu", RedisLabelMatrixStore(client)).encode(pack)
    assert Counted.encodings == before + 2


def test_ten_thousand_labels_are_encoded_once_and_each_image_finds_its_own(
    client: redis.Redis, tmp_path: Path
) -> None:
    artifact = open_artifact(numbered_model.build(tmp_path / "model"))
    others = tuple(f"蓝{n}" for n in range(9_999))
    pack, before = LabelPack((*others, "红")), Counted.encodings
    for _ in range(2):
        found = Counted(artifact, "cpu", RedisLabelMatrixStore(client)).encode(pack)
    assert Counted.encodings == before + 1
    assert found.matrix_KD.shape == (10_000, numbered_model.DIM)
    red_ND = np.tile(found.matrix_KD[-1], (130, 1))
    tags = rank(red_ND, found, Scale(20.0), top_k=2, threshold=0.0)
    assert {one[0].label for one in tags} == {"红"}
    assert len(tags) == 130


def test_while_one_encodes_the_others_wait_for_it(client: redis.Redis) -> None:
    made, go_on = [], threading.Event()

    def make() -> Any:
        made.append(1)
        assert go_on.wait(PATIENCE_S)
        return np.ones((2, 3), np.float32)

    waits: list[None] = []
    matrix_store = RedisLabelMatrixStore(client, poll_s=0.01, on_wait=lambda: waits.append(None))
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(matrix_store.get, "k", (2, 3), make) for _ in range(4)]
        # They are at work, as one may see: they wait for what comes.
        until(lambda: len(waits) > 3)
        go_on.set()
        found = [one.result(PATIENCE_S) for one in asked]
    assert len(made) == 1
    assert all(one.tolist() == [[1, 1, 1], [1, 1, 1]] for one in found)


def test_if_encoding_fails_the_next_tries_and_the_lock_is_gone(client: redis.Redis) -> None:
    matrix_store = RedisLabelMatrixStore(client, poll_s=0.01)
    with pytest.raises(ZeroDivisionError):
        matrix_store.get("k", (1, 1), lambda: 1 / 0)  # type: ignore[return-value, arg-type]
    assert client.keys("wanwu:matrix:*") == []
    assert matrix_store.get("k", (1, 1), lambda: np.ones((1, 1), np.float32)).tolist() == [[1]]


def test_who_encodes_for_long_keeps_the_lock_and_who_is_gone_loses_it(
    client: redis.Redis,
) -> None:
    made = []

    def left_ms() -> int:
        return int(client.pttl("wanwu:matrix:k:lock"))

    def make() -> Any:
        made.append(1)
        for _ in range(2):
            # It runs down, and is renewed.
            until(lambda: left_ms() < 2600)
            until(lambda: left_ms() > 2600)
        return np.ones((2, 3), np.float32)

    matrix_store = RedisLabelMatrixStore(client, poll_s=0.01, lock_s=3.0)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(matrix_store.get, "k", (2, 3), make) for _ in range(2)]
        assert [one.result(PATIENCE_S).shape for one in asked] == [(2, 3)] * 2
    assert len(made) == 1
    # Somebody who will never come back.
    client.lock("wanwu:matrix:other:lock", timeout=0.4).acquire()
    assert matrix_store.get("other", (2, 3), lambda: np.ones((2, 3), np.float32)).shape == (2, 3)
    assert client.keys("wanwu:matrix:*:lock") == []


def test_a_matrix_of_another_shape_is_not_believed(client: redis.Redis) -> None:
    client.set("wanwu:matrix:k", b"1234")
    found = RedisLabelMatrixStore(client).get("k", (1, 2), lambda: np.ones((1, 2), np.float32))
    assert found.tolist() == [[1, 1]]


def test_a_matrix_is_kept_as_long_as_its_label_pack(client: redis.Redis) -> None:
    pack, labels, store = LabelPack(("蓝",)), LabelStore(client), RedisLabelMatrixStore(client)
    key = f"model:{pack.hash}"

    def kept_s() -> Any:
        store.get(key, (1, 3), lambda: np.ones((1, 3), np.float32))
        return client.ttl(f"wanwu:matrix:{key}")

    labels.put_briefly(pack, 600)
    assert 0 < kept_s() <= 600
    labels.put(pack)
    assert kept_s() > 600
    client.delete(f"wanwu:matrix:{key}", f"wanwu:labels:{pack.hash}")
    assert kept_s() > 600


def test_words_that_are_looked_up_take_no_room_in_redis(client: redis.Redis) -> None:
    encoder = LabelEncoder(open_artifact(), "cpu", RedisLabelMatrixStore(client))
    assert len(encoder.encode(LabelPack()).matrix_KD) > 1000
    assert not client.keys("*matrix*")
