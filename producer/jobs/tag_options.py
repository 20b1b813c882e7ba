"""What a caller of the library says of a job -> the request for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

from producer.errors import NoImagesError, NoSuchPathError, UsageError
from producer.jobs.arguments import check_labels, check_tag_options
from producer.jobs.labels import Labels, label_pack
from producer.jobs.options import JobOptions, JobRequest, request_of
from producer.sources.scan import STANDARD_INPUT, Image, absolute, check
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack, least_score
from worker.contract.messages import Priority

Path = str | os.PathLike[str]
Images = Path | Iterable[Path]


class LabelOptions(TypedDict, total=False):
    """How labels are scored, as keyword arguments; each may be left out.

    Attributes:
        templates: Prompts with `{}` for the label, several of which are averaged; by default the
            model's own.
        top_k: Tags an image, at most; 5.
        threshold: Lowest score of a tag, 0 to 1; by default 0, or 0.5 if `calibrated`. Sidecars
            have no tags below 0.5 unless one is given.
        calibrated: Score each label by itself, against `background`: an image may have several
            labels, or none.
        background: Words for all else that images may show; by default the model's labels.
    """

    templates: str | Iterable[str]
    top_k: int
    threshold: float | None
    calibrated: bool
    background: Labels


class TagOptions(LabelOptions, total=False):
    """How images are tagged and sent, as keyword arguments; each may be left out.

    Attributes:
        embeddings: Keep each image's embedding in its record.
        thumbnail_px: Keep a small JPEG of each image in its record, no side longer than that; 0 is
            none.
        blobs: Send the images' bytes, for workers that do not see the files.
        chunk_size: Images a message; by default 8, growing to 64 in a job of many.
        priority: Share of the workers beside other jobs: "low" a quarter of "normal", "high" four
            times as much.
    """

    embeddings: bool
    thumbnail_px: int
    blobs: bool
    chunk_size: int | None
    priority: Priority


def pack_of(labels: Labels, options: LabelOptions) -> LabelPack:
    """Return the label set; empty for the model's own.

    Raises:
        LabelsError: labels or templates cannot be used.
    """
    if isinstance(labels, LabelPack):
        return labels
    return label_pack(
        labels,
        templates=options.get("templates", ()),
        calibrated=options.get("calibrated", False),
        background=options.get("background"),
    )


def threshold_of(labels: Labels, options: LabelOptions) -> float:
    """Return the lowest score of a tag."""
    of_pack = isinstance(labels, LabelPack) and labels.calibrated
    calibrated = of_pack or options.get("calibrated", False)
    return least_score(options.get("threshold"), calibrated=calibrated)


def request_for(paths: tuple[str, ...], labels: Labels, options: TagOptions) -> JobRequest:
    """Return the request to tag these paths.

    Raises:
        LabelsError: labels or templates cannot be used.
        UsageError: another argument cannot be used.
        TypeError: there is no such argument.
    """
    check_tag_options(options)
    check_labels(labels, options)
    how = JobOptions(
        top_k=options.get("top_k", 5),
        threshold=threshold_of(labels, options),
        embeddings=options.get("embeddings", False),
        thumbnail_px=options.get("thumbnail_px", 0),
        chunk_size=options.get("chunk_size"),
        as_blobs=options.get("blobs", False),
        priority=options.get("priority", "normal"),
    )
    return request_of(paths, pack_of(labels, options), how)


def paths_of(images: Images) -> tuple[tuple[str, ...], Iterator[Image] | None]:
    """Return paths, patterns and URLs to look through; of an iterator, its images themselves.

    Raises:
        NoImagesError: there are none.
        NoSuchPathError: one leads nowhere.
        StoreError: a store cannot be reached from here.
    """
    if isinstance(images, (str, os.PathLike)):
        images = (images,)
    given: object = images
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise _no_path(given)
    if not isinstance(images, (Sequence, set, frozenset)):
        # What they are is known only as they come: as with a list on standard input.
        return (STANDARD_INPUT,), (absolute(_name(image)) for image in images)
    paths = tuple(_name(image) for image in images)
    if not paths:
        raise NoImagesError(_("no images are given: the list of paths is empty"))
    if STANDARD_INPUT in paths:
        # A library leaves the standard input alone.
        paths = tuple(f"./{path}" if path == STANDARD_INPUT else path for path in paths)
    check(paths)
    return paths, None


def _name(image: object) -> str:
    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise _no_path(image)
    if not name:
        raise NoSuchPathError(_("the name of a path is empty"))
    return name


def _no_path(given: object) -> UsageError:
    message = _("images are paths or URLs, not {type}")
    return UsageError(message.format(type=type(given).__name__))
