"""worker.export.fast_decode: whether a model sees the same after fast decoding."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.artifact.manifest import Preprocessing
from worker.export.fast_decode import agreement
from worker.export.synthetic import photographs
from worker.images.decode import Pixels

SPEC = Preprocessing(height=64, width=64)
Rows = npt.NDArray[np.float32]


def colours(pixels_CHW: Sequence[Pixels]) -> Rows:
    """What a model sees that looks at colours: their means in a grid."""
    cells = [one.reshape(3, 8, 8, 8, 8).mean((2, 4)).ravel() for one in pixels_CHW]
    return np.stack(cells).astype(np.float32)


def last_bits(pixels_CHW: Sequence[Pixels]) -> Rows:
    """What a model sees that looks at nothing but the last bit of each value."""
    return np.stack([one.ravel() % 2 * 2.0 - 1.0 for one in pixels_CHW]).astype(np.float32)


def test_a_model_that_sees_colours_may_decode_fast() -> None:
    found = agreement(colours, SPEC)
    assert found.holds
    assert 0.999 < found.worst <= found.mean < 1
    assert found.parity() == {
        "fast_decode_mean_cosine": found.mean,
        "fast_decode_min_cosine": found.worst,
    }


def test_a_model_that_sees_what_fast_decoding_changes_may_not() -> None:
    found = agreement(last_bits, SPEC)
    assert not found.holds
    assert found.mean < 0.9
    assert "too far" in str(found)


def test_one_bad_photograph_is_enough_to_refuse() -> None:
    def moody(pixels_CHW: Sequence[Pixels]) -> Rows:
        return (last_bits if pixels_CHW[0].mean() < 60 else colours)(pixels_CHW)

    buffer = BytesIO()
    with Image.open(BytesIO(photographs()[0])) as image:
        image.point(lambda value: value // 4).save(buffer, "JPEG")
    found = agreement(moody, SPEC, [*photographs(), buffer.getvalue()])
    assert found.worst < 0.9
    assert not found.holds


def test_the_photographs_are_of_camera_size_and_always_the_same() -> None:
    for data in photographs():
        with Image.open(BytesIO(data)) as image:
            assert 3.8e6 < image.width * image.height < 4.2e6
    assert photographs() is photographs()
