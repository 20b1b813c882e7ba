"""Name of an argument -> how its caller writes it: `--resume` in a command, `resume=` in Python.

Errors and notes of the library advise arguments, and the commands show them as they are.
"""

from __future__ import annotations

from typing import Final

_FLAGS: Final = frozenset({"blobs", "embeddings", "overwrite", "resume"})
# Where one is not the other's name: in a command, and in Python.
_OTHERS: Final = {
    "embedded": ("--embedded", "Client.embedded()"),
    "format": ("--format", "out_format="),
    "label": ("--label TEXT", "labels=[...]"),
    "labels": ("--labels FILE", "labels=Path(...)"),
    "own_redis": ("producer submit --embedded", "Client.embedded()"),
}


class _State:
    """Who calls: one command, or a program."""

    is_command: bool = False


def write_as_options(*, is_command: bool = True) -> None:
    """Write arguments as options from now on, for the life of a command; or as Python does."""
    _State.is_command = is_command


def argument(name: str) -> str:
    """Return an argument of the client's methods as its caller writes it."""
    if name in _OTHERS:
        return _OTHERS[name][0 if _State.is_command else 1]
    if _State.is_command:
        return f"--{name}"
    return f"{name}=True" if name in _FLAGS else f"{name}="
