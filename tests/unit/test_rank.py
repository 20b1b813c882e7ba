"""Embedding -> tags: the softmax is right, and so is the order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from worker.contract.messages import Tag
from worker.contract.scoring import Background, Kinds, Scale, softmax
from worker.labels.label_sets import LabelSet
from worker.pipeline import rank as stage

AXES = LabelSet(("猫", "狗", "鱼"), np.eye(3, dtype=np.float32))
Embedding = npt.NDArray[np.float32]
LEANING = np.array([0.6, 0.8, 0.0], np.float32)


def rank(embedding_D: Embedding, labels: LabelSet, scale: float, **options: Any) -> tuple[Tag, ...]:
    """Rank one image."""
    (tags,) = stage.rank(embedding_D[None], labels, Scale(scale), **options)
    return tags


def test_the_best_label_stands_first_with_its_share() -> None:
    tags = rank(LEANING, AXES, 10.0, top_k=3, threshold=0)
    assert [tag.label for tag in tags] == ["狗", "猫", "鱼"]
    expected = np.exp([8, 6, 0]) / np.exp([8, 6, 0]).sum()
    assert [tag.score for tag in tags] == pytest.approx(expected, rel=1e-5)


def test_scores_are_shares_of_the_whole_set_not_of_the_best() -> None:
    alone = rank(LEANING, AXES, 10.0, top_k=1, threshold=0)
    assert alone == rank(LEANING, AXES, 10.0, top_k=3, threshold=0)[:1]
    assert alone[0].score < 1


def test_more_tags_than_labels_are_all_labels() -> None:
    assert len(rank(LEANING, AXES, 10.0, top_k=99, threshold=0)) == 3


def test_the_threshold_keeps_what_reaches_it() -> None:
    tags = rank(LEANING, AXES, 10.0, top_k=3, threshold=0)
    at_second = rank(LEANING, AXES, 10.0, top_k=3, threshold=tags[1].score)
    assert at_second == tags[:2]
    assert rank(LEANING, AXES, 10.0, top_k=3, threshold=1.01) == ()


def test_equal_scores_stand_in_the_order_of_the_labels() -> None:
    rows = np.zeros((200, 2), np.float32)
    rows[:, 0] = 1
    twins = LabelSet(tuple(f"{k:03}" for k in range(200)), rows)
    tags = rank(np.array([1, 0], np.float32), twins, 100.0, top_k=3, threshold=0)
    assert [tag.label for tag in tags] == ["000", "001", "002"]


def test_a_great_scale_does_not_overflow() -> None:
    (tag,) = rank(LEANING, AXES, 1e6, top_k=1, threshold=0)
    assert tag.label == "狗"
    assert tag.score == 1.0


def test_picking_from_a_large_set_equals_sorting_it() -> None:
    rng = np.random.default_rng(7)
    rows = rng.integers(-2, 3, (3000, 4)).astype(np.float32)  # Many rows are equal.
    many = LabelSet(tuple(map(str, range(3000))), rows)
    embedding = rng.standard_normal(4).astype(np.float32)
    scores = softmax((0.5 * (rows @ embedding)).astype(np.float64))
    by_sorting = [str(k) for k in np.argsort(-scores, kind="stable")]
    for top_k in (1, 7, 100, 2999):
        tags = rank(embedding, many, 0.5, top_k=top_k, threshold=0)
        assert [tag.label for tag in tags] == by_sorting[:top_k]


def against(*rows: list[float], apart: list[list[float]] | None = None) -> LabelSet:
    """Return the axes, calibrated by a background."""
    rows_JD = np.array(rows, np.float32)
    apart_JK = np.array(apart or np.ones((len(rows), 3)), np.float32)
    return AXES._replace(background=Background(rows_JD, apart_JK))


def test_a_calibrated_label_is_weighed_against_the_background_alone() -> None:
    tags = rank(LEANING, against([0, 0, 1], [1, 0, 0]), 10.0, top_k=3, threshold=0)
    others = np.exp(0) + np.exp(6)
    expected = [np.exp(8) / (np.exp(8) + others), np.exp(6) / (np.exp(6) + others)]
    assert [tag.score for tag in tags[:2]] == pytest.approx(expected, rel=1e-5)
    assert sum(tag.score for tag in tags) > 1


def test_what_means_the_same_as_a_label_does_not_weigh_against_it() -> None:
    same = [[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    tags = rank(LEANING, against([1, 0, 0], [0, 0, 1], apart=same), 10.0, top_k=3, threshold=0)
    scores = {tag.label: tag.score for tag in tags}
    assert scores["猫"] == pytest.approx(np.exp(6) / (np.exp(6) + 1), rel=1e-5)
    assert scores["狗"] == pytest.approx(np.exp(8) / (np.exp(8) + 1 + np.exp(6)), rel=1e-5)


def test_it_may_be_none_of_these_or_several() -> None:
    none = rank(LEANING, against([0.6, 0.8, 0]), 10.0, top_k=3, threshold=0.5)
    assert none == ()
    both = rank(LEANING, against([0, 0.3, 1]), 10.0, top_k=3, threshold=0.5)
    assert [tag.label for tag in both] == ["狗", "猫"]


def test_a_score_does_not_depend_on_the_other_labels_of_the_set() -> None:
    calibrated = against([0, 0, 1])
    alone = LabelSet(
        ("猫",),
        AXES.matrix_KD[:1],
        background=Background(calibrated.background[0], np.ones((1, 1), "f4")),  # type: ignore[index]
    )
    whole = {tag.label: tag.score for tag in rank(LEANING, calibrated, 10.0, top_k=3, threshold=0)}
    (tag,) = rank(LEANING, alone, 10.0, top_k=3, threshold=0)
    assert tag.score == pytest.approx(whole["猫"])


def test_calibrated_scores_of_a_great_scale_are_numbers() -> None:
    tags = rank(LEANING, against([0, 0.9, 0]), 1e6, top_k=3, threshold=0)
    assert all(0 <= tag.score <= 1 for tag in tags)
    assert len(tags) == 3


def test_shares_sum_to_one() -> None:
    assert softmax(np.array([1000.0, 999.0, -1000.0])).sum() == pytest.approx(1)


def test_images_ranked_together_are_ranked_as_if_alone() -> None:
    dice = np.random.default_rng(3)
    many = LabelSet(tuple(map(str, range(50))), dice.standard_normal((50, 8)).astype(np.float32))
    embeddings = dice.standard_normal((5, 8)).astype(np.float32)
    together = stage.rank(embeddings, many, Scale(3.0), top_k=4, threshold=0)
    for embedding, tags in zip(embeddings, together, strict=True):
        alone = rank(embedding, many, 3.0, top_k=4, threshold=0)
        assert [tag.label for tag in tags] == [tag.label for tag in alone]
        assert [tag.score for tag in tags] == pytest.approx([tag.score for tag in alone], rel=1e-4)


def test_a_tag_tells_what_lies_above_its_label() -> None:
    families = AXES._replace(parents={"猫": "动物", "动物": "自然"})
    tags = rank(LEANING, families, 10.0, top_k=2, threshold=0)
    assert [(tag.label, tag.parent) for tag in tags] == [("狗", None), ("猫", "动物")]
    assert [tag.ancestors for tag in tags] == [(), ("自然",)]


def test_with_a_bias_each_label_is_scored_by_itself() -> None:
    (tags,) = stage.rank(LEANING[None], AXES, Scale(10.0, -7.0), top_k=3, threshold=0)
    wanted = {"狗": 1 / (1 + np.exp(-1)), "猫": 1 / (1 + np.exp(1)), "鱼": 1 / (1 + np.exp(7))}
    assert {tag.label: tag.score for tag in tags} == pytest.approx(wanted)
    alone = LabelSet(("猫",), AXES.matrix_KD[:1])
    (only,) = stage.rank(LEANING[None], alone, Scale(10.0, -7.0), top_k=3, threshold=0)
    assert only[0].score == pytest.approx(wanted["猫"])


def test_a_sigmoid_of_great_numbers_is_0_or_1() -> None:
    (tags,) = stage.rank(LEANING[None], AXES, Scale(1e6, -5e5), top_k=3, threshold=0)
    assert [tag.score for tag in tags] == [1.0, 1.0, 0.0]


def of_kinds(*kinds: str, parents: dict[str, str]) -> LabelSet:
    """Cat and dog are animals, of which this model is as sure as of both together."""
    matrix = {"动物": [0.7, 0.7, 0], "生物": [0.7, 0.7, 0.1], "鱼类": [0, 0, 1]}
    of_kind = {"动物": [0, 0, 1], "生物": [0, 0, 0.5], "鱼类": [1, 1, 0]}
    return AXES._replace(
        parents=parents,
        kinds=Kinds(
            kinds,
            np.array([matrix[kind] for kind in kinds], np.float32),
            np.array([of_kind[kind] for kind in kinds], np.float32).T,
        ),
    )


BETWEEN = np.array([0.7, 0.7, 0.0], np.float32)


def test_of_an_image_without_a_certain_label_the_kind_stands_behind_the_labels() -> None:
    families = of_kinds("鱼类", "动物", parents={"猫": "动物", "狗": "动物", "鱼": "鱼类"})
    tags = rank(BETWEEN, families, 10.0, top_k=2, threshold=0)
    assert [tag.label for tag in tags] == ["猫", "狗", "动物"]
    assert tags[0].score < 0.5 < tags[2].score
    assert [tag.label for tag in rank(BETWEEN, families, 10.0, top_k=2, threshold=0.5)] == ["动物"]


def test_beside_a_certain_label_and_below_its_own_certainty_a_kind_is_no_tag() -> None:
    families = of_kinds("鱼类", "动物", parents={"猫": "动物", "狗": "动物", "鱼": "鱼类"})
    sure, unsure = (np.array(row, np.float32) for row in ([0, 1, 0], [0.5, 0.4, 0.6]))
    assert [tag.label for tag in rank(sure, families, 10.0, top_k=1, threshold=0)] == ["狗"]
    unlike = families._replace(kinds=of_kinds("鱼类", parents={}).kinds)
    assert len(rank(unsure, unlike, 0.1, top_k=3, threshold=0)) == 3


def test_of_kinds_above_each_other_the_lowest_that_is_certain_is_the_tag() -> None:
    families = of_kinds("生物", "动物", parents={"猫": "动物", "狗": "动物", "动物": "生物"})
    tags = rank(BETWEEN, families, 10.0, top_k=1, threshold=0)
    assert [(tag.label, tag.parent) for tag in tags] == [("猫", "动物"), ("动物", "生物")]


def test_a_kind_that_is_a_label_too_is_one_tag() -> None:
    names = AXES._replace(labels=("动物", "狗", "鱼"))
    families = names._replace(kinds=of_kinds("动物", parents={}).kinds, parents={"狗": "动物"})
    tags = rank(BETWEEN, families, 10.0, top_k=3, threshold=0)
    assert [tag.label for tag in tags] == ["动物", "狗", "鱼"]
    assert tags[0].score > 0.5 > tags[1].score
