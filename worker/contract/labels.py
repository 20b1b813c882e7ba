"""Label file or texts -> LabelPack, stored once in Redis by the hash of its content."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from worker.contract.i18n import TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import DEFAULT_KEYS, Keys
from worker.contract.messages import MAX_WAIT_S, MessageError

if TYPE_CHECKING:
    import redis

PLACEHOLDER: Final = "{}"
MAX_LABEL_CHARS: Final = 200
# What a model is called upon to encode for one set. A text tower on a CPU takes milliseconds for
# each: labels and aliases together, the texts of a background, and both times the templates.
MAX_TEXTS: Final = 40_000
MAX_PROMPTS: Final = 200_000
# Of a text in a set, from wherever: classifiers have longer names than label files.
_MAX_TEXT_CHARS: Final = 1_000
# Twice what so many texts of Chinese take as long as a label file may have them.
_MAX_PACK_BYTES: Final = 64 * 2**20
# The label is as likely as anything else.
CALIBRATED_THRESHOLD: Final = 0.5
_ALIAS: Final = re.compile(r"(?:^|(?<=\s))\|(?=\s|$)")
_PARENT: Final = re.compile(r"(?:^|(?<=\s))<(?=\s|$)")
# A pack that is gone fails every image of its job.
LABELS_TTL_S: Final = MAX_WAIT_S


class LabelsError(TranslatedError, ValueError):
    """A label file, a label or a prompt template cannot be used."""


class LabelPack(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label set with its prompt templates; empty means the model's own.

    A template holds `{}` once, where the label goes. Several templates are averaged, and so are a
    label and its aliases. A tag carries its label's parent, which is a label itself only if listed.
    If `calibrated`, each label is scored by itself against `background`, names of all else that
    images may show; by default the model's own labels, or general ones.
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


class _Line(NamedTuple):
    """One line of a label file."""

    label: str
    aliases: tuple[str, ...]
    parent: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.label, *self.aliases)


def parse_labels(text: str) -> LabelPack:
    """Return the labels of a label file, in order: UTF-8, one a line, `label | alias < parent`.

    Any number of aliases, each after a `|`, and a parent after a `<` may follow the label; both
    signs are surrounded by blanks. A byte order mark, blank lines, `#` comments and repeated lines
    are ignored.

    Raises:
        LabelsError: naming the line that cannot be used, or if there is no label at all.
    """
    found: dict[str, _Line] = {}
    owners: dict[str, int] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        entry = _parse_line(line, number)
        if found.get(entry.label) == entry:
            continue
        for name in entry.texts:
            if name in owners:
                raise LabelsError(
                    N_("line {number}: {name!r} stands in line {other} already"),
                    number=number,
                    name=name,
                    other=owners[name],
                )
            owners[name] = number
        found[entry.label] = entry
    if not found:
        raise LabelsError(N_("no label in it"))
    return LabelPack(
        labels=tuple(found),
        aliases={name: entry.aliases for name, entry in found.items() if entry.aliases},
        parents={name: entry.parent for name, entry in found.items() if entry.parent},
    )


def _parse_line(line: str, number: int) -> _Line:
    names, *parents = _PARENT.split(line.strip())
    texts = tuple(dict.fromkeys(name.strip() for name in _ALIAS.split(names)))
    parent = parents[0].strip() if parents else ""
    if len(parents) > 1 or (parents and not parent) or not all(texts):
        raise LabelsError(
            N_("line {number}: it is not of the form: label | alias < parent"), number=number
        )
    if max(map(len, (*texts, parent))) > MAX_LABEL_CHARS:
        raise LabelsError(
            N_("line {number}: a label has at most {most} characters"),
            number=number,
            most=MAX_LABEL_CHARS,
        )
    return _Line(texts[0], texts[1:], parent)


def unique(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels given on a command line, stripped, blank ones and repetitions dropped."""
    return tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))


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
