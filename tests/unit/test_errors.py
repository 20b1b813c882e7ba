"""The tree tells the truth about itself."""

from __future__ import annotations

import inspect
import typing

import pytest

from worker import errors
from worker.contract.messages import Failure, Stage

IMAGE_ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.ImageError) and kind is not errors.ImageError
]
MADE_WITH: dict[type[errors.ImageError], tuple[object, ...]] = {
    errors.TooLargeError: (10, 5),
    errors.TooManyPixelsError: ((20, 30), 5),
    errors.TooComplexError: (20, 10, "scans"),
    errors.CancelledError: ("20261123-181502-5f3a9c",),
    errors.DecodeTimeoutError: (20,),
    errors.FetchTimeoutError: (30,),
    errors.ReportedError: (Failure("not_found", "read", "gone"),),
}


def made(kind: type[errors.ImageError]) -> errors.ImageError:
    return kind(*MADE_WITH.get(kind, ()))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", IMAGE_ERRORS)
def test_every_image_error_becomes_a_failure_with_code_stage_and_sentence(
    kind: type[errors.ImageError],
) -> None:
    failure = made(kind).failure()
    assert failure.code.replace("_", "").isalpha()
    assert failure.stage in typing.get_args(Stage)
    assert failure.message == str(made(kind))
    assert len(failure.message) > 3


def test_no_two_errors_share_a_code_and_a_stage() -> None:
    codes = [(kind.code, kind.stage) for kind in IMAGE_ERRORS]
    assert sorted(codes) == sorted(set(codes))


def test_the_docstring_draws_every_error_with_its_code() -> None:
    tree = inspect.getdoc(errors) or ""
    for kind in IMAGE_ERRORS:
        assert kind.__name__ in tree
        assert kind is errors.ReportedError or kind.code in tree


def test_what_the_producer_reported_is_passed_on_as_it_came() -> None:
    reported = Failure("unreadable", "read", "permission denied on the laptop")
    assert errors.ReportedError(reported).failure() is reported


def test_limits_are_named_with_the_size_that_broke_them() -> None:
    assert "20 x 30" in str(errors.TooManyPixelsError((20, 30), 500))
    assert "1,000" in str(errors.TooLargeError(1000, 999))
