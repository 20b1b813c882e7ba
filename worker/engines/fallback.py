"""An engine with another behind it: what the first cannot answer, the second does from then on.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch

from worker.engines.base import Engine, Wait

log = structlog.get_logger()


class FallbackEngine:
    """Runs `first`; when that raises and the spare answers the same batch, stays with the spare.

    A batch that neither can answer fails as it would have: then the images are to blame, not the
    engine. `fallbacks` counts the changes: 0 or 1.
    """

    def __init__(self, first: Engine, load_spare: Callable[[], Engine]) -> None:
        """Take an engine that is loaded, and how to load the other when it is needed."""
        self._engine = first
        self._load_spare = load_spare
        self._spare: Engine | None = None
        self.fallbacks = 0

    @property
    def name(self) -> str:
        """The name of the engine that answers now."""
        return self._engine.name

    @property
    def device(self) -> str:
        """Where the engine that answers now runs."""
        return self._engine.device

    @property
    def pipelined(self) -> bool:
        """Whether the engine that answers now does."""
        return self._engine.pipelined

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND for uint8 pixels.

        Raises:
            Exception: whatever the first engine raised, if the spare cannot answer either.
        """
        return self.launch(pixels_NCHW)()

    def launch(self, pixels_NCHW: torch.Tensor) -> Wait:
        """Begin a batch; it may fail, and the spare be asked, now or when it is awaited.

        Raises:
            Exception: whatever the first engine raised, if the spare cannot answer either.
        """
        engine = self._engine
        try:
            wait = engine.launch(pixels_NCHW)
        except Exception as e:  # noqa: BLE001 - engines raise what they like
            rows_ND = self._from_spare(engine, pixels_NCHW, e)
            return lambda: rows_ND

        def wait_or_fall_back() -> torch.Tensor:
            try:
                return wait()
            except Exception as e:  # noqa: BLE001
                return self._from_spare(engine, pixels_NCHW, e)

        return wait_or_fall_back

    def _from_spare(
        self, engine: Engine, pixels_NCHW: torch.Tensor, error: Exception
    ) -> torch.Tensor:
        # For want of memory a second model would need even more.
        if engine is self._spare or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            raise error
        try:
            self._spare = self._spare or self._load_spare()
            rows_ND = self._spare.embed(pixels_NCHW)
        except Exception as second:  # noqa: BLE001 - the first error is the one to report
            log.debug("engine.spare_failed", error=repr(second))
            raise error from None
        # Two batches may have been under way: the second need not say it again.
        if self._engine is engine:
            self._change_to(self._spare, error)
        return rows_ND

    def _change_to(self, spare: Engine, error: Exception) -> None:
        reason = str(error).strip().rpartition("\n")[2] or repr(error)
        log.warning("engine.fallback", engine=self._engine.name, spare=spare.name, error=reason)
        self._engine = spare
        self.fallbacks += 1
