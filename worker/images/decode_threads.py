"""Decoding on threads of the worker: for systems where it cannot be done in processes.

A decode that hangs holds its thread for good, and what one needs is taken from the worker's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from worker.budget import WeightedSemaphore
from worker.images.decode import set_up
from worker.images.decoder import Attempt, DecodeConfig, DecodeRequest, DecoderFigures, Done
from worker.images.read_file import Original, read_file


class DecodeThreads:
    """The threads that read and decode."""

    def __init__(self, config: DecodeConfig) -> None:
        self._config = config
        # As much as the largest image alone, however many threads decode.
        self._semaphore = WeightedSemaphore(config.max_pixels)
        self._threads = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        # An urgent image does not wait for what the other threads have to do.
        self._urgent_thread = ThreadPoolExecutor(1, thread_name_prefix="decode-urgent")

    kind: Final = "threads"
    figures: Final = DecoderFigures()
    died: Final = False

    def launch(self) -> None:
        """Do nothing: nothing has to be loaded."""

    def start(self) -> None:
        """Prepare Pillow; the threads start when there is work."""
        set_up(self._config.max_pixels)

    def stop(self) -> None:
        """Decode what was submitted, and end the threads; harmless when done twice."""
        self._threads.shutdown(wait=True)
        self._urgent_thread.shutdown(wait=True)

    def submit(self, requests: Sequence[DecodeRequest], *, urgent: bool = False) -> None:
        """Let images be decoded; each request's `on_done` is called, from a thread."""
        threads = self._urgent_thread if urgent else self._threads
        for request in requests:
            threads.submit(self._decode, request)

    def _decode(self, request: DecodeRequest) -> None:
        attempt = Attempt(self._config, self._semaphore)
        pixels_CHW, error = None, None
        try:
            pixels_CHW = attempt.run(lambda: self._read(request), request.thumbnail_px)
        except BaseException as e:  # noqa: BLE001 - the pipeline tells them apart
            error = e
        found = (attempt.stamp, attempt.thumbnail, attempt.read_ms, attempt.decode_ms)
        request.on_done(Done(request, pixels_CHW, error, *found))

    def _read(self, request: DecodeRequest) -> Original:
        if not request.path:
            return Original(request.data, None)
        config = self._config
        return read_file(request.path, request.part, config.roots, config.max_file_bytes)
