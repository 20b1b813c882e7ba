"""Errors of Redis -> whether the same request may succeed later, and a sentence for a person.

A Redis that is away raises a connection error. One that is there may still refuse: a replica after
a failover, a full memory, a disk that cannot be written, rights that are being changed. Both pass,
so whoever can wait asks again. What does not pass is a fault in the request.
"""

from __future__ import annotations

import re
from typing import Final

import redis
from kombu.exceptions import OperationalError

from worker.contract.i18n import Message
from worker.contract.reasons import reason

# The codes of error replies that go away without a change on our side.
PASSING_CODES: Final = frozenset(
    {
        "READONLY",  # A replica, for example the old master after a failover.
        "OOM",  # Its memory is full.
        "MISCONF",  # It cannot write its snapshot or its append-only file.
        "LOADING",
        "UNBLOCKED",  # Its role changed while a command waited.
        "MASTERDOWN",
        "NOREPLICAS",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "BUSY",  # Somebody's script runs for too long.
        "NOPERM",  # Rights are changed at run time: ACL SETUSER.
        "NOAUTH",
        "WRONGPASS",
    }
)
# Redis reports errors inside a script in another form: before Redis 7 with the code in the middle,
# and without a code where the user lacks rights.
_IN_SCRIPT: Final = re.compile(r"-([A-Z]+) ")
_DENIED_IN_SCRIPT: Final = re.compile(r"ACL failure in script|user executing the script can't")
# The prefix of errors that have no code of their own.
_NO_CODE: Final = "ERR"
_CODE: Final = re.compile(r"[A-Z]+$")
# redis-py repeats the command, with all that it would have written: results, or bytes of images.
_IN_PIPELINE: Final = re.compile(r"Command # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)
_LONGEST: Final = 300


def code_of(error: BaseException) -> str:
    """Return the code of an error reply, such as `READONLY`; "" if there is none."""
    # redis-py has classes for some codes, and takes the code out of the text then.
    known = getattr(error, "status_code", None)
    if known and known != _NO_CODE:
        return str(known)
    text = _IN_PIPELINE.sub("", str(error))
    if _DENIED_IN_SCRIPT.search(text):
        return "NOPERM"
    first = text.partition(" ")[0]
    if _CODE.match(first) and first != _NO_CODE:
        return first
    inside = _IN_SCRIPT.search(text)
    return inside[1] if inside else ""


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later: Redis is away, or refuses for a while."""
    if isinstance(error, (redis.ConnectionError, redis.TimeoutError)):
        return True
    if isinstance(error, OperationalError):
        # Kombu's form of either, raised from it.
        return error.__cause__ is None or passes(error.__cause__) or _is_network(error.__cause__)
    return isinstance(error, redis.ResponseError) and code_of(error) in PASSING_CODES


def without_command(error: redis.ResponseError) -> redis.ResponseError:
    """Return the same error, without the command that redis-py repeats in its text."""
    return type(error)(_IN_PIPELINE.sub("", str(error)))


def reason_of(error: BaseException) -> str:
    """Return what went wrong, on one line, with the code that Redis gave it."""
    return str(reason_message(error))


def reason_message(error: BaseException) -> Message:
    """Return the same as a message, in the language in use when it is read."""
    lines = _IN_PIPELINE.sub("", str(error)).strip().splitlines()
    text = (lines[0] if lines else "").rstrip(". ")[:_LONGEST] or type(error).__name__
    code = code_of(error)
    return reason(text if not code or code in text else f"{code} {text}")


def _is_network(error: BaseException) -> bool:
    return isinstance(error, OSError)
