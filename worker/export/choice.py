"""Precisions of a tower, the nearest to the model first -> the fastest that agrees with it."""

from __future__ import annotations

from typing import Any, Final

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_
from worker.engines.base import Engine
from worker.errors import ExportError
from worker.export.paired import Ratio, times_as_fast
from worker.export.second_engine import Trial, open_file
from worker.export.tracing import TracedTower
from worker.export.variant import Variant

# Who is faster by less is not: on a GPU fp16 and bf16 cost the same.
_WORTH_LESS_PRECISION: Final = 1.05
_BATCH: Final = 4


class Choice:
    """Holds the best precision so far; another must agree, and be faster in turns with it."""

    def __init__(self, trial: Trial, engine: str) -> None:
        self._trial = trial
        self._engine = engine
        self._best: tuple[TracedTower, Variant, Engine] | None = None
        self._last: TracedTower | None = None
        self._ratios: dict[str, Ratio] = {}

    def add(self, variant: Variant) -> None:
        """Make a precision's file and say what was found; keep it if it is better.

        Raises:
            ExportError: it cannot be exported or run.
        """
        found = self._last = self._trial.make(self._engine, variant)
        echo = self._trial.echo
        echo(str(found))
        if not found.agrees:
            return
        device = self._trial.images_NCHW.device
        engine = open_file(self._engine, found.file, device, found.precision)
        if self._best is None:
            self._best = (found, variant, engine)
            return
        slower, _variant, other = self._best
        ratio = times_as_fast(other, engine, self._trial.images_NCHW[:_BATCH].to("cpu"))
        self._ratios[f"{found.precision}_to_{slower.precision}"] = ratio
        echo(_said(found, slower, ratio))
        # In one round of nine the machine may have been busy with something else.
        if ratio.middle >= _WORTH_LESS_PRECISION:
            self._best = (found, variant, engine)

    def best(self) -> tuple[TracedTower, Variant]:
        """Return the best precision's file and what it was made of.

        Raises:
            ExportError: none agrees with the model.
        """
        if self._best is None:
            raise ExportError(
                N_("the exported image tower does not agree with the model: {trial}"),
                trial=self._last,
            )
        if self._ratios:
            kept = self._best[0].precision
            self._trial.echo(_("{precision} is taken").format(precision=kept))
        return self._best[:2]

    def speed(self) -> dict[str, Any]:
        """Return the manifest's entries: how many times as fast, by both precisions."""
        return {name: [round(one, 3) for one in ratio] for name, ratio in self._ratios.items()}


def _said(found: TracedTower, slower: TracedTower, ratio: Ratio) -> str:
    """Return a line for a person."""
    line = _("{precision}: {times:.2f} times as fast as {other} ({low:.2f} to {high:.2f})").format(
        precision=found.precision,
        times=ratio.middle,
        other=slower.precision,
        low=ratio.lowest,
        high=ratio.highest,
    )
    if found.judgement is None or not found.judgement.decided:
        return line
    share = found.judgement.same / found.judgement.decided
    return line + ", " + _("{share:.1%} same first label").format(share=share)
