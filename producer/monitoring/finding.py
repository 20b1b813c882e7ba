"""What `producer doctor` looks at, one thing at a time."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """Something that was looked at. With `fail`, nothing will be tagged until it is mended."""

    state: Literal["ok", "note", "fail"]
    what: str
    todo: str = ""
