"""A batch on the CPU -> parts side by side, each on its share of the threads.

Layers of few bits are so short that threads which share one wait for each other for a tenth of the
time. With an image or two to itself, a thread never waits. Rejected: parts of uneven size, of which
the largest would be waited for.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from math import gcd

import torch

from worker.budget import WeightedSemaphore
from worker.engines.base import Wait

Run = Callable[[torch.Tensor], torch.Tensor]


class Streams:
    """A function from pixels NCHW to rows ND that may be called from several threads at once."""

    def __init__(self, run: Run, threads: int) -> None:
        """Divide `threads` among the parts of each batch; the first such batch starts them."""
        self._run = run
        self._threads = threads
        self._free = WeightedSemaphore(threads)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="stream")

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Begin a batch; what is returned gives the rows of all images, in their order.

        It raises whatever a part raises, when no part of the batch runs any more. A thread that is
        done with its part begins with one of the next batch.
        """
        # So every part has the same number of images, and of threads.
        parts = gcd(len(pixels_NCHW), self._threads)
        if parts == 1:
            rows_ND = self._part(self._threads, pixels_NCHW)
            return lambda: rows_ND
        part = partial(self._part, self._threads // parts)
        futures = [self._pool.submit(part, images) for images in pixels_NCHW.chunk(parts)]
        return partial(self._joined, futures)

    def _joined(self, futures: list[Future[torch.Tensor]]) -> torch.Tensor:
        wait(futures)
        # What a thread sets is also what threads to come begin with.
        torch.set_num_threads(self._threads)
        return torch.cat([one.result() for one in futures])

    def _part(self, threads: int, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        # Of two batches under way no more parts run than there are threads for.
        with self._free.acquire(threads):
            # Which torch keeps for each thread that calls it.
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            return self._run(pixels_NCHW)
