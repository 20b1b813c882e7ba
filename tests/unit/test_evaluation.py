"""worker.evaluation: its arithmetic against numbers worked out by hand; names, folders, tables."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from worker.contract.labels import LabelPack
from worker.contract.messages import ImageResult, Tag
from worker.contract.scoring import Kinds
from worker.evaluation.answers import Answer, Answers, Case, Unread, sort, tag_names
from worker.evaluation.command import Request
from worker.evaluation.evaluation import Evaluation
from worker.evaluation.figures import Confusion, LabelFigures, Mistake, Scored, measure, worst
from worker.evaluation.page import page
from worker.evaluation.samples import EvaluationError, Sample, read_samples
from worker.evaluation.sheets import sentences
from worker.evaluation.truth import LabelNames, Truth
from worker.labels.label_sets import LabelSet

PACK = LabelPack(
    ("猫", "狗", "车"), (), {"猫": ("Cat", "小猫")}, {"猫": "动物", "狗": "动物", "动物": "生物"}
)
NAMES = LabelNames(PACK)


def answer(path: str, names: tuple[str, ...], *scores: float) -> Answer:
    """Return what the model says of a picture; of its labels, two are kept as the best."""
    truths, unknown = NAMES.find_all(names)
    assert not unknown
    best = sorted(range(len(scores)), key=lambda k: -scores[k])[:2]
    return Answer(Case(Sample(path, names), truths), tuple(best), np.array(scores))


ANSWERS = [
    answer("1", ("猫",), 0.7, 0.28, 0.02),
    answer("2", ("狗",), 0.6, 0.25, 0.15),
    answer("3", ("动物",), 0.1, 0.5, 0.4),
    answer("4", ("猫",), 0.1, 0.5, 0.4),
    answer("5", ("车", "猫"), 0.45, 0.05, 0.5),
]
FIGURES = measure(ANSWERS, PACK.labels, 0.4)


def test_best_labels_are_counted() -> None:
    assert (FIGURES.pictures, FIGURES.top1, FIGURES.top5) == (5, 3 / 5, 4 / 5)
    assert FIGURES.top1_mean == pytest.approx((0 + 1 / 3 + 1 + 1) / 4)


def test_each_label_has_its_figures_and_the_worst_comes_first() -> None:
    assert FIGURES.labels == (
        LabelFigures(label="狗", pictures=1, top1=0, top5=1, precision=1 / 2),
        LabelFigures(label="猫", pictures=3, top1=1 / 3, top5=2 / 3, precision=1 / 2),
        LabelFigures(label="动物", pictures=1, top1=1, top5=1, precision=1 / 2),
        LabelFigures(label="车", pictures=1, top1=1, top5=1, precision=1),
    )


def test_calibration_is_the_mean_distance_of_score_and_share() -> None:
    # 0.5 three times, of which two are right; 0.6 wrong; 0.7 right.
    wanted = (3 * abs(2 / 3 - 0.5) + 0.6 + 0.3) / 5
    assert FIGURES.calibration.error == pytest.approx(wanted)
    bins = FIGURES.calibration.bins
    assert [one.pictures for one in bins] == [0, 0, 0, 0, 0, 3, 1, 1, 0, 0]
    assert (bins[5].score, bins[5].right) == (0.5, 2 / 3)
    assert (bins[0].score, bins[0].right) == (None, None)


def test_precision_and_recall_are_those_of_the_tags_at_the_threshold() -> None:
    at = FIGURES.at_threshold
    assert (at.threshold, at.tags, at.precision, at.recall) == (0.4, 8, 4 / 8, 4 / 6)
    assert at.f1 == pytest.approx(4 / 7)


def test_the_best_threshold_is_where_f1_is_greatest() -> None:
    # 13 tags, 7 of them right; all true labels found. At 0.45 F1 is 4/6, at 0.25 it is 5/8.
    best = FIGURES.best_threshold
    assert (best.threshold, best.tags, best.precision, best.recall) == (0.1, 13, 7 / 13, 1)
    assert best.f1 == pytest.approx(2 * 7 / 20)


def test_the_best_threshold_has_as_few_digits_as_keep_the_same_tags() -> None:
    close = [answer("1", ("猫",), 0.123456, 0.12341, 0.1)]
    assert measure(close, PACK.labels, 0.5).best_threshold.threshold == 0.12345


def test_without_a_tag_there_is_no_precision() -> None:
    at = measure(ANSWERS, PACK.labels, 0.9).at_threshold
    assert (at.tags, at.precision, at.recall, at.f1) == (0, None, 0, 0)


def test_confusions_and_mistakes_are_those_of_wrong_best_labels() -> None:
    assert FIGURES.confusion == (Confusion("狗", "猫", 1), Confusion("猫", "狗", 1))
    assert FIGURES.mistakes == (
        Mistake(path="4", labels=("猫",), tags=(Scored("狗", 0.5), Scored("车", 0.4)), rank=3),
        Mistake(path="2", labels=("狗",), tags=(Scored("猫", 0.6), Scored("狗", 0.25)), rank=2),
    )


def truth(name: str, says: set[int], right: set[int]) -> Truth:
    return Truth(name, frozenset(says), frozenset(right))


@pytest.mark.parametrize(
    ("written", "name", "says", "right"),
    [
        ("猫", "猫", {0}, {0}),
        ("ｃａｔ", "猫", {0}, {0}),
        ("小猫", "猫", {0}, {0}),
        ("动物", "动物", {0, 1}, {0, 1}),
        ("生物", "生物", {0, 1}, {0, 1}),
    ],
)
def test_names_are_labels_aliases_and_parents(
    written: str, name: str, says: set[int], right: set[int]
) -> None:
    assert NAMES.find(written) == truth(name, says, right)


def test_a_parent_that_is_a_label_is_right_where_its_child_is_shown_but_does_not_say_it() -> None:
    pack = LabelPack(("golden retriever", "狗"), (), {}, {"golden retriever": "狗"})
    names = LabelNames(pack)
    assert names.find("Golden_Retriever") == truth("golden retriever", {0}, {0, 1})
    assert names.find("狗") == truth("狗", {0, 1}, {0, 1})


def test_a_name_that_stands_nowhere_may_be_another_word_for_a_label() -> None:
    names = LabelNames(PACK, {"big cat": "猫"}.get)
    assert names.find("Big_Cat") == truth("猫", {0}, {0})
    assert names.find("斑马") is None


def test_a_kind_is_a_tag_as_the_labels_are_and_below_all_where_it_has_none() -> None:
    none = np.zeros((0, 2), np.float32)
    kinds = Kinds(("动物", "车"), none, none)
    names = tag_names(LabelSet(PACK.labels, none, kinds=kinds))
    assert names == ("猫", "狗", "车", "动物")
    known = LabelNames(msgspec.structs.replace(PACK, labels=names))
    truths, _ = known.find_all(("动物",))
    found = Answers([], [])
    for *scores, kind in ((0.3, 0.2, 0.1, 0.62), (0.7, 0.2, 0.1, None)):
        tags = [Tag(name, score) for name, score in zip(PACK.labels, scores, strict=True)]
        tags += [Tag("动物", kind)] if kind else []
        result = ImageResult(path="1", tags=tuple(tags))
        sort(found, Case(Sample("1", ("动物",)), truths), result, list(names))
    assert [one.best_T for one in found.scored] == [(3, 0, 1, 2), (0, 1, 2)]
    assert [one.scores_K[3] for one in found.scored] == [0.62, -1]
    figures = measure(found.scored, names, 0.5)
    at = figures.at_threshold
    assert (at.tags, at.precision, at.recall, figures.top1) == (2, 1, 1, 1)
    assert figures.best_threshold.threshold > 0


@pytest.mark.parametrize(
    ("labels", "calibrated", "threshold", "least"),
    [
        (None, False, None, 0.5),
        (None, True, None, 0.5),
        ("labels.txt", False, None, 0),
        ("labels.txt", True, None, 0.5),
        (None, False, 0.0, 0),
    ],
)
def test_a_tag_is_what_is_certain_unless_labels_or_a_threshold_are_given(
    labels: str | None, *, calibrated: bool, threshold: float | None, least: float
) -> None:
    request = Request(Path(), None, labels, (), calibrated, threshold, None, None)
    assert request.least_score == least


def test_names_that_mean_the_same_are_one_truth_and_unknown_ones_are_named() -> None:
    truths, unknown = NAMES.find_all(("cat", "斑马", "小猫"))
    assert [one.name for one in truths] == ["猫"]
    assert unknown == ("斑马",)


def test_folders_name_what_their_pictures_show(tmp_path: Path) -> None:
    for name in ("猫/1.jpg", "宠物/狗/2.PNG", "3.jpg", "猫/notes.md", ".hidden/4.jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert read_samples(tmp_path, None) == [
        Sample(str(tmp_path / "3.jpg"), ()),
        Sample(str(tmp_path / "宠物/狗/2.PNG"), ("狗",)),
        Sample(str(tmp_path / "猫/1.jpg"), ("猫",)),
    ]


def test_captions_beside_pictures_name_labels(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "1.txt").write_text("猫、狗; a car.\n猫", encoding="utf-16")
    found = read_samples(tmp_path, None)
    assert [one.names for one in found] == [("猫", "狗", "a car"), ()]
    assert [one.names for one in read_samples(tmp_path, "folders")] == [(), ()]


def test_a_table_names_paths_and_labels(tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text(
        'path,labels,note\n1.jpg,猫 | 狗,x\n/a/2.jpg,"车"\n1.jpg,鸟\n3.jpg\n', encoding="utf-8-sig"
    )
    assert read_samples(table, None) == [
        Sample(str(tmp_path / "1.jpg"), ("猫", "狗", "鸟")),
        Sample("/a/2.jpg", ("车",)),
        Sample(str(tmp_path / "3.jpg"), ()),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.jpg,猫\n", "header"),
        ("path\tlabel\n\t猫\n", "line 2: the path is blank"),
        ('path,label\n"1.jpg,猫\n', "line 2: it is no row of a table"),
        ("path,label\n", "no picture"),
    ],
)
def test_a_table_that_cannot_be_used_says_why(tmp_path: Path, text: str, problem: str) -> None:
    table = tmp_path / "truth.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(EvaluationError, match=problem):
        read_samples(table, None)


def evaluation(**changes: object) -> Evaluation:
    fields: dict[str, object] = {
        "model": "tiny@1",
        "device": "cpu",
        "labels": 3,
        "calibrated": False,
        "pictures": 6,
        "unlabelled": 0,
        "not_in_set": 0,
        "unknown": {},
        "failed": (),
        "figures": FIGURES,
    }
    return Evaluation(**fields | changes)  # type: ignore[arg-type]


def test_what_strangers_chose_is_text_on_the_page_and_bytes_that_are_no_utf8_are_shown() -> None:
    hostile = '<script>alert("1")</script>\u202e\udcff$summary'
    mistake = Mistake(path=f"/x/{hostile}", labels=(hostile,), tags=(Scored(hostile, 0.5),), rank=2)
    shown = answer("1", ("狗",), 0.6, 0.3, 0.1)._replace(thumbnail="/9j/")
    one = measure([shown], (hostile, "狗", "车"), 0)
    figures = type(one)(
        **{name: getattr(one, name) for name in one.__struct_fields__} | {"mistakes": (mistake,)}
    )
    found = evaluation(figures=figures, model=hostile, unknown={hostile: 1})
    body = page(found, [shown]).decode()
    assert "<script" not in body
    assert "\u202e" not in body
    assert body.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;\\u202e\\udcff$summary") > 4
    assert 'src="data:image/jpeg;base64,/9j/"' in body
    assert json.loads(found.as_json())["unknown"] == {hostile: 1}


def test_a_page_shows_the_mistakes_in_their_order() -> None:
    body = page(evaluation(), worst(ANSWERS)).decode()
    assert body.index('title="4"') < body.index('title="2"')
    assert "<td>57.1%</td>" in body


def test_what_was_left_out_is_named() -> None:
    failed = (Unread("a", "truncated", "it ends early"), Unread("b", "truncated", "it ends early"))
    found = evaluation(unlabelled=1, not_in_set=2, unknown={"斑马": 1, "鸟": 2}, failed=failed)
    assert list(sentences(found)) == [
        "tiny@1 on cpu, 3 labels",
        "5 of 6 pictures are scored",
        "1 picture has no label",
        "2 pictures have no label of the set",
        "not in the set: 鸟 (2), 斑马 (1)",
        "cannot be read: truncated (2)",
    ]
