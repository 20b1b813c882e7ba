"""What decodes: a request -> pixels or an error, on threads or in processes of their own.

Shapes: C colour channels (red, green, blue), H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from worker.artifact.manifest import Preprocessing
from worker.contract.messages import Part, Stamp
from worker.errors import EmptyFileError
from worker.images.decode import Pixels, Semaphore, decode
from worker.images.read_file import Original
from worker.images.thumbnail import thumbnail


class DecodeConfig(msgspec.Struct, frozen=True):
    """What holds for all images. `roots` are the directories that files may be read from.

    `decoders` images are decoded at once; each may take `memory_bytes`, in a process of its own.
    """

    preprocessing: Preprocessing
    roots: tuple[bytes, ...]
    formats: tuple[str, ...]
    max_file_bytes: int
    max_pixels: int
    jpeg_max_side: int
    fast: bool
    decoders: int
    memory_bytes: int


class DecodeRequest:
    """An image to decode: a file by its path, or bytes; `on_done` is called once, by any thread."""

    __slots__ = (
        *("crashes", "data", "handle", "is_urgent", "locks", "on_done", "part", "path"),
        *("put_back_at_s", "size_bytes", "thumbnail_px"),
    )

    def __init__(
        self,
        on_done: Callable[[Done], None],
        *,
        path: bytes = b"",
        data: bytes = b"",
        part: Part | None = None,
        thumbnail_px: int = 0,
    ) -> None:
        self.on_done: Final = on_done
        self.path: Final = path
        self.data = data
        self.part: Final = part
        self.thumbnail_px: Final = thumbnail_px
        self.is_urgent = False
        # For `isolated`: where the data lies outside this process; how many pixel locks it needs,
        # if it was put back for their sake, and when; how many processes have ended with it in
        # hand.
        self.size_bytes: Final = len(data)
        self.handle = -1
        self.locks = 0
        self.put_back_at_s = 0.0
        self.crashes = 0


class Done(NamedTuple):
    """A request with the image's pixels, uint8 CHW, or the error that it ended with.

    Stamp, thumbnail and times are what was found out until then; times in milliseconds, None for
    what was not begun.
    """

    request: DecodeRequest
    pixels_CHW: Pixels | None = None
    error: BaseException | None = None
    stamp: Stamp | None = None
    thumbnail: str | None = None
    read_ms: float | None = None
    decode_ms: float | None = None


class DecoderFigures(NamedTuple):
    """What happened to decode processes since the start."""

    # Images that took longer than the deadline.
    timeouts: int = 0
    # Processes that ended on their own, or were ended from outside.
    crashes: int = 0


class Decoder(Protocol):
    """What decodes images, several at once. Any thread may submit."""

    @property
    def kind(self) -> str:
        """`processes` or `threads`."""

    @property
    def figures(self) -> DecoderFigures:
        """What happened to the processes."""

    @property
    def died(self) -> bool:
        """Whether nothing can be decoded any more."""

    def launch(self) -> None:
        """Begin to load what is needed, in the background."""

    def start(self) -> None:
        """Wait until images can be decoded."""

    def stop(self) -> None:
        """Decode what was submitted, then end; harmless when done twice."""

    def submit(self, requests: Sequence[DecodeRequest], *, urgent: bool = False) -> None:
        """Let images be decoded. Those that are urgent do not wait for others."""


class Attempt:
    """Reads and decodes one image; what was found out until an error is kept."""

    __slots__ = ("config", "decode_ms", "read_ms", "semaphore", "stamp", "thumbnail")

    def __init__(self, config: DecodeConfig, semaphore: Semaphore) -> None:
        self.config: Final = config
        self.semaphore: Final = semaphore
        self.stamp: Stamp | None = None
        self.thumbnail: str | None = None
        self.read_ms: float | None = None
        self.decode_ms: float | None = None

    def run(self, read: Callable[[], Original], thumbnail_px: int) -> Pixels:
        """Return the pixels of what is read.

        Raises:
            ImageError: of stage `read` or `decode`.
        """
        data = self._read(read)
        began_s = time.perf_counter()
        try:
            return self._decode(data, thumbnail_px)
        finally:
            self.decode_ms = 1000 * (time.perf_counter() - began_s)

    def _read(self, read: Callable[[], Original]) -> bytes:
        began_s = time.perf_counter()
        try:
            data, self.stamp = read()
        finally:
            self.read_ms = 1000 * (time.perf_counter() - began_s)
        if not data:
            raise EmptyFileError
        return data

    def _decode(self, data: bytes, thumbnail_px: int) -> Pixels:
        def look(whole: Pixels) -> None:
            if thumbnail_px:
                self.thumbnail = thumbnail(whole, thumbnail_px)

        config = self.config
        return decode(
            data,
            config.preprocessing,
            max_pixels=config.max_pixels,
            formats=config.formats,
            fast=config.fast,
            jpeg_max_side=config.jpeg_max_side,
            semaphore=self.semaphore,
            look=look,
        )
