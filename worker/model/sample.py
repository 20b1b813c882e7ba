"""Pictures that a precision is calibrated on, and others that it is judged by.

Shapes: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.artifact.manifest import Preprocessing
from worker.contract.failure_sentences import image_sentence
from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.contract.local.files import read_regular
from worker.contract.reasons import os_reason
from worker.errors import ExportError, ImageError
from worker.images.decode import Pixels, decode
from worker.images.resize import fit

_SHIPPED: Final = Path(__file__).with_name("natural")
# Enough for bounds of channels, and some seconds of a large model's time.
_MOST: Final = 32
_LEAST: Final = 8
# So many that cannot be read are named one by one.
_NAMED: Final = 5
_MAX_PIXELS: Final = 200_000_000
_MAX_BYTES: Final = 64 * 1024 * 1024
# How much of a picture's sides a cut of it has.
_CUT: Final = 0.6
Echo = Callable[[str], None]


class Sample(NamedTuple):
    """Pixels uint8 NCHW: those to calibrate on, and others to judge by, each in three views."""

    calibrated_on: Tensor
    judged_by: Tensor


def sample(spec: Preprocessing, directory: Path | None, echo: Echo = lambda _: None) -> Sample:
    """Return pictures below a directory, or those that come with the program.

    Of many some dozens, spread evenly over the names; half of them for either purpose.

    Raises:
        ExportError: there are too few that can be decoded.
    """
    pictures = _decoded(directory or _SHIPPED, spec, echo)
    if len(pictures) < _LEAST:
        raise ExportError(
            N_("{directory} has {count} pictures that can be decoded; at least {least} are needed"),
            directory=directory,
            count=len(pictures),
            least=_LEAST,
        )
    views = [view for picture in pictures[1::2] for view in _views(picture, spec)]
    return Sample(_stacked(pictures[::2]), _stacked(views))


def batches_of(pixels_NCHW: Tensor, size: int = 4) -> list[Tensor]:
    """Return them in batches of a size that a worker has."""
    return [pixels_NCHW[start : start + size] for start in range(0, len(pixels_NCHW), size)]


def _decoded(directory: Path, spec: Preprocessing, echo: Echo) -> list[Pixels]:
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    if directory == _SHIPPED:
        files = [file for file in files if file.suffix == ".jpg"]
    step = max(1, len(files) // _MOST)
    # Evenly spread ones first, then the rest, should many of the first be no pictures.
    wanted = [*files[::step], *(file for place, file in enumerate(files) if place % step)]
    found: list[Pixels] = []
    for pixels in _read(wanted, spec, echo):
        found.append(pixels)
        if len(found) == _MOST:
            break
    return found


def _read(files: Sequence[Path], spec: Preprocessing, echo: Echo) -> Iterator[Pixels]:
    passed_over = 0
    for file in files:
        try:
            yield decode(read_regular(file, _MAX_BYTES), spec, max_pixels=_MAX_PIXELS)
        except (ImageError, OSError) as e:
            passed_over += 1
            if passed_over <= _NAMED:
                reason = os_reason(e) if isinstance(e, OSError) else image_sentence(e.code, str(e))
                echo(_("{file} is passed over: {reason}").format(file=file, reason=reason))
    if passed_over > _NAMED:
        echo(_("and {count} more are passed over").format(count=passed_over - _NAMED))


def _views(picture: Pixels, spec: Preprocessing) -> Iterator[Pixels]:
    """Yield a picture CHW as it is, mirrored, and its middle."""
    yield picture
    yield picture[:, :, ::-1].copy()
    _C, height, width = picture.shape
    top, left = int(height * (1 - _CUT) / 2), int(width * (1 - _CUT) / 2)
    middle = picture[:, top : height - top, left : width - left]
    yield fit(middle.transpose(1, 2, 0).copy(), spec)


def _stacked(pictures: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(pictures))
