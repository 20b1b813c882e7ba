"""What the system and libraries say, in English -> the same as a message that can be translated.

In English their own words stay; what is not known here stays in English everywhere.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Final

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_

_BY_ERRNO: Final[Mapping[int, str]] = {
    errno.EACCES: N_("Permission denied"),
    errno.EADDRINUSE: N_("Address already in use"),
    errno.EADDRNOTAVAIL: N_("Cannot assign requested address"),
    errno.ECONNREFUSED: N_("Connection refused"),
    errno.ECONNRESET: N_("Connection reset by peer"),
    errno.EDQUOT: N_("Disk quota exceeded"),
    errno.EEXIST: N_("File exists"),
    errno.EHOSTUNREACH: N_("No route to host"),
    errno.EIO: N_("Input/output error"),
    errno.EISDIR: N_("Is a directory"),
    errno.ELOOP: N_("Too many levels of symbolic links"),
    errno.EMFILE: N_("Too many open files"),
    errno.ENAMETOOLONG: N_("File name too long"),
    errno.ENETUNREACH: N_("Network is unreachable"),
    errno.ENOENT: N_("No such file or directory"),
    errno.ENOSPC: N_("No space left on device"),
    errno.ENOTDIR: N_("Not a directory"),
    errno.EPERM: N_("Operation not permitted"),
    errno.EPIPE: N_("Broken pipe"),
    errno.EROFS: N_("Read-only file system"),
    errno.ETIMEDOUT: N_("Connection timed out"),
}
# Whole sentences of theirs, as regular expressions, whatever the case of letters.
_PATTERNS: Final = (
    # The system's, without a number that says which.
    (r"name or service not known", N_("the name of the host is not known")),
    (r"temporary failure in name resolution", N_("names of hosts cannot be looked up now")),
    (r"timed out", N_("it took too long")),
    (r".*certificate verify failed.*", N_("its certificate cannot be trusted")),
    (
        r"\[Errno -?\d+\] (?P<reason>[^:]+): (?P<file>'.+')",
        N_("{file}: {reason}"),
    ),
    (r"\[Errno -?\d+\] (?P<reason>[^:]+)", "{reason}"),
    (r"'utf-8' codec can't decode byte .+", N_("it is not text in UTF-8")),
    (r"protocol not known: .+", N_("its protocol is not known")),
    # httpx's.
    (r"server disconnected without sending a response\.?", N_("the server hung up")),
    (
        r"request url is missing an 'http://' or 'https://' protocol\.?",
        N_("the URL does not begin with http:// or https://"),
    ),
    # redis-py's.
    (
        r"error -?\d+ connecting to (?P<place>.+?)\. (?P<reason>.+)",
        N_("cannot connect to {place}: {reason}"),
    ),
    (r"timeout connecting to (server|\S+)", N_("it took too long to connect")),
    (r"timeout reading from .+", N_("it took too long to answer")),
    (r"connection closed by server", N_("the server closed the connection")),
    (r"connection to .+ lost.*|error while (reading|writing).+", N_("the connection was lost")),
    (r"protocol error.*", N_("it does not answer as Redis does")),
    # Ours, of sentinels.
    (r"no sentinel of (?P<service>.+) answers", N_("no sentinel of {service} answers")),
    (
        r"the sentinels know no master of (?P<service>.+) that is there",
        N_("the sentinels know no master of {service} that is there"),
    ),
    (
        r"only (?P<reached>\d+) of (?P<replicas>\d+) replicas have what was sent",
        N_("only {reached} of {replicas} replicas have what was sent"),
    ),
    (
        r"another master has not got what was sent",
        N_("another master has not got what was sent"),
    ),
    (
        r"the sentinels refuse the name or the password: see WANWU_SENTINEL_PASSWORD",
        N_("the sentinels refuse the name or the password: see WANWU_SENTINEL_PASSWORD"),
    ),
    (
        r"what answers for (?P<service>.+) is no sentinel",
        N_("what answers for {service} is no sentinel: redis:// is for servers"),
    ),
    # Those of a Redis server; the first word of most is a code.
    (r"(?P<code>WRONGPASS|NOAUTH) .*", N_("{code}: the name or the password is wrong")),
    (r"invalid username-password pair.*", N_("the name or the password is wrong")),
    (r"authentication required.*", N_("it wants a password")),
    (r"AUTH .* called without any password.*", N_("it has no password, but one was given")),
    (r"DB index is out of range.*", N_("it has no database of this number")),
    (r"(?P<code>READONLY) .*", N_("{code}: it is a replica, which takes no work")),
    (r"(?P<code>OOM) .*", N_("{code}: its memory is full")),
    (r"(?P<code>MISCONF) .*", N_("{code}: it cannot write to its disk")),
    (r"(?P<code>LOADING) .*", N_("{code}: it is loading its data")),
    (r"(?P<code>NOPERM) .*", N_("{code}: its user lacks rights")),
    (r"(?P<code>BUSY) .*", N_("{code}: it runs a script that takes too long")),
    # A worker's, of its health, which it answers in English.
    (r"the model is not warm yet", N_("the model is not warm yet")),
    (r"the inference thread has ended", N_("the inference thread has ended")),
    (
        r"no image has been done for (?P<seconds>\d+) s, though some are held",
        N_("no image has been done for {seconds} s, though some are held"),
    ),
    (
        r"Redis has not answered for (?P<seconds>\d+) s",
        N_("Redis has not answered for {seconds} s"),
    ),
    (
        r"Redis has not answered for (?P<seconds>\d+) s: (?P<reason>.+)",
        N_("Redis has not answered for {seconds} s: {reason}"),
    ),
    # msgspec's.
    (r"input data was truncated", N_("it ends too early")),
    (r"json is malformed: .+", N_("it is not JSON")),
    (
        r"expected (?P<wanted>`[^`]+`(?: [<>]=? \S+)?), got (?P<found>`[^`]+`)",
        N_("{wanted} is expected, not {found}"),
    ),
    (r"expected (?P<wanted>`[^`]+`(?: [<>]=? \S+)?)", N_("{wanted} is expected")),
    (r"invalid enum value (?P<found>.+)", N_("{found} is not one of the values")),
)


def os_reason(error: OSError) -> Message:
    """Return why the system refused, without the name of a file."""
    if not error.strerror:
        return reason(str(error) or type(error).__name__)
    known = _BY_ERRNO.get(error.errno or 0)
    return Message(known, english=error.strerror) if known else reason(error.strerror)


def reason(text: str) -> Message:
    """Return what a library said."""
    for known in _BY_ERRNO.values():
        if text.casefold() == known.casefold():
            return Message(known, english=text)
    for pattern, message in _PATTERNS:
        if found := re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL):
            fields = {
                name: reason(value) if name == "reason" else value
                for name, value in found.groupdict().items()
            }
            return Message(message, english=text, **fields)
    return Message("{text}", english=text, text=text)
