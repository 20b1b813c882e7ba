"""Text of a JSON file -> the entries of a label set: a list of texts, or of objects."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import Entry, LabelsError, line_place

# What a person may have meant as JSON: a bracket before a text, an object, a list or nothing more.
_BEGINNING: Final = re.compile(r'\s*[\[{]\s*(["{]|$)', re.MULTILINE)
# What stands for one character beyond the first 65,536 is a pair of escapes; one alone is none.
_PAIR: Final = re.compile(r"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|\\[^u]")
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F][\da-fA-F]{2}")


def json_entries(text: str) -> list[Entry] | None:
    """Return the labels of JSON; None if the text only begins with a bracket.

    Raises:
        LabelsError: naming the line or the item that cannot be used.
    """
    try:
        found = msgspec.json.decode(text.encode())
    except RecursionError:
        # Deeper than anything that holds labels.
        found = None
    except msgspec.DecodeError as e:
        if not _BEGINNING.match(text):
            return None
        raise _not_json(text, e) from e
    if not isinstance(found, list):
        raise LabelsError(N_("JSON of labels is a list of texts, or of objects with a label"))
    return [
        _of_item(item, Message(N_("item {number}"), number=number))
        for number, item in enumerate(found, start=1)
    ]


def _not_json(text: str, error: msgspec.DecodeError) -> LabelsError:
    # Pairs are blanked out, so that places stay what they are.
    alone = _HALF.search(_PAIR.sub(lambda pair: " " * len(pair[0]), text))
    if alone:
        return LabelsError(
            N_("{place}: {escape} is only half of a character: write the character itself"),
            place=line_place(text.count("\n", 0, alone.start()) + 1),
            escape=alone[0],
        )
    place = re.search(r"byte (\d+)", str(error))
    start = text.encode()[: int(place[1])] if place else text.encode()
    return LabelsError(
        N_("{place}: this is no JSON: {reason}"),
        place=line_place(start.count(b"\n") + 1),
        reason=error,
    )


def _of_item(item: Any, place: Message) -> Entry:
    fields = {"label": item} if isinstance(item, str) else item
    if isinstance(fields, dict):
        aliases = fields.get("aliases") or []
        texts = [fields.get("label"), *([aliases] if isinstance(aliases, str) else aliases)]
        parent = fields.get("parent") or ""
        if fields.keys() <= {"label", "aliases", "parent"} and all(
            isinstance(text, str) for text in (*texts, parent)
        ):
            return Entry.of(place, texts, parent)
    raise LabelsError(
        N_("{place}: a label is a text, or an object of label, aliases and parent"),
        place=place,
    )
