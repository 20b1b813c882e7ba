"""worker.contract.redis.retry: how long whoever needs Redis tries again."""

from __future__ import annotations

import copy

import pytest
import redis
from kombu.exceptions import OperationalError

from worker.contract.redis.retry import RetryPolicy


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s


def policy(clock: Clock, timeout_s: float) -> RetryPolicy:
    return RetryPolicy(timeout_s, pause_s=0, now=clock.now)


def test_it_asks_until_there_is_an_answer_and_reports_each_failure() -> None:
    clock, heard = Clock(), list[str]()
    answers = iter([redis.ConnectionError("gone"), OperationalError("gone too"), None])

    def ask() -> str:
        clock.now_s += 30
        if error := next(answers):
            raise error
        return "here"

    assert policy(clock, 600).call(ask, lambda e: heard.append(str(e))) == "here"
    assert heard == ["gone", "gone too"]


def test_when_its_time_is_over_the_last_error_is_raised() -> None:
    clock, asked = Clock(), list[float]()

    def ask() -> None:
        asked.append(clock.now_s)
        clock.now_s += 30
        raise redis.TimeoutError(str(len(asked)))

    with pytest.raises(redis.TimeoutError, match="4"):
        policy(clock, 100).call(ask)
    assert asked == [0, 30, 60, 90]


def test_each_call_has_the_whole_time() -> None:
    clock = Clock()
    patient = copy.deepcopy(policy(clock, 100))  # as the pools of redis-py do
    clock.now_s = 1000
    answers = iter([redis.ConnectionError("gone"), None])

    def ask() -> None:
        if error := next(answers):
            raise error

    patient.call(ask)


@pytest.mark.parametrize("error", [redis.ResponseError("wrong type"), ValueError()])
def test_what_no_waiting_mends_is_raised_at_once(error: Exception) -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(type(error)):
        RetryPolicy(600).call(ask, lambda _: pytest.fail("it was tried again"))
    assert asked == [1]


def test_without_a_time_it_tries_so_often() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise redis.ConnectionError

    with pytest.raises(redis.ConnectionError):
        RetryPolicy(retries=2).call(ask)
    assert len(asked) == 3
