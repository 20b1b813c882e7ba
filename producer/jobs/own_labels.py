"""A job without labels -> what its images are tagged with: the model's own, or a vocabulary."""

from __future__ import annotations

from collections.abc import Callable

from producer.arguments import argument
from producer.errors import LabelsNeededError
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.worker_info import WorkerInfo

Echo = Callable[[str], object]


def labels_of(pack: LabelPack, worker: WorkerInfo, echo: Echo) -> int:
    """Return how many labels a job has, as far as they are not the model's own; say whose.

    Raises:
        LabelsNeededError: none are given, and there is nothing in their place.
    """
    if pack.labels or worker.has_labels:
        return len(pack.labels)
    labels, label = argument("labels"), argument("label")
    if not worker.vocabulary:
        msg = _("model {model} has no labels of its own: give {labels} or {label}")
        raise LabelsNeededError(msg.format(model=worker.model, labels=labels, label=label))
    message = _(
        "note: the workers' model has no labels of its own: the vocabulary {vocabulary} "
        "({count:,} labels) is used, and the first such job waits until it is encoded; choose "
        "others with {labels} or {label}"
    )
    echo(
        message.format(
            vocabulary=worker.vocabulary,
            count=worker.vocabulary_labels,
            labels=labels,
            label=label,
        )
    )
    if worker.vocabulary_left_out:
        message = _(
            "note: the model cannot read {count:,} more labels of the vocabulary, or not tell them "
            "from others: they are left out"
        )
        echo(message.format(count=worker.vocabulary_left_out))
    return worker.vocabulary_labels
