"""How long a producer asks a Redis that is away."""

from __future__ import annotations

import pytest
import redis
from kombu.exceptions import OperationalError

from producer.backend.retry import retry


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_it_asks_until_there_is_an_answer_and_tells_of_each_failure() -> None:
    clock, told = Clock(), list[str]()
    answers = iter([redis.ConnectionError("gone"), OperationalError("gone too"), None])

    def ask() -> str:
        clock.now_s += 30
        if error := next(answers):
            raise error
        return "here"

    found = retry(ask, 600, lambda e: told.append(str(e)), now=clock.now, sleep=clock.sleep)
    assert found == "here"
    assert told == ["gone", "gone too"]


def test_its_patience_ends_with_the_last_error() -> None:
    clock, asked = Clock(), list[float]()

    def ask() -> None:
        asked.append(clock.now_s)
        clock.now_s += 30
        raise redis.TimeoutError(str(len(asked)))

    with pytest.raises(redis.TimeoutError, match="4"):
        retry(ask, 100, now=clock.now, sleep=clock.sleep)
    assert asked == [0, 31, 62, 93]


@pytest.mark.parametrize("error", [redis.ResponseError("wrong type"), ValueError()])
def test_what_no_waiting_mends_is_raised_at_once(error: Exception) -> None:
    def ask() -> None:
        raise error

    with pytest.raises(type(error)):
        retry(ask, 600, sleep=lambda _: pytest.fail("it waited"))
