"""A worker's pace and the spread of its times, with clocks that the test moves."""

from __future__ import annotations

import pytest

from worker.contract.messages import Failure, ImageResult, Timing
from worker.pipeline.stats import BOUNDS_S, REMEMBERED, Figures, Pace


class Hands:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_the_pace_is_that_of_the_last_ten_seconds() -> None:
    clock = Hands()
    pace = Pace(clock)
    assert pace.per_s == 0
    # The first chunk after a pause: nobody can say yet that it took less than a second.
    pace.add(8)
    assert pace.per_s == 8
    for _ in range(39):
        clock.s += 0.5
        pace.add(8)
    assert pace.per_s == pytest.approx(16, rel=0.1)
    # A second later half as fast.
    for _ in range(20):
        clock.s += 1
        pace.add(8)
    assert pace.per_s == pytest.approx(8, rel=0.1)
    clock.s += 10.1
    assert pace.per_s == 0


def test_times_are_counted_below_the_bounds_that_they_do_not_exceed() -> None:
    figures = Figures(lambda: 7.0)
    bad = Failure("empty_file", "read", "")
    figures.add(
        [
            ImageResult(path="/a", timing=Timing(read_ms=1.0, infer_ms=7_200_000.0)),
            ImageResult(path="/b", timing=Timing(read_ms=1.1), error=bad),
        ]
    )
    counts, sum_s = figures.stages()["read"]
    assert (counts[0], counts[1], sum(counts)) == (1, 1, 2)
    assert sum_s == pytest.approx(0.0021)
    counts, _ = figures.stages()["infer"]
    assert counts == [0] * len(BOUNDS_S) + [1]
    assert figures.codes() == {"": 1, "empty_file": 1}
    assert (figures.images, figures.failed, figures.last_at_s) == (2, 1, 7.0)


def test_percentiles_are_those_of_the_latest_images() -> None:
    figures = Figures()
    assert figures.percentiles_ms() == {}
    figures.add([ImageResult(path="/first", timing=Timing(read_ms=3.0))])
    assert figures.percentiles_ms() == {"read": {"p50": 3.0, "p90": 3.0, "p99": 3.0}}
    times = range(1, REMEMBERED + 1)
    figures.add([ImageResult(path="/a", timing=Timing(infer_ms=float(ms))) for ms in times])
    (found,) = figures.percentiles_ms().values()
    assert found == pytest.approx({"p50": 500.5, "p90": 900.1, "p99": 990.01})


def test_percentiles_of_equal_times_are_that_time() -> None:
    for us in range(300):
        figures = Figures()
        figures.add([ImageResult(path="/a", timing=Timing(read_ms=us / 1000))] * 2)
        assert set(figures.percentiles_ms()["read"].values()) == {us / 1000}


def test_codes_that_producers_make_up_are_counted_together_beyond_a_number() -> None:
    figures = Figures()
    for number in range(100):
        figures.add([ImageResult(path="a", error=Failure(f"made-up-{number}", "read", "x"))])
    codes = figures.codes()
    assert len(codes) <= 65
    assert codes["other"] >= 35
    assert figures.failed == figures.images == 100
