"""Times of rounds -> figures: medians, and the rounds' ratios to the baselines with their spread.

Shapes: N images, K labels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from worker.artifact.manifest import Artifact
from worker.bench.subjects import PLAIN, WITH_TEXT, Subject
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelPack
from worker.contract.rounding import figure
from worker.labels.encoder import encoder_of

BATCHES: Final = (1, 4)
Rows = npt.NDArray[np.float32]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a subject at a batch size, or why it could not be measured.

    Times are of a call, in milliseconds; `round_ms` holds each round's median. `versus_text` and
    `versus_eager` are how many times as fast it is as the baselines: the median of the rounds'
    ratios, beside the lowest and the highest of them. `cosine` is the worst image's, `top1` the
    share of images with the same best label, both against transformers in fp32. `warm_up_ms` is
    the median of the calls with which it was loaded, for what was stopped before it was measured.
    """

    subject: str
    batch: int
    problem: str | None = None
    warm_up_ms: float | None = None
    runs: int = 0
    rounds: int = 0
    median_ms: float = 0.0
    p10_ms: float = 0.0
    p90_ms: float = 0.0
    ms_per_image: float = 0.0
    images_per_s: float = 0.0
    round_ms: tuple[float, ...] = ()
    versus_text: float | None = None
    versus_text_range: tuple[float, float] | None = None
    versus_eager: float | None = None
    versus_eager_range: tuple[float, float] | None = None
    cosine: float = 0.0
    top1: float = 0.0
    memory_mb: float = 0.0


class Measurements:
    """What has been measured so far. It may be asked for its figures at any time."""

    def __init__(self) -> None:
        self.subjects: list[Subject] = []
        self.problems: dict[str, str] = {}
        self.memory_mb: dict[str, float] = {}
        self.agreement: dict[str, tuple[float, float]] = {}
        self.warm_up_ms: dict[str, dict[int, float]] = {}
        self._rounds: dict[tuple[str, int], list[list[float]]] = {}

    def add(self, name: str, batch: int, times_ms: list[float]) -> None:
        """Take the times of a subject's calls in one round."""
        self._rounds.setdefault((name, batch), []).append(times_ms)

    @property
    def began(self) -> bool:
        """Whether anything has been measured."""
        return bool(self._rounds)

    @property
    def rounds(self) -> int:
        """How many rounds are complete: every subject that can be measured has been."""
        names = [one.name for one in self.subjects if one.name not in self.problems]
        counts = [len(self._rounds.get((name, batch), ())) for name in names for batch in BATCHES]
        return min(counts, default=0)

    def figures(self) -> list[Figure]:
        """Return the figures in the table's order."""
        return [self._figure(one.name, batch) for one in self.subjects for batch in BATCHES]

    def _figure(self, name: str, batch: int) -> Figure:
        rounds = self._rounds.get((name, batch))
        if problem := self.problems.get(name):
            return Figure(subject=name, batch=batch, problem=problem)
        if not rounds:
            return self._stopped(name, batch)
        calls_ms = [ms for one in rounds for ms in one]
        middle_ms = median(calls_ms)
        text = ratios(self._rounds.get((WITH_TEXT, batch), ()), rounds)
        plain = ratios(self._rounds.get((PLAIN, batch), ()), rounds)
        cosine, top1 = self.agreement.get(name, (0.0, 0.0))
        return Figure(
            subject=name,
            batch=batch,
            runs=len(calls_ms),
            rounds=len(rounds),
            median_ms=middle_ms,
            p10_ms=float(np.percentile(calls_ms, 10)),
            p90_ms=float(np.percentile(calls_ms, 90)),
            ms_per_image=middle_ms / batch,
            images_per_s=1000 * batch / middle_ms,
            round_ms=tuple(map(median, rounds)),
            versus_text=median(text) if text else None,
            versus_text_range=(min(text), max(text)) if text else None,
            versus_eager=median(plain) if plain else None,
            versus_eager_range=(min(plain), max(plain)) if plain else None,
            cosine=cosine,
            top1=top1,
            memory_mb=self.memory_mb.get(name, 0.0),
        )

    def _stopped(self, name: str, batch: int) -> Figure:
        """Return what is known of a subject that was not come to: it may have run already."""
        if name not in self.warm_up_ms:
            problem = _("stopped before it was loaded")
            return Figure(subject=name, batch=batch, problem=problem)
        warm_up_ms = self.warm_up_ms[name][batch]
        problem = _("stopped before it was measured; warming up, a call took {ms} ms")
        return Figure(
            subject=name,
            batch=batch,
            problem=problem.format(ms=figure(warm_up_ms, 1)),
            warm_up_ms=warm_up_ms,
        )


def ratios(baseline: Sequence[list[float]], rounds: Sequence[list[float]]) -> list[float]:
    """Return how many times as fast as the baseline it was in each round that both have had."""
    pairs = zip(baseline, rounds, strict=False)
    return [median(theirs) / median(ours) for theirs, ours in pairs]


def agreement(
    rows: dict[str, Rows], artifact: Artifact, labels: tuple[str, ...]
) -> dict[str, tuple[float, float]]:
    """Return each subject's worst cosine to transformers, and how often the best label is one."""
    if PLAIN not in rows:
        return {}
    if artifact.manifest.kind == "zero-shot":
        texts_KD = encoder_of(artifact, "cpu").encode(LabelPack(labels=labels)).matrix_KD
    else:
        texts_KD = np.eye(rows[PLAIN].shape[1], dtype=np.float32)
    wanted = rows[PLAIN].astype(np.float64)
    best = (rows[PLAIN] @ texts_KD.T).argmax(axis=1)
    found = {}
    for name, one in rows.items():
        given = one.astype(np.float64)
        lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((given * wanted).sum(axis=1) / lengths).min())
        found[name] = (cosine, float(((one @ texts_KD.T).argmax(axis=1) == best).mean()))
    return found
