"""Label file or texts -> LabelPack, stored once in Redis by the hash of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from worker.contract.messages import KEY_PREFIX, MessageError

if TYPE_CHECKING:
    import redis

PLACEHOLDER: Final = "{}"
MAX_LABEL_CHARS: Final = 200
# Longer than any queue should last: a pack that is gone fails every image of its job.
LABELS_TTL_S: Final = 30 * 86_400


class LabelsError(ValueError):
    """A label file, a label or a prompt template cannot be used."""


class LabelPack(msgspec.Struct, frozen=True):
    """A label set with its prompt templates; empty means the model's own.

    A template holds `{}` once, where the label goes. Several templates are averaged.
    """

    labels: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would silently tag everything alike."""
        if len(set(self.labels)) != len(self.labels):
            msg = "a label stands twice in the set"
            raise LabelsError(msg)
        for template in self.templates:
            if template.count(PLACEHOLDER) != 1:
                msg = f"template {template!r} must hold {PLACEHOLDER} exactly once"
                raise LabelsError(msg)

    @property
    def hash(self) -> str:
        """Sha256 over labels and templates, first 16 hexadecimal digits."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the labels of a label file: UTF-8, one a line, in order.

    A byte order mark, blank lines, `#` comments and repetitions are passed over.

    Raises:
        LabelsError: naming the line of a label that is too long, or if there is no label at all.
    """
    found: dict[str, None] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        label = line.strip()
        if not label or label.startswith("#"):
            continue
        if len(label) > MAX_LABEL_CHARS:
            msg = f"line {number}: a label has at most {MAX_LABEL_CHARS} characters"
            raise LabelsError(msg)
        found[label] = None
    if not found:
        msg = "no label in it"
        raise LabelsError(msg)
    return tuple(found)


def unique(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the labels given on a command line, stripped, blank ones and repetitions dropped."""
    return tuple(dict.fromkeys(label.strip() for label in labels if label.strip()))


class LabelStore:
    """Label packs in Redis, by content hash: put as often as you like, stored once."""

    def __init__(self, client: redis.Redis, ttl_s: int = LABELS_TTL_S) -> None:
        self._client = client
        self._ttl_s = ttl_s

    def put(self, pack: LabelPack) -> str:
        """Store `pack`, or make it live longer, and return its hash."""
        self._client.set(_key(pack.hash), msgspec.json.encode(pack), ex=self._ttl_s)
        return pack.hash

    def get(self, pack_hash: str) -> LabelPack:
        """Return the pack with this hash.

        Raises:
            MessageError: it is not there (expired, or Redis lost it), or is no label pack.
        """
        body = self._client.get(_key(pack_hash))
        if body is None:
            msg = f"label pack {pack_hash} is not in Redis any more; submit the job again"
            raise MessageError(msg)
        try:
            return msgspec.json.decode(bytes(body), type=LabelPack)  # type: ignore[arg-type]
        except msgspec.MsgspecError as e:
            msg = f"label pack {pack_hash}: {e}"
            raise MessageError(msg) from e


def _key(pack_hash: str) -> str:
    return f"{KEY_PREFIX}labels:{pack_hash}"
