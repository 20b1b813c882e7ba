"""All that is found out about a model on some pictures; its JSON."""

from __future__ import annotations

import json

import msgspec

from worker.evaluation.answers import Unread
from worker.evaluation.figures import Figures


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, on what, and what was left out.

    Of `pictures`, `unlabelled` have no label, and `not_in_set` only labels that the set does not
    have; `unknown` says how many pictures have each of those. `failed` cannot be read. All others
    are scored.
    """

    model: str
    device: str
    labels: int
    calibrated: bool
    pictures: int
    unlabelled: int
    not_in_set: int
    unknown: dict[str, int]
    failed: tuple[Unread, ...]
    figures: Figures | None

    def as_json(self) -> bytes:
        """Return it for programs. Bytes of a path that are no UTF-8 are lone surrogates."""
        text = json.dumps(msgspec.to_builtins(self), ensure_ascii=False, indent=1) + "\n"
        # Only surrogates cannot be encoded, and so they are escaped as JSON does it.
        return text.encode(errors="backslashreplace")
