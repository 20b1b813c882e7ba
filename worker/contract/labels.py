"""Label file or texts -> LabelPack, stored once in Redis by the hash of its content."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from worker.contract.ancestors import loop_of
from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import CERTAIN, MAX_WAIT_S, MessageError
from worker.contract.printable import printable

if TYPE_CHECKING:
    import redis

PLACEHOLDER: Final = "{}"
MAX_LABEL_CHARS: Final = 200
# Labels of a circle that are named.
_LOOP_SHOWN: Final = 5
# What a model is called upon to encode for one set. A text tower on a CPU takes milliseconds for
# each: labels and aliases together, the texts of a background, and both times the templates.
MAX_TEXTS: Final = 40_000
MAX_PROMPTS: Final = 200_000
# Of a text in a set, from wherever: classifiers have longer names than label files.
_MAX_TEXT_CHARS: Final = 1_000
# Twice what so many texts of Chinese take as long as a label file may have them.
_MAX_PACK_BYTES: Final = 64 * 2**20
_ALIAS: Final = re.compile(r"(?:^|(?<=\s))[|｜](?=\s|$)")
_PARENT: Final = re.compile(r"(?:^|(?<=\s))[<＜](?=\s|$)")
# As a Chinese keyboard writes them; within a word nobody means them.
_WIDE: Final = ("｜", "＜")
# A pack that is gone fails every image of its job.
LABELS_TTL_S: Final = MAX_WAIT_S


class LabelsError(TranslatedError, ValueError):
    """A label file, a label or a prompt template cannot be used."""


class LabelPack(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label set with its prompt templates; empty means the model's own.

    A template holds `{}` once, where the label goes. Several templates are averaged, and so are a
    label and its aliases. A tag carries its label's parent, which is a label itself only if listed;
    none stands above itself. If `calibrated`, each label is scored by itself against `background`,
    names of all else that images may show; by default the model's own labels, or general ones.
    """

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    aliases: dict[str, tuple[str, ...]] = {}
    parents: dict[str, str] = {}
    calibrated: bool = False
    background: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would silently tag everything alike, and what would never end."""
        self._check_size()
        if len(set(self.labels)) != len(self.labels):
            raise LabelsError(N_("a label stands twice in the set"))
        if loop := loop_of(self.parents):
            raise LabelsError(N_("a label stands above itself: {labels}"), labels=_circle(loop))
        for template in self.templates:
            if template.count(PLACEHOLDER) != 1:
                raise LabelsError(
                    N_("template {template!r} must hold {placeholder} exactly once"),
                    template=template,
                    placeholder=PLACEHOLDER,
                )
        try:
            msgspec.json.encode(self)
        except UnicodeEncodeError as e:
            raise LabelsError(N_("a label or a template holds bytes that are no UTF-8")) from e

    def _check_size(self) -> None:
        """Hold one bound for all numbers that multiply."""
        named = (self.labels, *self.aliases.values())
        texts, others = sum(map(len, named)), len(self.background)
        if max(texts, others, len(self.aliases), len(self.parents)) > MAX_TEXTS:
            raise LabelsError(
                N_("{texts:,} labels and aliases, {others:,} in the background: {most:,} at most"),
                texts=texts,
                others=others,
                most=MAX_TEXTS,
            )
        prompts = (texts + others) * len(self.templates)
        if prompts > MAX_PROMPTS:
            raise LabelsError(
                N_("{texts:,} texts times {templates:,} templates: {most:,} prompts at most"),
                texts=texts + others,
                templates=len(self.templates),
                most=MAX_PROMPTS,
            )
        flat = itertools.chain(*named, self.background, self.templates, self.aliases)
        both = itertools.chain(flat, self.parents, self.parents.values())
        if max(map(len, both), default=0) > _MAX_TEXT_CHARS:
            raise LabelsError(
                N_("a label or a template has at most {most:,} characters"), most=_MAX_TEXT_CHARS
            )

    @property
    def hash(self) -> str:
        """Sha256 over all of it, first 16 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def _circle(loop: tuple[str, ...]) -> str:
    """Return a circle as a label file has it, `狗 < 动物 < 狗`: of a long one, its first labels."""
    shown = [*loop[:_LOOP_SHOWN], *(["…"] if len(loop) > _LOOP_SHOWN else []), loop[0]]
    return printable(" < ".join(shown))


class Entry(NamedTuple):
    """One label of a label file, with where it stands: `line 3`."""

    place: Message
    label: str
    aliases: tuple[str, ...]
    parent: str

    @classmethod
    def of(cls, place: Message, texts: Iterable[str], parent: str = "") -> Entry:
        """Return the entry of a line: a label and its aliases.

        Raises:
            LabelsError: a text is blank, too long, or holds what would not be seen.
        """
        names = tuple(dict.fromkeys(text.strip() for text in texts))
        parent = parent.strip()
        if not all(names):
            raise LabelsError(N_("{place}: a label is blank"), place=place)
        if max(map(len, (*names, parent))) > MAX_LABEL_CHARS:
            raise LabelsError(
                N_("{place}: a label has at most {most} characters"),
                place=place,
                most=MAX_LABEL_CHARS,
            )
        for text in (*names, parent):
            _check_signs(text, place)
        return cls(place, names[0], names[1:], parent)

    @property
    def texts(self) -> tuple[str, ...]:
        """The label and its aliases."""
        return (self.label, *self.aliases)


def _check_signs(text: str, place: Message) -> None:
    """Refuse what was meant as something else than a part of a label."""
    if "\t" in text:
        raise LabelsError(
            N_(
                "{place}: there is a tab in a label: for a table, begin with a header of "
                "label, aliases and parent, separated by tabs"
            ),
            place=place,
        )
    if any(sign < " " or sign == "\x7f" for sign in text):
        raise LabelsError(N_("{place}: there is a control character in a label"), place=place)
    if wide := next((sign for sign in _WIDE if sign in text), None):
        raise LabelsError(
            N_("{place}: write blanks around {sign}, or leave it out of the label"),
            place=place,
            sign=wide,
        )
    if len(text) > 1 and text[0] == text[-1] == '"':
        raise LabelsError(
            N_("{place}: quotes would be a part of the label: leave them out"), place=place
        )


def parse_labels(text: str) -> LabelPack:
    """Return the labels of a label file, in order: UTF-8, one a line, `label | alias < parent`.

    Any number of aliases, each after a `|`, and a parent after a `<` may follow the label; both
    signs, which may be full-width, are surrounded by blanks. A byte order mark, blank lines, `#`
    comments and repeated lines are ignored.

    Raises:
        LabelsError: naming the line that cannot be used, or if there is no label at all.
    """
    lines = enumerate(text.removeprefix("\ufeff").splitlines(), start=1)
    return pack_of_entries(
        _parse_line(line, line_place(number))
        for number, line in lines
        if line.strip() and not line.strip().startswith("#")
    )


def pack_of_entries(entries: Iterable[Entry]) -> LabelPack:
    """Return a pack of the labels, in their order; what stands there twice is ignored.

    Raises:
        LabelsError: a name stands for two labels, or there is no label at all.
    """
    found: dict[str, Entry] = {}
    owners: dict[str, Message] = {}
    for entry in entries:
        if entry.label in found and found[entry.label][1:] == entry[1:]:
            continue
        for name in entry.texts:
            if name in owners:
                raise LabelsError(
                    N_("{place}: {name!r} stands in {other} already"),
                    place=entry.place,
                    name=name,
                    other=owners[name],
                )
            owners[name] = entry.place
        found[entry.label] = entry
    if not found:
        raise LabelsError(N_("no label in it"))
    return LabelPack(
        labels=tuple(found),
        aliases={name: entry.aliases for name, entry in found.items() if entry.aliases},
        parents={name: entry.parent for name, entry in found.items() if entry.parent},
    )


def _parse_line(line: str, place: Message) -> Entry:
    names, *parents = _PARENT.split(line.strip())
    texts = [name.strip() for name in _ALIAS.split(names)]
    parent = parents[0].strip() if parents else ""
    if len(parents) > 1 or (parents and not parent) or not all(texts):
        raise LabelsError(N_("{place}: it is not of the form: label | alias < parent"), place=place)
    return Entry.of(place, texts, parent)


def line_place(number: int) -> Message:
    """Return how a line is called."""
    return Message(N_("line {number}"), number=number)


def unique(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels given on a command line, stripped, blank ones and repetitions dropped."""
    return tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))


def least_score(threshold: float | None, *, calibrated: bool) -> float:
    """Return the lowest score of a tag: as given, else what suits the kind of scores."""
    if threshold is not None:
        return threshold
    return CERTAIN if calibrated else 0.0


class LabelStore:
    """Label packs in Redis, by content hash: put as often as you like, stored once."""

    def __init__(
        self, client: redis.Redis, keys: Keys = DEFAULT_KEYS, *, ttl_s: int = LABELS_TTL_S
    ) -> None:
        self._keys = keys
        self._client = client
        self._ttl_s = ttl_s

    def put(self, pack: LabelPack) -> str:
        """Store `pack`, or make it live longer, and return its hash."""
        self._client.set(self._keys.labels(pack.hash), msgspec.json.encode(pack), ex=self._ttl_s)
        return pack.hash

    def put_briefly(self, pack: LabelPack, ttl_s: int) -> str:
        """Store `pack` for so many seconds at least, for who waits no longer; return its hash.

        It is never forgotten earlier than it would have been.
        """
        key = self._keys.labels(pack.hash)
        with self._client.pipeline(transaction=True) as pipe:
            pipe.set(key, msgspec.json.encode(pack), ex=ttl_s, nx=True)
            pipe.ttl(key)
            _, left_s = pipe.execute()
        if 0 <= left_s < ttl_s // 2:
            self._client.expire(key, ttl_s)
        return pack.hash

    def get(self, pack_hash: str) -> LabelPack:
        """Return the pack with this hash.

        Raises:
            MessageError: it is not there (expired, or Redis lost it), or is no label pack.
        """
        body = self._client.get(self._keys.labels(pack_hash))
        if body is None:
            msg = f"label pack {pack_hash} is not in Redis any more; submit the job again"
            raise MessageError(msg)
        if len(body) > _MAX_PACK_BYTES:
            msg = f"label pack {pack_hash} is larger than any"
            raise MessageError(msg)
        try:
            return msgspec.json.decode(bytes(body), type=LabelPack)  # type: ignore[arg-type]
        except msgspec.MsgspecError as e:
            msg = f"label pack {pack_hash}: {e}"
            raise MessageError(msg) from e
