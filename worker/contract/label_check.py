"""What a model makes of labels, as a worker tells it before anything is sent; and as sentences.

A model scores labels that it reads as the same alike, whatever an image shows: those of which it
knows no word, and those that end in the same tokens or the same embedding.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.printable import printable

# The remote control command that asks a worker; it has the hash of a label pack.
CHECK: Final = "check_labels"
# What a worker looks at when it is asked, on its main thread: more are looked at with the job.
MOST_TEXTS: Final = 5_000
SHOWN: Final = 5
# Of a group.
_TOGETHER: Final = 3
# Of a group of labels.
_MOST_CHARS: Final = 200


class Named(msgspec.Struct, frozen=True):
    """The first few of some labels, as a person is shown them, and how many there are."""

    first: tuple[str, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        more = f" … ({self.count:,})" if self.count > len(self.first) else ""
        return ", ".join(self.first) + more


class LabelCheck(msgspec.Struct, frozen=True):
    """What is wrong with labels: nothing, if all is empty.

    `unread` are labels of which the tokenizer knows no word, `alike` groups that the model reads as
    the same, `partly` labels of which it does not know some words, with those. `reason` is why a
    model refuses them otherwise, in English. Of a lexicon `nearest` are words that it knows and
    that look like the unread ones. `background` are words of the background that cannot be read
    either: they are left out, and the labels refused if that leaves none.
    """

    unread: Named = Named()
    alike: Named = Named()
    partly: Named = Named()
    reason: str = ""
    nearest: Named = Named()
    is_lexicon: bool = False
    background: Named = Named()
    has_background: bool = True

    @property
    def refusals(self) -> list[Sentence]:
        """Return why the labels cannot be used; nothing if they can."""
        found = [Sentence(self.reason, {})] if self.reason else []
        if self.unread.count:
            found.append(self._unread())
        if self.alike.count:
            found.append(Sentence(_ALIKE, {"labels": str(self.alike)}))
        if not self.has_background:
            found.append(Sentence(_NO_BACKGROUND, {"words": str(self.background)}))
        return found

    def _unread(self) -> Sentence:
        if not self.is_lexicon:
            return Sentence(_UNREAD, {"labels": str(self.unread)})
        if not self.nearest.count:
            return Sentence(_NO_SUCH_WORD, {"labels": str(self.unread)})
        return Sentence(_NEAR, {"labels": str(self.unread), "nearest": str(self.nearest)})

    @property
    def warnings(self) -> list[Sentence]:
        """Return what a person should know of labels that can be used."""
        found: list[Sentence] = []
        if self.partly.count:
            found.append(Sentence(_PARTLY, {"labels": str(self.partly)}))
        if self.background.count and self.has_background:
            found.append(Sentence(_LEFT_OUT, {"words": str(self.background)}))
        return found


class Sentence(NamedTuple):
    """A sentence and what fills it."""

    template: str
    fields: dict[str, Any]

    @property
    def english(self) -> str:
        """Return it as data has it."""
        return self.template.format(**self.fields) if self.fields else self.template

    def __str__(self) -> str:
        return str(Message(self.template, **self.fields))


_UNREAD: Final = N_(
    "the model knows no word of these labels, so it would score them all alike: {labels}; use "
    "words of its language, or another model"
)
_NO_SUCH_WORD: Final = N_(
    "the model knows single words, and these are none of them: {labels}; use other words, or a "
    "model that reads any text, such as Chinese-CLIP"
)
_NEAR: Final = N_(
    "the model knows single words, and these are none of them: {labels}; the nearest that it "
    "knows: {nearest}; use those, other words, or a model that reads any text, such as Chinese-CLIP"
)
_ALIKE: Final = N_(
    "the model reads these labels as the same, so it would score them alike: {labels}; keep one of "
    "each, or choose words that differ more"
)
_PARTLY: Final = N_(
    "the model does not know all words of some labels, so their scores say less: {labels}"
)
_LEFT_OUT: Final = N_(
    "these words of the background are left out, as the model does not know them: {words}"
)
_NO_BACKGROUND: Final = N_(
    "the model knows no word of the background, so there is nothing to compare labels with: "
    "{words}; give others, or none for the usual ones"
)


def named(labels: Iterable[str]) -> Named:
    """Return labels as they are shown."""
    every = list(labels)
    return Named(tuple(map(_shown, every[:SHOWN])), len(every))


def named_groups(groups: Iterable[Iterable[str]]) -> Named:
    """Return groups of labels as they are shown: `cat = dog`."""
    return named(_joined(list(group)) for group in groups)


def named_with_words(labels: Iterable[tuple[str, Iterable[str]]]) -> Named:
    """Return labels as they are shown, each with the words of it that are not known."""
    return named(
        f"{_shown(label)} ({', '.join(map(_shown, unknown))})" for label, unknown in labels
    )


def _joined(group: list[str]) -> str:
    names = [_shown(label, _MOST_CHARS // SHOWN) for label in group[:_TOGETHER]]
    return " = ".join([*names, "…"] if len(group) > _TOGETHER else names)


def _shown(text: str, most: int = 2 * _MOST_CHARS) -> str:
    if not text.strip():
        return repr(text)
    return printable(text if len(text) <= most else f"{text[:most]}…")
