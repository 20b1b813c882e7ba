"""Settings -> what decodes: processes where the system can, else threads of the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import structlog

from worker.artifact.manifest import Manifest
from worker.contract.settings import Settings
from worker.errors import DecoderStartError
from worker.images.decode_threads import DecodeThreads
from worker.images.decoder import DecodeConfig, Decoder, DecodeRequest, DecoderFigures
from worker.images.isolated.pool import DecodePool

log = structlog.get_logger()


def open_decoder(settings: Settings, manifest: Manifest, on_death: Callable[[], None]) -> Decoder:
    """Return what decodes, not yet started. `on_death` is called if it can do so no more."""
    config = DecodeConfig(
        preprocessing=manifest.preprocessing,
        roots=tuple(os.fsencode(root) for root in settings.image_roots),
        formats=settings.image_formats,
        max_file_bytes=settings.max_file_bytes,
        max_pixels=settings.max_pixels,
        jpeg_max_side=settings.jpeg_max_side,
        fast=manifest.decodes_fast(settings.decode),
        decoders=settings.decoders,
        memory_bytes=settings.decode_memory,
    )
    if settings.decoder == "threads" or sys.platform != "linux":
        return DecodeThreads(config)
    pool = DecodePool(config, settings.decode_deadline_s, on_death)
    return pool if settings.decoder == "processes" else _WithFallback(pool, DecodeThreads(config))


class _WithFallback:
    """What decodes in processes or, if none can be started, as in some sandboxes, on threads."""

    def __init__(self, pool: DecodePool, threads: DecodeThreads) -> None:
        self._decoder: Decoder = pool
        self._threads = threads

    @property
    def kind(self) -> str:
        """`processes` or `threads`."""
        return self._decoder.kind

    @property
    def figures(self) -> DecoderFigures:
        """What happened to the processes."""
        return self._decoder.figures

    @property
    def died(self) -> bool:
        """Whether nothing can be decoded any more."""
        return self._decoder.died

    def launch(self) -> None:
        """Begin to load what is needed, in the background."""
        self._decoder.launch()

    def start(self) -> None:
        """Wait until images can be decoded."""
        try:
            self._decoder.start()
        except DecoderStartError as e:
            log.warning("decoder.threads", reason=str(e))
            self._decoder.stop()
            self._decoder = self._threads
            self._decoder.start()

    def stop(self) -> None:
        """Decode what was submitted, then end; harmless when done twice."""
        self._decoder.stop()

    def submit(self, requests: Sequence[DecodeRequest], *, urgent: bool = False) -> None:
        """Let images be decoded. Those that are urgent do not wait for others."""
        self._decoder.submit(requests, urgent=urgent)
