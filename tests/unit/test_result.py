"""Outcome and readings -> result."""

from __future__ import annotations

from worker.contract.messages import Failure, ImageRef, Tag, Timing
from worker.pipeline.result import emit

REF = ImageRef("/图.jpg", blob="wanwu:blob:x")


def test_tags_make_a_result_without_error() -> None:
    result = emit(REF, (Tag("猫", 0.9),), {"decode_ms": 1.5}, batch_size=4)
    assert (result.path, result.tags, result.error) == ("/图.jpg", (Tag("猫", 0.9),), None)
    assert (result.timing, result.batch_size) == (Timing(decode_ms=1.5), 4)


def test_a_failure_makes_a_result_without_tags() -> None:
    failure = Failure("truncated", "decode", "cut off")
    result = emit(REF, failure, {"read_ms": 0.25})
    assert (result.tags, result.error, result.batch_size) == ((), failure, None)


def test_no_tag_above_the_threshold_is_no_failure() -> None:
    assert emit(REF, (), {}).error is None


def test_a_stage_that_was_not_reached_has_no_time() -> None:
    assert emit(REF, (), {"read_ms": 1.0}).timing.infer_ms is None


def test_times_are_rounded_and_never_negative() -> None:
    timing = emit(REF, (), {"queue_ms": -3.0, "total_ms": 1.23456}).timing
    assert (timing.queue_ms, timing.total_ms) == (0.0, 1.235)
