"""Labels as texts, as a file, or as a pack -> the label pack of a job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_files import read_labels
from worker.contract.labels import LabelPack, LabelsError, unique

# A text is one label; a path is that of a label file.
Labels = str | Path | Iterable[str] | LabelPack | None


def label_pack(
    labels: Labels = None,
    *,
    templates: str | Iterable[str] = (),
    calibrated: bool = False,
    background: Labels = None,
) -> LabelPack:
    """Return the label set that these mean; empty for the model's own labels.

    Raises:
        LabelsError: labels or templates cannot be used.
    """
    if isinstance(labels, LabelPack):
        return labels
    pack = read_labels(labels) if isinstance(labels, Path) else LabelPack(_texts(labels))
    if isinstance(background, Path):
        background = read_labels(background)
    others = background.labels if isinstance(background, LabelPack) else _texts(background)
    return msgspec.structs.replace(
        pack,
        templates=(templates,) if isinstance(templates, str) else tuple(templates),
        calibrated=calibrated,
        background=others,
    )


def _texts(labels: str | Iterable[str] | None) -> tuple[str, ...]:
    given: tuple[Any, ...] = (labels,) if isinstance(labels, str) else tuple(labels or ())
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise LabelsError(N_("labels are texts, not {type}"), type=type(wrong[0]).__name__)
    texts = unique(given)
    if given and not texts:
        msg = _("all labels are blank")
        raise LabelsError(msg)
    return texts
