"""worker.contract.number_types: numbers within limits, and sentences for what is none."""

from __future__ import annotations

from typing import Any

import click
import pytest

from worker.contract.i18n import in_language
from worker.contract.number_types import Number, Whole

CASES = (
    (Whole(min=1), "1.5", "a whole number from 1 up", "不小于 1 的整数"),
    (Whole(1, 9), "10", "a whole number from 1 to 9", "从 1 到 9 的整数"),
    (Number(min=0), "inf", "a number from 0 up", "不小于 0 的数"),
    (Number(0, 1), "nan", "a number from 0 to 1", "从 0 到 1 的数"),
    (Number(0, min_open=True), "0", "a number above 0", "大于 0 的数"),
    (
        Number(0.9, 1.0, max_open=True),
        "abc",
        "a number from 0.9 to less than 1",
        "不小于 0.9 且小于 1 的数",
    ),
)


def refusal(kind: click.ParamType[Any], text: str) -> str:
    with pytest.raises(click.BadParameter) as e:
        kind.convert(text, None, None)
    return e.value.message


@pytest.mark.parametrize(("kind", "text", "english", "chinese"), CASES)
def test_what_is_no_number_is_refused_in_a_sentence(
    kind: click.ParamType[Any], text: str, english: str, chinese: str
) -> None:
    assert refusal(kind, text) == f"'{text}' is not {english}"
    with in_language("zh"):
        assert refusal(kind, text) == f"需要{chinese}，而不是 '{text}'"


def test_a_number_within_the_limits_is_taken() -> None:
    assert Whole(1, 9).convert("9", None, None) == 9
    assert Number(0.9, 1.0, max_open=True).convert("0.95", None, None) == 0.95
