"""A model's directory -> what is wrong with its files, before a library tries to read them.

What libraries say of a half file, or of a file that is missing, seldom says what to do.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from transformers import CONFIG_MAPPING

from worker.artifact.model_names import CONFIG, OPEN_CLIP
from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import open_regular, read_regular
from worker.errors import ExportError
from worker.model.side_files import (
    CODE_REFUSED,
    MOST_BYTES,
    PROCESSOR_FILES,
    check_side_files,
    read_object,
)

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_SAFETENSORS: Final = ("model.safetensors", "model-*.safetensors")
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model-*.bin")
_INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# In the order in which transformers looks for them; nothing else of a repository is for it.
WEIGHTS: Final = (_SAFETENSORS, _PICKLES)
# A safetensors file begins with the length of its header, little-endian.
_LENGTH_BYTES: Final = 8
# Those of SigLIP 2 that take one resolution are of the type siglip.
_ANY_SIZE: Final = "siglip2"
_ZIP: Final = b"PK\x03\x04"


def check_files(directory: Path, name: str) -> None:
    """Refuse files that transformers could not use, or would ask a person about.

    Raises:
        ExportError: one sentence that names the file and the way out.
    """
    for file in sorted(directory.iterdir()):
        if file.is_file():
            _check_pointer(file)
    config = _config(directory, name)
    _check_code(config, name)
    _check_classes(config)
    check_side_files(directory, name)
    weights = next((found for found in (_there(directory, kind) for kind in WEIGHTS) if found), [])
    if not weights:
        raise ExportError(
            N_("model {name!r} holds no weights: {first} or {second}"),
            name=name,
            first=_SAFETENSORS[0],
            second=_PICKLES[0],
        )
    _check_shards(directory)
    for file in weights:
        _check_whole(file)


def check_processor(directory: Path, name: str) -> None:
    """Refuse a model that does not say how its images are prepared."""
    if not any((directory / file).exists() for file in PROCESSOR_FILES):
        raise ExportError(
            N_(
                "model {name!r} has no {file}, which says how its images are prepared: copy it "
                "from where the model comes from"
            ),
            name=name,
            file=PROCESSOR_FILES[0],
        )


def _there(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(directory.glob(pattern))]


def _check_pointer(file: Path) -> None:
    with file.open("rb") as stream:
        is_pointer = stream.read(len(_POINTER)) == _POINTER
    if is_pointer:
        raise ExportError(
            N_(
                "{file} is only a pointer of Git LFS: get the file itself with `git lfs pull`, or "
                "download it"
            ),
            file=file.name,
        )


def _config(directory: Path, name: str) -> Mapping[str, Any]:
    try:
        return read_object(directory / CONFIG)
    except FileNotFoundError as e:
        if (directory / OPEN_CLIP).exists():
            raise ExportError(
                N_(
                    "model {name!r} is in the form of open_clip: use its form for transformers, "
                    "which has a {file}"
                ),
                name=name,
                file=CONFIG,
            ) from e
        raise ExportError(
            N_("model {name!r} holds no {file}: is this the directory of the model?"),
            name=name,
            file=CONFIG,
        ) from e


def _check_code(config: Mapping[str, Any], name: str) -> None:
    """Refuse code that comes with a model, and types that are not known: nobody is asked."""
    kind = config.get("model_type")
    if kind == _ANY_SIZE:
        raise ExportError(
            N_(
                "model {name!r} takes images of any shape in patches (NaFlex), which is not known "
                "here: use a SigLIP 2 of fixed resolution, such as google/siglip2-base-patch16-224"
            ),
            name=name,
        )
    if kind in CONFIG_MAPPING or (kind is None and "architecture" in config):
        return
    if config.get("auto_map"):
        raise ExportError(CODE_REFUSED, name=name)
    raise ExportError(
        N_("model {name!r} is of a type that this transformers does not know: {kind}"),
        name=name,
        kind=kind or Message(N_("its config.json has no model_type")),
    )


def _check_classes(config: Mapping[str, Any]) -> None:
    names = config.get("id2label")
    if names is None:
        return
    keys = list(names) if isinstance(names, dict) else [names]
    if wrong := [key for key in keys if not (isinstance(key, str) and key.strip().isdecimal())]:
        raise ExportError(
            N_("id2label in config.json has {key!r} for a class: number the classes from 0"),
            key=str(wrong[0])[:40],
        )
    for key, value in names.items():
        if not isinstance(value, str | int | float):
            raise ExportError(
                N_("id2label in config.json calls class {key} {value}: names are texts"),
                key=key,
                value=json.dumps(value)[:40],
            )


def _check_shards(directory: Path) -> None:
    """Refuse weights in several files of which one is missing."""
    for index in (directory / name for name in _INDEXES):
        if not index.exists() or any((directory / files[0]).exists() for files in WEIGHTS):
            continue
        try:
            named = set(json.loads(read_regular(index, MOST_BYTES))["weight_map"].values())
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as e:
            raise ExportError(
                N_("{file} is no list of files: get it again"), file=index.name
            ) from e
        if missing := sorted(name for name in map(str, named) if not (directory / name).exists()):
            raise ExportError(
                N_("{missing} is missing, one of the files that {file} lists: get it, too"),
                missing=missing[0],
                file=index.name,
            )


def _check_whole(file: Path) -> None:
    """Refuse a file of which the end is missing, as after a download that broke off."""
    size = file.stat().st_size
    wanted = _size_of(file) if file.suffix == ".safetensors" else None
    with open_regular(file) as stream:
        is_cut_zip = stream.read(len(_ZIP)) == _ZIP and not zipfile.is_zipfile(file)
    if size == 0 or is_cut_zip or (wanted or 0) > size:
        raise ExportError(
            N_("{file} is only a part of the file, {size:,} bytes: download it again"),
            file=file.name,
            size=size,
        )


def _size_of(file: Path) -> int | None:
    """Return how long a safetensors file says that it is; None if it says nothing of sense."""
    with open_regular(file) as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if length > MOST_BYTES:
            return None
        header = stream.read(length)
    if len(header) < length:
        return _LENGTH_BYTES + length
    try:
        tensors = json.loads(header)
        ends = [one["data_offsets"][1] for key, one in tensors.items() if key != "__metadata__"]
        return _LENGTH_BYTES + length + int(max(ends, default=0))
    except (ValueError, LookupError, AttributeError, TypeError):
        return None
