"""What a producer says of the labels that a job without labels gets."""

from __future__ import annotations

import re

import pytest

from producer.arguments import argument
from producer.errors import LabelsNeededError
from producer.jobs.own_labels import labels_of
from producer.monitoring.doctor import _labels
from producer.monitoring.status_tables import workers_table
from worker.contract.labels import LabelPack
from worker.contract.worker_info import WorkerInfo

OWN = WorkerInfo(model="photo@1", has_labels=True)
CHINESE = WorkerInfo(model="chinese@1", vocabulary="general", vocabulary_labels=2847)
OTHER = WorkerInfo(model="english@1")
GIVEN = LabelPack(("猫", "狗"))


def said(pack: LabelPack, worker: WorkerInfo) -> tuple[int, list[str]]:
    notes: list[str] = []
    return labels_of(pack, worker, notes.append), notes


def test_a_vocabulary_is_named_with_its_size_and_the_way_to_others() -> None:
    labels, (note,) = said(LabelPack(), CHINESE)
    assert labels == 2847
    assert "has no labels of its own: the vocabulary general (2,847 labels) is used" in note
    assert argument("labels") in note


def test_what_the_model_cannot_read_of_it_is_counted() -> None:
    worker = WorkerInfo(vocabulary="general", vocabulary_labels=482, vocabulary_left_out=2365)
    labels, (_, note) = said(LabelPack(), worker)
    assert labels == 482
    assert "cannot read 2,365 more labels of the vocabulary" in note


@pytest.mark.parametrize(
    ("pack", "worker", "labels"),
    [(LabelPack(), OWN, 0), (GIVEN, CHINESE, 2), (GIVEN, OTHER, 2)],
)
def test_nothing_is_said_of_labels_that_are_there(
    pack: LabelPack, worker: WorkerInfo, labels: int
) -> None:
    assert said(pack, worker) == (labels, [])


def test_without_any_the_way_out_is_named() -> None:
    reason = f"model english@1 has no labels of its own: give {argument('labels')}"
    with pytest.raises(LabelsNeededError, match=re.escape(reason)):
        said(LabelPack(calibrated=True), OTHER)


def test_doctor_and_status_tell_it_too() -> None:
    assert not [*_labels([OWN])]
    (note,) = _labels([CHINESE, OWN])
    assert "jobs without labels get the vocabulary general (2,847 labels)" in note.what
    (note,) = _labels([CHINESE, OTHER])
    assert note.what == "the model has no labels of its own"
    names = [
        [column.header for column in workers_table(some).columns] for some in ([OWN], [CHINESE])
    ]
    assert ["without labels" in of for of in names] == [False, True]
