"""How the images of a job are tagged and sent, for all who begin one: command, library, HTTP."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from worker.contract.labels import LabelPack
from worker.contract.messages import Priority

# More than any label set has labels.
MOST_TAGS: Final = 100_000


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How each image of a job is to be tagged and sent.

    `labels` is the hash of a label pack in Redis, or None for the model's own. Without a
    `chunk_size`, chunks grow with the job. With `as_blobs` the images' bytes are sent. By its
    `priority`, the job has a smaller or larger share of the workers than others.
    """

    labels: str | None = None
    top_k: int = 5
    threshold: float = 0.0
    embeddings: bool = False
    thumbnail_px: int = 0
    chunk_size: int | None = None
    as_blobs: bool = False
    priority: Priority = "normal"


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be tagged, by which labels and how; `about` stands for `paths`, if there is one.

    The hash of the labels in `options` is that of `pack`: make one with `request_of`.
    """

    paths: tuple[str, ...]
    pack: LabelPack
    options: JobOptions
    about: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Where the images are, as far as that is known."""
        return (self.about,) if self.about else self.paths


def request_of(
    paths: tuple[str, ...], pack: LabelPack, options: JobOptions, *, about: str = ""
) -> JobRequest:
    """Return the request to tag these paths by the labels of `pack`."""
    labels = pack.hash if pack != LabelPack() else None
    options = msgspec.structs.replace(options, labels=labels)
    return JobRequest(paths=paths, pack=pack, options=options, about=about)


class TagSource(NamedTuple):
    """What makes tags: the model, and the hash of the labels (None: the model's own)."""

    model: str
    labels: str | None
