"""An engine with another behind it: what the first cannot answer, the second does from then on.

Shapes: N images, C colour channels, H height, W width, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch

from worker.engines.base import Engine

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

    def embed(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Return unit embeddings ND for uint8 pixels.

        Raises:
            Exception: whatever the first engine raised, if the spare cannot answer either.
        """
        try:
            return self._engine.embed(pixels_NCHW)
        except (torch.OutOfMemoryError, MemoryError):
            # A second model would need even more.
            raise
        except Exception as e:
            if self._engine is self._spare:
                raise
            return self._fall_back(pixels_NCHW, e)

    def _fall_back(self, pixels_NCHW: torch.Tensor, error: Exception) -> torch.Tensor:
        try:
            self._spare = self._spare or self._load_spare()
            rows_ND = self._spare.embed(pixels_NCHW)
        except Exception as second:  # noqa: BLE001 - the first error is the one to report
            log.debug("engine.spare_failed", error=repr(second))
            raise error from None
        reason = str(error).strip().rpartition("\n")[2] or repr(error)
        log.warning(
            "engine.fallback", engine=self._engine.name, spare=self._spare.name, error=reason
        )
        self._engine = self._spare
        self.fallbacks += 1
        return rows_ND
