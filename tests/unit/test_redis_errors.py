"""worker.contract.redis.errors and secret: what passes, and what is never shown."""

from __future__ import annotations

import copy
import traceback

import msgspec
import pytest
import redis
from kombu.exceptions import OperationalError
from redis._parsers.base import BaseParser

from worker.contract.redis.errors import code_of, passes, reason_of
from worker.contract.secret import Secret, SecretUrl
from worker.contract.settings import Settings

# As servers of several versions say it.
PASSING = [
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist.",
    "LOADING Redis is loading the dataset in memory",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOPERM User worker has no permissions to run the 'blmove' command",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "READONLY You can't write against a read only replica. script: 54b4, on @user_script:3.",
    "ERR Error running script (call to f_54b4): @user_script:3: @user_script: 3: -READONLY You can",
    "ERR Error running script (call to f_54b4): @user_script:3: @user_script: 3: -OOM command not",
    "ERR ACL failure in script: User x has no permissions to run the 'unlink' command script: 5",
    "ERR The user executing the script can't run this command or subcommand script: 54b4",
    "ERR max number of clients reached",
    # As redis-py tells it of a pipeline.
    "Command # 1 (SET wanwu:blob:1 ...) of pipeline caused error: MISCONF Redis is configured to",
]
STAYING = [
    "ERR unknown command 'BLMOVE', with args beginning with: 'tag'",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOSCRIPT No matching script. Please use EVAL.",
    "ERR syntax error",
    "ERR wrong number of arguments for 'blmove' command",
    "CROSSSLOT Keys in request don't hash to the same slot",
]


def error_of(reply: str) -> Exception:
    error: Exception = BaseParser.parse_error(reply)  # type: ignore[no-untyped-call]
    return error


@pytest.mark.parametrize("reply", PASSING)
def test_what_ends_by_itself_passes(reply: str) -> None:
    assert passes(error_of(reply))


@pytest.mark.parametrize("reply", STAYING)
def test_what_no_waiting_mends_does_not_pass(reply: str) -> None:
    assert not passes(error_of(reply))


def test_a_redis_that_is_away_passes_also_in_the_words_of_kombu() -> None:
    assert passes(redis.ConnectionError("gone"))
    assert passes(redis.TimeoutError("late"))
    for cause, expected in ((redis.ConnectionError("gone"), True), (ValueError("odd"), False)):
        error = OperationalError(str(cause))
        error.__cause__ = cause
        assert passes(error) is expected
    assert not passes(ValueError("odd"))


def test_the_code_is_found_wherever_redis_puts_it() -> None:
    assert [code_of(error_of(reply)) for reply in (PASSING[0], PASSING[12], PASSING[14])] == [
        "READONLY",
        "READONLY",
        "NOPERM",
    ]


def test_a_reason_is_one_line_with_the_code_and_without_what_would_have_been_written() -> None:
    error = redis.exceptions.OutOfMemoryError(
        "Command # 1 (SET wanwu:blob:1 \xff\xd8\xff(bytes)) of pipeline caused error: not allowed",
        status_code="OOM",
    )
    assert reason_of(error) == "OOM not allowed"
    assert reason_of(redis.ConnectionError("first.\nsecond")) == "first"
    assert reason_of(redis.TimeoutError()) == "TimeoutError"
    assert len(reason_of(redis.ResponseError("x" * 10_000))) <= 300


def test_a_secret_is_shown_by_nothing_but_reveal() -> None:
    key, url = Secret("geheim"), SecretUrl("redis://me:geheim@host:6379/0")
    text = "".join(traceback.format_exception(ValueError(key, url)))
    for secret in (key, url):
        text += f"{secret} {secret!r} {secret!s} {secret:>40} {[secret]} {copy.copy(secret)}"
        text += "%s %r" % (secret, secret)  # noqa: UP031 - another way to print
    assert "geheim" not in text
    assert "redis://***:***@host:6379/0" in text
    assert key.reveal() == "geheim"
    assert url.reveal() == "redis://me:geheim@host:6379/0"


def test_no_secret_of_the_settings_is_printed_or_encoded() -> None:
    variables = {
        "WANWU_BROKER_URL": "redis://:geheim@host/0",
        "WANWU_RESULT_URL": "rediss://:geheim@host/1",
        "WANWU_API_KEY": "geheim",
    }
    settings = Settings.from_env(variables)
    assert "geheim" not in f"{settings} {settings!r} {msgspec.structs.asdict(settings)}"
    with pytest.raises(TypeError):
        msgspec.json.encode(settings)
