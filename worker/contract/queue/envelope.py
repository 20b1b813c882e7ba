"""A message as it lies in Redis -> kombu's form of it, if it is one that a producer of ours sends.

Kombu and Celery take much for granted. What they meet otherwise ends in a traceback at best, and at
worst in a consumer that starts anew for ever, with the same message before it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from worker.contract.codec import decode

Name = Annotated[str, Meta(max_length=1024)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class EnvelopeError(ValueError):
    """It is no message that a producer sends."""


class _DeliveryInfo(msgspec.Struct):
    exchange: Name
    routing_key: Name
    priority: Literal[0, 9] | None = None
    redelivered: bool = False


class _Properties(msgspec.Struct):
    delivery_tag: Name
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    correlation_id: Name | None = None
    reply_to: Name | None = None
    priority: Literal[0, 9] | None = None


class _Headers(msgspec.Struct):
    """Those that Celery reads: what we send never has a time, a limit or a group."""

    id: Name
    task: Literal["worker.tag"]
    lang: Literal["py"] = "py"
    root_id: Name | None = None
    parent_id: None = None
    group: None = None
    group_index: None = None
    shadow: None = None
    eta: None = None
    expires: None = None
    retries: Literal[0] = 0
    timelimit: tuple[None, None] = (None, None)
    argsrepr: str = ""
    kwargsrepr: str = ""
    origin: Name = ""
    ignore_result: bool | None = None
    replaced_task_nesting: Count = 0
    stamped_headers: None = None
    stamps: dict[str, None] = {}
    compression: None = None


class _Envelope(msgspec.Struct, rename="kebab"):
    body: bytes
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]
    headers: _Headers
    properties: _Properties


# Positional arguments, named ones, and what to do next.
_Body = tuple[tuple[dict[str, Any]], dict[str, None], dict[str, None]]


def opened(raw: bytes) -> dict[str, Any]:
    """Return the message in kombu's form.

    Raises:
        EnvelopeError: saying what is wrong with it.
    """
    try:
        message: dict[str, Any] = decode(raw)
        envelope = msgspec.convert(message, _Envelope)
        msgspec.convert(decode(envelope.body), _Body)
    except (ValueError, msgspec.ValidationError) as e:
        msg = f"no message of a producer: {e}"
        raise EnvelopeError(msg) from e
    return message
