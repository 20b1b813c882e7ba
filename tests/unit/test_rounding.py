"""worker.contract.rounding: as many digits as a number needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.contract.rounding import figure
from worker.export.tracing import Deviation, TracedTower


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 0, "0"),
        (612.4, 0, "612"),
        (12.3, 0, "12"),
        (1.23, 0, "1.2"),
        (0.31, 0, "0.31"),
        (0.000_042, 0, "0.000042"),
        (612.44, 1, "612.4"),
        (0.423, 1, "0.42"),
        (float("inf"), 1, "inf"),
    ],
)
def test_a_number_has_the_digits_that_it_needs(value: float, decimals: int, text: str) -> None:
    assert figure(value, decimals) == text


def test_a_small_model_does_not_take_0_ms() -> None:
    tower = TracedTower(Path("image.pt"), "fp32", Deviation(1.0, 0.0), 3, {1: 0.423, 4: 0.0512})
    assert "images: 1 in 0.42 ms, 4 in 0.051 ms" in str(tower)
    assert tower.speed() == {"batch_1_ms": 0.42, "batch_4_ms": 0.051}
