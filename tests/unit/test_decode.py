"""Bytes -> pixels: real files of every kind, and hostile ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from bomb_parts import LONG, SHORT, grey_tags, tiff
from hypothesis import given
from hypothesis import strategies as st
from images import encoded, huge_png, picture
from PIL import Image, ImageCms, ImageFile, ImageOps, PngImagePlugin

from worker.artifact.manifest import Preprocessing
from worker.budget import WeightedSemaphore
from worker.contract.settings import IMAGE_FORMATS, MORE_FORMATS
from worker.errors import (
    BrokenImageError,
    ImageError,
    NotAnImageError,
    TooManyPixelsError,
    TruncatedError,
)
from worker.images import decode as stage
from worker.images.decode import decode

LIMIT = 200_000_000
# A type of TIFF.
ASCII = 2
ALL_FORMATS = (*IMAGE_FORMATS, *MORE_FORMATS)
SQUASH = Preprocessing(height=32, width=48)
PAIR = Preprocessing(height=1, width=2)
CUT = Preprocessing(height=32, width=32, resize="shortest_edge")


@pytest.fixture(autouse=True)
def pillow() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    stage.set_up(LIMIT)
    yield
    Image.MAX_IMAGE_PIXELS = before


def seen(data: bytes, spec: Preprocessing = SQUASH, *, fast: bool = False) -> npt.NDArray[np.uint8]:
    """Return the pixels as HWC."""
    pixels_CHW = decode(data, spec, max_pixels=LIMIT, formats=ALL_FORMATS, fast=fast)
    return pixels_CHW.transpose(1, 2, 0)


def plainly(image: Image.Image, size: tuple[int, int] = (48, 32)) -> npt.NDArray[np.uint8]:
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))


def close(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> bool:
    """Whether no value differs by more than a grey level, and few by that: rounding differs."""
    off = np.abs(one.astype(int) - other)
    return bool(off.max() <= 1 and off.mean() < 0.2)


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def png(width: int, bits: int, colour: int, row: bytes, before: bytes = b"") -> bytes:
    """Return a PNG of one row, of a kind that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour, 0, 0, 0)
    data = zlib.compress(b"\0" + row)
    chunks = _chunk(b"IHDR", header) + before + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_pixels_are_uint8_channels_first_and_contiguous() -> None:
    pixels_CHW = decode(encoded(picture(1)), SQUASH, max_pixels=LIMIT)
    assert pixels_CHW.shape == (3, 32, 48)
    assert pixels_CHW.dtype == np.uint8
    assert pixels_CHW.flags.c_contiguous


@pytest.mark.parametrize(
    "kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "JPEG2000", "PPM", "TGA", "QOI", "MPO"]
)
def test_an_opaque_image_equals_convert_and_resize_to_one_grey_level(kind: str) -> None:
    data = encoded(picture(2, (301, 207)), kind)
    assert close(seen(data), plainly(reopened(data)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_opaque_modes_equal_convert_and_resize_too(mode: str) -> None:
    data = encoded(picture(3, (120, 90)).convert(mode), "TIFF")
    assert reopened(data).mode == mode
    assert close(seen(data), plainly(reopened(data)))


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos"])
def test_the_interpolation_is_the_one_asked_for(name: str) -> None:
    data = encoded(picture(4, (120, 90)), "PNG")
    spec = Preprocessing(height=32, width=48, interpolation=name)  # type: ignore[arg-type]
    expected = reopened(data).resize((48, 32), Image.Resampling[name.upper()])
    assert close(seen(data, spec), np.asarray(expected))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_as_its_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(5, (120, 90)), kind, exif=exif)
    upright = ImageOps.exif_transpose(reopened(data))
    assert close(seen(data), plainly(upright))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff"]
)
def test_a_bad_exif_block_does_not_cost_the_image(exif: bytes) -> None:
    data = encoded(picture(6), "JPEG", exif=exif)
    assert close(seen(data), plainly(reopened(data)))


@pytest.mark.parametrize("place", [0, 1, 7, 1000, 2**32 - 1])
def test_a_place_of_exif_that_leads_astray_does_not_cost_a_tiff(place: int) -> None:
    pixels = random.Random(1).randbytes(400 * 300)
    strip = [(273, LONG, 1, 8), (278, LONG, 1, 300), (279, LONG, 1, len(pixels))]
    for tag in (34_665, 34_853):
        tags = grey_tags(400, 300) + strip + [(tag, LONG, 1, place)]
        assert close(seen(tiff(tags, pixels)), plainly(reopened(tiff(tags[:-1], pixels))))


@pytest.mark.parametrize("kind", [ASCII, SHORT])
def test_xmp_of_an_odd_type_does_not_cost_a_tiff(kind: int) -> None:
    tags = [*grey_tags(64, 64), (273, LONG, 1, 8), (278, LONG, 1, 64), (279, LONG, 1, 4096)]
    assert seen(tiff([*tags, (700, kind, 8, 8)], b"x" * 4096)).shape[2] == 3


def test_what_is_transparent_lies_on_white() -> None:
    half_red = Image.new("RGBA", (9, 9), (255, 0, 0, 128))
    assert seen(encoded(half_red, "PNG"))[0, 0].tolist() == [255, 127, 127]
    nothing = Image.new("LA", (9, 9), (0, 0))
    assert seen(encoded(nothing, "PNG"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("transparency", [0, b"\0\xff"])
def test_a_palette_may_be_transparent_by_index_or_by_table(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    data = encoded(image, "PNG", transparency=transparency)
    assert seen(data, PAIR).tolist() == [[[255] * 3, [40, 50, 60]]]


def test_one_colour_may_be_transparent_in_an_image_without_alpha() -> None:
    key = _chunk(b"tRNS", struct.pack(">H", 0))
    assert seen(png(2, 8, 0, bytes([0, 99]), key), PAIR).tolist() == [[[255] * 3, [99] * 3]]


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    data = png(2, 16, 0, struct.pack(">2H", 65535, 0x8000))
    assert seen(data, PAIR).tolist() == [[[255] * 3, [128] * 3]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_byte_order_does_not_matter_to_sixteen_bits(mode: str) -> None:
    order = ">" if mode.endswith("B") else "<"
    image = Image.frombytes(mode, (2, 1), struct.pack(f"{order}2H", 65535, 0x4000))
    assert seen(encoded(image, "TIFF"), PAIR).tolist() == [[[255] * 3, [64] * 3]]


def test_sixteen_bits_of_colour_keep_their_upper_half() -> None:
    data = png(2, 16, 2, struct.pack(">6H", 65535, 0, 0x8000, 0, 256, 255))
    assert seen(data, PAIR).tolist() == [[[255, 0, 128], [0, 1, 0]]]


@pytest.mark.parametrize(
    ("values", "greys"),
    [
        ([0.0, 1.0], [0, 255]),
        ([0.0, 200.0], [0, 200]),
        ([0.0, 65535.0], [0, 255]),
        ([-5.0, 5.0], [0, 255]),
        ([1e6, 2e6], [0, 255]),
        ([float("nan"), 1.0], [0, 255]),
        ([float("inf"), 0.5], [255, 128]),
        ([float("nan"), float("nan")], [0, 0]),
        ([7e9, 7e9], [0, 0]),
    ],
)
def test_floats_are_scaled_by_the_range_they_use(values: list[float], greys: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert seen(data, PAIR)[0, :, 0].tolist() == greys


def test_whole_numbers_of_32_bits_are_scaled_too() -> None:
    data = encoded(Image.fromarray(np.array([[0, 65535]], np.int32)), "TIFF")
    assert seen(data, PAIR)[0, :, 0].tolist() == [0, 255]


def test_lab_is_converted_to_what_the_eye_would_see() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(picture(7), srgb, lab, outputMode="LAB")
    assert image is not None
    off = seen(encoded(image, "TIFF")).astype(int) - plainly(picture(7))
    assert np.abs(off).mean() < 3


@pytest.mark.parametrize("profile", [b"no profile", "rgb"])
def test_a_useless_profile_leaves_cmyk_to_pillow(profile: bytes | str) -> None:
    if profile == "rgb":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(picture(8).convert("CMYK"), "JPEG", icc_profile=profile)
    assert close(seen(data), plainly(reopened(data)))


def test_ink_is_dark_in_adobe_jpegs_as_well() -> None:
    black = Image.new("CMYK", (8, 8), (0, 0, 0, 255))
    assert seen(encoded(black, "JPEG")).max() < 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_many_frames_the_first_is_taken(kind: str) -> None:
    first, second = Image.new("RGB", (48, 32), "red"), Image.new("RGB", (48, 32), "blue")
    data = encoded(first, kind, save_all=True, append_images=[second])
    assert seen(data)[16, 24].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("size", [(860, 600), (600, 860), (64, 64), (64, 200), (50, 30), (31, 32)])
def test_the_cut_equals_resizing_by_the_shortest_edge_and_cropping(size: tuple[int, int]) -> None:
    image = picture(9, size)
    short, side = min(size), 32
    scaled = (side * size[0] // short, side * size[1] // short)
    whole = image.resize(scaled, Image.Resampling.BICUBIC)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    expected = np.asarray(whole.crop((left, top, left + side, top + side))).astype(int)
    assert np.abs(seen(encoded(image, "PNG"), CUT) - expected).max() <= 1


def test_the_cut_of_a_thread_thin_image_stays_small() -> None:
    data = encoded(picture(1, (1, 30_000)), "PNG")
    assert seen(data, CUT).shape == (32, 32, 3)


def test_the_cut_suits_a_frame_that_is_not_square() -> None:
    wide = Preprocessing(height=10, width=40, resize="shortest_edge")
    image = Image.new("RGB", (40, 40), "red")
    image.paste("blue", (0, 15, 40, 25))
    assert (seen(encoded(image, "PNG"), wide) == [0, 0, 255]).all()


def test_fast_mode_is_close_to_exact() -> None:
    data = encoded(picture(10, (1200, 800)), "JPEG", quality=95)
    off = np.abs(seen(data, fast=True).astype(int) - seen(data))
    assert 0 < off.mean() < 2


def test_fast_mode_decodes_a_large_jpeg_at_a_fraction_of_its_size() -> None:
    with reopened(encoded(picture(11, (1600, 1200)))) as image:
        stage._draft(image, SQUASH)
        assert image.size == (200, 150)


def test_fast_mode_does_not_enlarge_what_it_reduced() -> None:
    with reopened(encoded(picture(11, (100, 80)))) as image:
        stage._draft(image, SQUASH)
        assert image.size == (100, 80)


@pytest.mark.parametrize(
    "data",
    [b"this is a letter, not a picture\n" * 40, b"a", b"\0" * 500, b"%!PS-Adobe-3.0 EPSF-3.0\n",
     b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"PK\x03\x04" + b"x" * 200],
)  # fmt: skip
def test_what_is_no_image_is_called_so(data: bytes) -> None:
    with pytest.raises(NotAnImageError):
        seen(data)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM"])
def test_an_image_cut_off_is_truncated(kind: str, share: float) -> None:
    data = encoded(picture(12, (200, 150)), kind)
    with pytest.raises(TruncatedError):
        seen(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF"])
def test_a_signature_alone_is_a_damaged_or_truncated_image(kind: str) -> None:
    with pytest.raises((BrokenImageError, TruncatedError)):
        seen(encoded(picture(13), kind)[:9])


def test_a_damaged_header_is_told_from_no_image_at_all() -> None:
    data = bytearray(encoded(picture(13), "PNG"))
    data[12:16] = b"XXXX"
    with pytest.raises(BrokenImageError, match="it begins like PNG"):
        seen(bytes(data))


def test_a_text_that_inflates_without_end_is_told_from_a_damaged_header() -> None:
    text, body = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_text("Comment", "x" * 2_000_000, zip=True)
    picture(1).save(body, "PNG", pnginfo=text)
    with pytest.raises(BrokenImageError, match="inflates to more"):
        decode(body.getvalue(), SQUASH, max_pixels=LIMIT)


def test_a_picture_of_a_telephone_is_called_by_its_name() -> None:
    with pytest.raises(NotAnImageError, match="HEIC"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", SQUASH, max_pixels=LIMIT)


def test_a_format_that_is_off_says_how_to_add_it() -> None:
    with pytest.raises(NotAnImageError, match=r"WANWU_IMAGE_FORMATS=\+SLOW"):
        decode(b"P3\n1 1\n255\n1 2 3\n", SQUASH, max_pixels=LIMIT)


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    header = huge_png(1, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 20_000, 20_000), 1)
    # The checksum must fit, or the header would be refused for another reason.
    body = header[12:29]
    data = header[:29] + struct.pack(">I", zlib.crc32(body)) + header[33:]
    with pytest.raises(TooManyPixelsError, match=r"20000 x 20000 .* 200,000,000"):
        seen(data)


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(picture(1, (50, 40)), "PNG")
    assert decode(data, SQUASH, max_pixels=2000).shape == (3, 32, 48)
    with pytest.raises(TooManyPixelsError):
        decode(data, SQUASH, max_pixels=1999)


def test_an_icon_cannot_hide_a_huge_png() -> None:
    inner = huge_png(3000, 2000)
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    stage.set_up(1_000_000)
    with pytest.raises(TooManyPixelsError):
        decode(icon, SQUASH, max_pixels=1_000_000)


def test_a_warning_of_pillow_is_no_error() -> None:
    inner = encoded(picture(1, (20, 20)), "PNG")
    icon = struct.pack("<3H4B2H2I", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    assert seen(icon).shape == (32, 48, 3)  # "Image was not the expected size"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "ICO", "JPEG2000"])
def test_whatever_is_changed_in_a_file_it_is_decoded_or_refused(kind: str) -> None:
    intact = encoded(picture(14, (40, 30)), kind)
    refused_by = set[str]()

    @given(st.lists(st.tuples(st.integers(0, len(intact) - 1), st.integers(0, 255)), max_size=6))
    def check(changes: list[tuple[int, int]]) -> None:
        data = bytearray(intact)
        for place, value in changes:
            data[place] = value
        try:
            pixels_CHW = decode(bytes(data), SQUASH, max_pixels=1_000_000)
        except ImageError as e:
            refused_by.add(e.stage)
        else:
            assert pixels_CHW.shape == (3, 32, 48)

    check()
    assert refused_by <= {"decode"}


@pytest.mark.parametrize(
    ("size", "decoded"), [((400, 100), (400, 100)), ((402, 100), (201, 50)), ((1700, 60), (213, 8))]
)
def test_a_long_jpeg_is_scaled_down_while_it_is_decoded(
    size: tuple[int, int], decoded: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def spy(image: Any) -> Any:
        loaded = load(image)
        seen.append(image.size)
        return loaded

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    data = encoded(picture(3, size))
    assert decode(data, SQUASH, max_pixels=LIMIT, jpeg_max_side=400).shape == (3, 32, 48)
    assert seen[0] == decoded
    seen.clear()
    decode(data, SQUASH, max_pixels=LIMIT)
    assert seen[0] == size


def acquired(data: bytes, **options: Any) -> list[int]:
    """Return how many pixels are acquired while an image is decoded."""
    amounts: list[int] = []

    class Spy(WeightedSemaphore):
        @contextmanager
        def acquire(self, amount: int) -> Iterator[None]:
            amounts.append(amount)
            with super().acquire(amount):
                yield

    decode(data, SQUASH, max_pixels=LIMIT, semaphore=Spy(LIMIT), **options)
    return amounts


def test_pixels_in_memory_are_acquired_from_the_semaphore() -> None:
    assert acquired(encoded(picture(3, (60, 40)))) == [2400]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_of_many_scans_is_in_memory_whole_however_small_it_becomes(
    progressive: bool,
) -> None:
    data = encoded(picture(3, (800, 600)), progressive=progressive)
    small, whole = 400 * 300, 800 * 600
    assert acquired(data, jpeg_max_side=400) == [small + progressive * whole // 2]
