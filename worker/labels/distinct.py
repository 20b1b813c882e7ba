"""Labels -> which of them a model cannot read, or not tell apart.

Shapes: K labels, D embedding dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from worker.contract.label_check import (
    SHOWN,
    LabelCheck,
    named,
    named_groups,
    named_with_words,
)
from worker.contract.labels import PLACEHOLDER, LabelPack
from worker.labels.lexicon import nearest_words

Matrix = npt.NDArray[np.float32]

# Cosines above this are those of texts that a model reads as the same.
SAME: Final = 0.9999
# Rows that are compared with all others at a time.
_BLOCK: Final = 1024


class LabelReader:
    """Reads labels as a model's tokenizer does, and says what is lost."""

    def __init__(self, tokenizer: Tokenizer, *, is_lexicon: bool = False) -> None:
        """Take a tokenizer that cuts and pads texts as the text tower wants them.

        Of words that a lexicon does not know it says the nearest that it does.
        """
        self._tokenizer = tokenizer
        self._is_lexicon = is_lexicon
        self._unknown = _unknown_id(tokenizer)

    def check(self, pack: LabelPack, templates: Sequence[str]) -> LabelCheck:
        """Return what is lost of a pack's labels.

        A label can be read if it or one of its aliases can. Two are alike if all their prompts end
        in the same tokens: cut at the model's length, unknown words as one.
        """
        unread, partly = self._unread(pack)
        lost = set(unread)
        readable = [label for label in pack.labels if label not in lost]
        groups = self._alike(readable, pack, templates)
        found = LabelCheck(named(unread), named_groups(groups), named_with_words(partly.items()))
        if not (self._is_lexicon and unread):
            return found
        hints = nearest_words(self._tokenizer, unread[:SHOWN])
        near = named_with_words((label, hint) for label, hint in hints.items() if hint)
        return msgspec.structs.replace(found, nearest=near, is_lexicon=True)

    def unread(self, pack: LabelPack) -> list[str]:
        """Return labels of which no name can be read."""
        return self._unread(pack)[0]

    def fit(self, pack: LabelPack, templates: Sequence[str]) -> LabelPack:
        """Return a pack without labels that cannot be read, and with the first of those alike."""
        lost = set(self.unread(pack))
        groups = self._alike([one for one in pack.labels if one not in lost], pack, templates)
        lost.update(label for group in groups for label in group[1:])
        return without(pack, lost)

    def first_known(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the first text that is known, of several for one label; else all."""
        known = (
            n for n, one in enumerate(self._encode(list(texts))) if self._unknown not in one.ids
        )
        first = next(known, None)
        return texts if first is None else (texts[first],)

    def _unread(self, pack: LabelPack) -> tuple[list[str], dict[str, list[str]]]:
        """Return labels that cannot be read, and others with those of their words that cannot."""
        unread: list[str] = []
        partly: dict[str, list[str]] = {}
        owners, texts = _texts(pack)
        for label, found in _grouped(owners, zip(texts, self._encode(texts), strict=True)):
            unknown = {text: self._unknown_words(text, encoding) for text, encoding in found}
            pieces = [piece for some in unknown.values() for piece in some or ()]
            if all(some is None for some in unknown.values()):
                unread.append(label)
            elif lost := [*pieces, *(text for text, some in unknown.items() if some is None)]:
                partly[label] = list(dict.fromkeys(lost))
        return unread, partly

    def _encode(self, texts: list[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)

    def _unknown_words(self, text: str, encoding: Encoding) -> list[str] | None:
        """Return the words of a text that are not known; None if none is."""
        read = [n for n, mask in enumerate(encoding.attention_mask) if mask]
        unknown = [n for n in read if encoding.ids[n] == self._unknown]
        if len(unknown) == len(read):
            return None
        return [text[slice(*encoding.offsets[n])] for n in unknown]

    def _alike(
        self, labels: Sequence[str], pack: LabelPack, templates: Sequence[str]
    ) -> list[list[str]]:
        some = LabelPack(tuple(labels), aliases=pack.aliases)
        owners, texts = _texts(some)
        rows: dict[str, set[tuple[int, ...]]] = {label: set() for label in labels}
        for template in templates:
            prompts = [template.replace(PLACEHOLDER, text) for text in texts]
            for label, encoding in zip(owners, self._tokenizer.encode_batch(prompts), strict=True):
                rows[label].add(tuple(encoding.ids))
        groups: dict[frozenset[tuple[int, ...]], list[str]] = {}
        for label, tokens in rows.items():
            groups.setdefault(frozenset(tokens), []).append(label)
        return [group for group in groups.values() if len(group) > 1]


def without(pack: LabelPack, lost: Container[str]) -> LabelPack:
    """Return a pack without some of its labels. What lies above the others stays."""
    kept = tuple(label for label in pack.labels if label not in lost)
    aliases = {label: pack.aliases[label] for label in kept if label in pack.aliases}
    return msgspec.structs.replace(pack, labels=kept, aliases=aliases)


def alike_embeddings(labels: Sequence[str], matrix_KD: Matrix) -> list[list[str]]:
    """Return groups of labels whose unit embeddings are the same, up to rounding."""
    first_K = np.arange(len(labels))
    for start in range(0, len(labels), _BLOCK):
        near = matrix_KD[start : start + _BLOCK] @ matrix_KD.T > SAME
        # Of each row the first that it is the same as, itself at the latest.
        first_K[start : start + _BLOCK] = np.minimum(
            near.argmax(axis=1), first_K[start : start + _BLOCK]
        )
    groups: dict[int, list[str]] = {}
    for k in np.flatnonzero(first_K != np.arange(len(labels))).tolist():
        groups.setdefault(int(first_K[k]), [labels[first_K[k]]]).append(labels[k])
    return list(groups.values())


def _texts(pack: LabelPack) -> tuple[list[str], list[str]]:
    """Return all labels and aliases, and of each whose it is."""
    owners: list[str] = []
    texts: list[str] = []
    for label in pack.labels:
        names = (label, *pack.aliases.get(label, ()))
        owners += [label] * len(names)
        texts += names
    return owners, texts


def _grouped(
    owners: list[str], found: Iterable[tuple[str, Encoding]]
) -> Iterator[tuple[str, list[tuple[str, Encoding]]]]:
    groups: dict[str, list[tuple[str, Encoding]]] = {}
    for owner, one in zip(owners, found, strict=True):
        groups.setdefault(owner, []).append(one)
    yield from groups.items()


def _unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token for what is not in the vocabulary; None if there is no such."""
    model: Any = tokenizer.model
    token = getattr(model, "unk_token", None)
    if token is not None:
        found: int | None = tokenizer.token_to_id(token)
        return found
    # Of sentencepiece's unigram model only the file says it.
    number = json.loads(tokenizer.to_str())["model"].get("unk_id")
    return None if number is None else int(number)
