"""A classifier's config -> the names of its classes, in the order of its logits.

Names come from anywhere: with any characters, twice, blank, numbered from 1.
"""

from __future__ import annotations

from typing import Any

from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import LabelPack, LabelsError
from worker.errors import ExportError


def class_names(config: Any) -> tuple[str, ...]:
    """Return the names; blanks around them and line breaks are dropped, and each is made unique.

    Class ids count from 0 in transformers; where they begin elsewhere or leave gaps, the names
    belong to the logits in the order of the ids.

    Raises:
        ExportError: there are fewer or more names than logits, or one cannot be a label.
    """
    found = config.id2label or {}
    if len(found) != config.num_labels:
        raise ExportError(
            N_(
                "id2label in config.json names {names} classes, and the model has {logits}: name "
                "each of them"
            ),
            names=len(found),
            logits=config.num_labels,
        )
    names = _unique([" ".join(str(found[k]).split()) for k in sorted(found)])
    try:
        return LabelPack(names).labels
    except LabelsError as e:
        raise ExportError(N_("id2label in config.json cannot be used: {reason}"), reason=e) from e


def _unique(names: list[str]) -> tuple[str, ...]:
    """Return the names; a blank one is called as transformers would, the second of two by its row.

    A name that another class really has is never given to a class that does not.
    """
    own = set(names)
    used: set[str] = set()
    for k, name in enumerate(names):
        unique = name or f"LABEL_{k}"
        while unique in used or (unique != name and unique in own):
            unique = f"{unique} ({k})"
        used.add(unique)
        names[k] = unique
    return tuple(names)
