"""Labels as texts, as a file, or as a pack -> the label pack of a job."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from worker.contract.i18n import Message
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_files import read_label_file
from worker.contract.labels import (
    CALIBRATED_THRESHOLD,
    LabelPack,
    LabelsError,
    unique,
)
from worker.contract.local.files import UnfitFileError, read_given
from worker.contract.reasons import reason

# Twenty thousand labels, each with four aliases of the greatest length.
MOST_BYTES: Final = 16 * 1024 * 1024
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


def least_score(threshold: float | None, *, calibrated: bool) -> float:
    """Return the lowest score of a tag: as given, else what suits the kind of scores."""
    if threshold is not None:
        return threshold
    return CALIBRATED_THRESHOLD if calibrated else 0.0


def read_labels(file: Path) -> LabelPack:
    """Return the labels of a file, which may be a FIFO: `--labels <(command)`.

    Raises:
        LabelsError: naming the file, it cannot be read or used.
    """
    try:
        return read_label_file(read_given(file, MOST_BYTES))
    except (LabelsError, OSError) as e:
        why = e if isinstance(e, LabelsError) else _reason(e)
        raise LabelsError(N_("{file}: {reason}"), file=file, reason=why) from e


def _reason(error: OSError) -> Message | str | None:
    return error.strerror if isinstance(error, UnfitFileError) else reason(str(error))


def _texts(labels: str | Iterable[str] | None) -> tuple[str, ...]:
    given: tuple[Any, ...] = (labels,) if isinstance(labels, str) else tuple(labels or ())
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise LabelsError(N_("labels are texts, not {type}"), type=type(wrong[0]).__name__)
    texts = unique(given)
    if given and not texts:
        msg = _("all labels are blank")
        raise LabelsError(msg)
    return texts
