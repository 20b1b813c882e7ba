"""Commands that a Redis denies -> one sentence, and the rights that its user lacks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.redis.errors import reason_message

# In place of the hash of a script.
NO_SCRIPT: Final = "0" * 40
# How Redis names a command that a user may not use, with its subcommand.
_COMMAND: Final = re.compile(r"'([a-z|-]+)' command")

Command = tuple[str | int, ...]


class ServerUnfitError(TranslatedError, RuntimeError):
    """The server is there, but cannot be used as it is; one sentence says why, and what to do."""


class RightsError(ServerUnfitError):
    """The user of the server may not do all that is needed.

    `rights` are what the user lacks, as `ACL SETUSER` takes them: `+wait`, `~key`, `&channel`.
    `url` is what the caller called the server.
    """

    def __init__(
        self, message: str, /, *, rights: tuple[str, ...], url: object, **fields: Any
    ) -> None:
        super().__init__(message, url=url, **fields)
        self.rights = rights
        self.url = url


def rights_error(url: object, denied: Sequence[tuple[Command, redis.ResponseError]]) -> RightsError:
    """Return the error for commands that the server at `url` denies, with what it says of each."""
    (command, error), more = denied[0], len(denied) - 1
    return RightsError(
        N_("the user of Redis at {url} lacks rights: {command}: {reason}{others}; see ACL SETUSER"),
        rights=tuple(dict.fromkeys(_right(*one) for one in denied)),
        url=url,
        command=f"{command[0]} {next(_names(command), '')}".rstrip(),
        reason=reason_message(error),
        others=Message(N_(", and {more} more"), more=more) if more else "",
    )


def _right(command: Command, error: redis.ResponseError) -> str:
    """Return the right to a command, or to the key or channel that it names."""
    text, name = str(error).lower(), next(_names(command), "")
    if "channel" in text:
        return f"&{name}"
    if found := _COMMAND.search(text):
        return f"+{found[1]}"
    return f"~{name}" if "key" in text else f"+{str(command[0]).lower()}"


def _names(command: Command) -> Iterator[str]:
    """Yield what a command is used on, and what else it takes."""
    return (part for part in command[1:] if isinstance(part, str) and part != NO_SCRIPT)
