"""A module on CUDA: pinned copies, one graph per batch size, two batches under way.

At batch 4 a GPU is done with the few hundred kernels of a ViT-B/16 sooner than they are launched
one by one; a CUDA graph launches all at once. A size is captured when it has run often enough
for TorchScript to have compiled it, which is while the worker warms up.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, NamedTuple, Protocol

import structlog
import torch
from torch import Tensor

from worker.engines.base import Wait

# TorchScript measures a size on its first run and compiles it on the second.
RUNS_BEFORE_CAPTURE: Final = 2
# Beyond, kernels take longer than their launch, and every graph holds memory.
LARGEST_GRAPH: Final = 16
SLOTS: Final = 2

log = structlog.get_logger()


class Graph(NamedTuple):
    """A captured run: it reads `input`, writes `output`, and is launched by `replay`."""

    input_NCHW: Tensor
    output_ND: Tensor
    replay: Callable[[], None]


class Card(Protocol):
    """What is needed of CUDA. Everything goes to one stream, so that its order is the calls'."""

    def stream(self) -> AbstractContextManager[object]:
        """Return a context whose calls go to the stream."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory of the host that the device copies from and to on its own."""

    def upload(self, pinned: Tensor) -> Tensor:
        """Return a copy on the device, which may still be under way."""

    def mark(self) -> Callable[[], None]:
        """Return what waits until all that was launched so far is done."""

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Record what `run` launches; return its output and what launches it again.

        Raises:
            RuntimeError: it does something that cannot be recorded.
        """


class TransferSlot:
    """Pinned memory of one batch under way."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._pixels: Tensor | None = None
        self._rows: Tensor | None = None
        self._batch = 0
        self._done: Callable[[], None] = lambda: None

    def stage(self, batch: int, pixels_NCHW: Tensor) -> Tensor:
        """Copy the pixels of the batch with that number here, once the last one has left."""
        self._done()
        self._batch = batch
        self._pixels = self._fitting(self._pixels, pixels_NCHW)
        return self._pixels[: len(pixels_NCHW)].copy_(pixels_NCHW)

    def fetch(self, rows_ND: Tensor) -> Wait:
        """Let the device copy the rows here; return what waits for them."""
        batch, size = self._batch, len(rows_ND)
        self._rows = kept_ND = self._fitting(self._rows, rows_ND)
        kept_ND[:size].copy_(rows_ND, non_blocking=True)
        self._done = done = self._card.mark()

        def wait() -> Tensor:
            done()
            if self._batch != batch:
                msg = f"batch {batch} was awaited after {SLOTS} others had been launched"
                raise RuntimeError(msg)
            return kept_ND[:size].clone()

        return wait

    def _fitting(self, memory: Tensor | None, wanted: Tensor) -> Tensor:
        if memory is not None and len(memory) >= len(wanted):
            return memory
        return self._card.pinned(tuple(wanted.shape), wanted.dtype)


class CudaRunner:
    """Runs `module`, which takes uint8 NCHW on the device and returns ND there."""

    def __init__(self, module: Callable[[Tensor], Tensor], card: Card) -> None:
        self._module = module
        self._card = card
        self._slots = [TransferSlot(card) for _ in range(SLOTS)]
        self._launched = 0
        self._runs: Counter[int] = Counter()
        self._graphs: dict[int, Graph] = {}
        self._captures = True

    def launch(self, pixels_NCHW: Tensor) -> Wait:
        """Begin a batch; what is returned waits for its embeddings, on the CPU."""
        self._launched += 1
        slot = self._slots[self._launched % SLOTS]
        with torch.inference_mode(), self._card.stream():
            return slot.fetch(self._run(slot.stage(self._launched, pixels_NCHW)))

    def _run(self, pinned_NCHW: Tensor) -> Tensor:
        size = len(pinned_NCHW)
        if graph := self._graphs.get(size):
            graph.input_NCHW.copy_(pinned_NCHW, non_blocking=True)
            graph.replay()
            return graph.output_ND
        rows_ND = self._module(self._card.upload(pinned_NCHW))
        self._runs[size] += 1
        if self._captures and size <= LARGEST_GRAPH and self._runs[size] >= RUNS_BEFORE_CAPTURE:
            self._capture(pinned_NCHW)
        return rows_ND

    def _capture(self, pinned_NCHW: Tensor) -> None:
        size, input_NCHW = len(pinned_NCHW), self._card.upload(pinned_NCHW)
        try:
            output_ND, replay = self._card.capture(lambda: self._module(input_NCHW))
        except RuntimeError as e:
            # Without graphs it is slower, and right.
            self._captures = False
            log.warning("cuda.no_graphs", batch=size, error=str(e).strip().partition("\n")[0])
            return
        self._graphs[size] = Graph(input_NCHW, output_ND, replay)


class CudaCard:
    """A GPU, through torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None

    def stream(self) -> AbstractContextManager[object]:
        """Return a context whose calls go to this card's own stream."""
        contexts = ExitStack()
        contexts.enter_context(torch.cuda.device(self._device))
        contexts.enter_context(torch.cuda.stream(self._stream))
        return contexts

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return page-locked memory."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, pinned: Tensor) -> Tensor:
        """Return a copy on the device; the host does not wait for it."""
        return pinned.to(self._device, non_blocking=True)

    def mark(self) -> Callable[[], None]:
        """Record an event; who waits for it sleeps, since decode threads need the cores."""
        event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        wait: Callable[[], None] = event.synchronize
        return wait

    def capture(self, run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        """Capture a graph; all share one pool, for they never run at the same time."""
        graph = torch.cuda.CUDAGraph()
        # Task threads embed labels on the same GPU meanwhile: theirs must not be recorded.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            output = run()
        self._pool = self._pool or graph.pool()
        return output, graph.replay
