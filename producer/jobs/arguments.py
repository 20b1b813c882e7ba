"""Keyword arguments of the library -> nothing, or the error that names the one that cannot be used.

The command has these limits in its options; Python checks neither names nor ranges of a TypedDict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from producer.errors import UsageError
from producer.jobs.labels import Labels
from producer.jobs.options import MOST_TAGS
from producer.jobs.tagging import Writing
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.messages import MAX_CHUNK_IMAGES, MAX_THUMBNAIL_PX, Priority

# Checked where they are read.
_ELSEWHERE: Final = frozenset({"templates", "background"})
# What a pack holds beside its labels.
_OF_PACKS: Final = ("templates", "background")


class _Label(msgspec.Struct, kw_only=True):
    top_k: Annotated[int, Meta(ge=1, le=MOST_TAGS)] = 5
    threshold: Annotated[float, Meta(ge=0, le=1)] | None = None
    calibrated: bool = False


class _Tag(_Label, kw_only=True):
    embeddings: bool = False
    thumbnail_px: Annotated[int, Meta(ge=0, le=MAX_THUMBNAIL_PX)] = 0
    blobs: bool = False
    priority: Priority = "normal"
    chunk_size: Annotated[int, Meta(ge=1, le=MAX_CHUNK_IMAGES)] | None = None


def check_tag_options(options: Mapping[str, Any]) -> None:
    """Check the keyword arguments of `tag` and `submit`.

    Raises:
        TypeError: there is no such argument.
        UsageError: a value is out of its range, or of another type.
    """
    _check(options, _Tag)


def check_label_options(options: Mapping[str, Any]) -> None:
    """Check the keyword arguments of `retag`.

    Raises:
        TypeError: there is no such argument.
        UsageError: a value is out of its range, or of another type.
    """
    _check(options, _Label)


def check_writing(writing: Writing, options: Mapping[str, Any]) -> None:
    """Check what is asked of the output of `tag`.

    Raises:
        UsageError: arguments that exclude each other, or that the format cannot do.
    """
    target = writing.output.target
    if writing.resume and writing.overwrite:
        raise UsageError(_("resume keeps the records of the file, overwrite drops them"))
    if writing.resume and not (target and (target.file or target.in_sidecars)):
        raise UsageError(_("resume continues a file: give its name as out"))
    if writing.retry_failed and not writing.resume:
        raise UsageError(_("retry_failed needs resume"))
    if writing.overwrite and not (target and target.file):
        raise UsageError(_("overwrite replaces a file: give its name as out"))
    if options.get("embeddings") and target and target.file and not target.form.embeddings:
        raise UsageError(_("embeddings need a .jsonl or .parquet file"))


def check_labels(labels: Labels, options: Mapping[str, Any]) -> None:
    """Check what is given as labels, and how they are to be scored.

    Raises:
        UsageError: it is neither a text, a path or a pack, nor texts; or options exclude it.
    """
    if labels is not None:
        _check_texts("labels", labels)
    if isinstance(labels, LabelPack):
        if given := [name for name in (*_OF_PACKS, "calibrated") if options.get(name)]:
            message = _("a LabelPack holds its own {option}")
            raise UsageError(message.format(option=given[0]))
        return
    if options.get("background") is not None and not options.get("calibrated"):
        raise UsageError(_("background needs calibrated"))
    for name in _OF_PACKS:
        if options.get(name) is not None:
            _check_texts(name, options[name])


def _check_texts(name: str, given: Any) -> None:
    """Check the type of texts; those of an iterator are looked at when they are read."""
    wrong = given
    if isinstance(given, list | tuple | set | frozenset):
        wrong = next((text for text in given if not isinstance(text, str)), "")
    if not isinstance(wrong, str | Path | LabelPack | Iterable) or isinstance(wrong, bytes):
        message = _("{option} are texts, not {type}")
        raise UsageError(message.format(option=name, type=type(wrong).__name__))


def _check(options: Mapping[str, Any], fields: type[_Label]) -> None:
    known = {field.name for field in msgspec.structs.fields(fields)} | _ELSEWHERE
    for name in options:
        if name not in known:
            msg = f"got an unexpected keyword argument {name!r}"
            raise TypeError(msg)
    values = {name: value for name, value in options.items() if name not in _ELSEWHERE}
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, fields)
        except msgspec.ValidationError as e:
            message = _("{option}={value!r} cannot be used: {reason}")
            reason = str(e).partition(" - at")[0]
            raise UsageError(message.format(option=name, value=value, reason=reason)) from e
