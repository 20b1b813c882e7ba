"""Plain data <-> JSON, with file names that are not UTF-8."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def encode(content: Any) -> bytes:
    """Return JSON. Bytes of names that are not UTF-8, lone surrogates (PEP 383), are escaped."""
    try:
        return msgspec.json.encode(content)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(content)).encode()


def decode(body: bytes | str) -> Any:
    """Return what `encode` was given, as plain data.

    Raises:
        ValueError: this is not JSON, or nested too deeply.
    """
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # msgspec refuses lone surrogates; `json` does not.
        try:
            return json.loads(body)
        except RecursionError as e:
            msg = "nested too deeply"
            raise ValueError(msg) from e
