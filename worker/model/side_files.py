"""What lies beside a model's weights, for its images and texts -> what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import transformers

from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import read_regular
from worker.contract.reasons import os_reason
from worker.errors import ExportError

CODE_REFUSED: Final = N_(
    "model {name!r} comes with Python code of its own, which is never run here: use a "
    "model of a type that transformers knows by itself"
)
PROCESSOR_FILES: Final = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Those of large models have tens of thousands of labels.
MOST_BYTES: Final = 64 * 1024 * 1024
_MOST_TOKENIZER_BYTES: Final = 512 * 1024 * 1024


class _Named(NamedTuple):
    """Where a file names a class: its own code under `auto`, or one of transformers by `name`."""

    auto: str
    name: str


_CLASSES: Final = {
    PROCESSOR_FILES[0]: _Named("AutoImageProcessor", "image_processor_type"),
    TOKENIZER_FILES[1]: _Named("AutoTokenizer", "tokenizer_class"),
}


def check_side_files(directory: Path, name: str) -> None:
    """Refuse files that are no JSON objects, and code that comes with a model.

    Raises:
        ExportError: one sentence that names the file or the model.
    """
    for file in (*PROCESSOR_FILES, *TOKENIZER_FILES):
        if (directory / file).exists():
            found = read_object(directory / file)
            if _needs_code(found, _CLASSES.get(file)):
                raise ExportError(CODE_REFUSED, name=name)


def read_object(file: Path) -> Mapping[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        FileNotFoundError: it is not there.
        ExportError: it cannot be read, or is none.
    """
    most = _MOST_TOKENIZER_BYTES if file.name in TOKENIZER_FILES else MOST_BYTES
    try:
        found = json.loads(read_regular(file, most))
    except FileNotFoundError:
        raise
    except OSError as e:
        raise ExportError(
            N_("{file} cannot be read: {reason}"), file=file.name, reason=os_reason(e)
        ) from e
    except (ValueError, RecursionError) as e:
        raise ExportError(N_("{file} is no JSON: {reason}"), file=file.name, reason=e) from e
    if not isinstance(found, dict):
        raise ExportError(N_("{file} holds no JSON object: get it again"), file=file.name)
    return found


def _needs_code(found: Mapping[str, Any], place: _Named | None) -> bool:
    """Whether a file names code of its own where transformers has none."""
    own = found.get("auto_map")
    if place is None or not isinstance(own, dict) or place.auto not in own:
        return False
    known = found.get(place.name)
    if known is None:
        # The type of the model decides, and that is known.
        return False
    # What made pixels of images was called so once, and transformers still reads it.
    today = str(known).replace("FeatureExtractor", "ImageProcessor")
    return not hasattr(transformers, today)
