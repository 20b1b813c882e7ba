"""Message in Redis -> kombu's form of it, if it is one that a worker can process.

Kombu and Celery take much for granted. Anything else ends in a traceback at best, and at worst in a
consumer that restarts for ever, with the same message before it. Nothing is parsed that is larger
than what a program of ours sends, and nothing is inflated.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from worker.contract.codec import decode
from worker.contract.messages import MAX_CHUNK_IMAGES, WIRE_VERSION, is_newer

# Twice what a producer sends at most: see `producer.jobs.chunks`.
MAX_MESSAGE_BYTES: Final = 64 * 2**20
# How much of a library's sentence an error repeats: it may name what it found.
_DETAIL_CHARS: Final = 160

Name = Annotated[str, Meta(max_length=1024)]
# What Celery writes of a task's arguments, for people: a thousand characters.
Shown = Annotated[str, Meta(max_length=16_384)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
# What producers write for people: "(8 images)".
_SHOWN: Final = re.compile(r"\((\d{1,5}) images?\b")


class EnvelopeError(ValueError):
    """It is no message that a worker can process.

    `task_id` is its id and `images` how many images it holds, as far as these can be read.
    """

    def __init__(self, reason: str, task_id: str | None = None, images: int = 0) -> None:
        super().__init__(reason)
        self.task_id = task_id
        self.images = images


class NewerMessageError(EnvelopeError):
    """It is a message for workers of a later version than this one."""


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
    """Those that Celery reads: a chunk has no time to start or expire, no limit and no group."""

    id: Name
    task: Literal["worker.tag"]
    lang: Literal["py"] = "py"
    root_id: Name | None = None
    # The task that sent it, where an application sends chunks from within its own tasks.
    parent_id: Name | None = None
    group: None = None
    group_index: None = None
    shadow: None = None
    eta: None = None
    expires: None = None
    retries: Literal[0] = 0
    timelimit: tuple[None, None] = (None, None)
    argsrepr: Shown = ""
    kwargsrepr: Shown = ""
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


class _ControlHeaders(msgspec.Struct):
    """Those that kombu reads of a message of remote control."""

    clock: Annotated[int, Meta(ge=0, lt=2**62)] | None = None
    expires: float | None = None
    ticket: Name | None = None
    compression: None = None


class _ControlProperties(msgspec.Struct):
    delivery_tag: Name
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]


class _ControlEnvelope(msgspec.Struct, rename="kebab"):
    body: bytes
    content_type: Literal["application/json"]
    content_encoding: Literal["utf-8"]
    headers: _ControlHeaders
    properties: _ControlProperties


# Positional arguments, named ones, and what to do next.
_Body = tuple[tuple[dict[str, Any]], dict[str, None], dict[str, None]]


def open_envelope(raw: bytes) -> dict[str, Any]:
    """Return the message in kombu's form.

    Raises:
        NewerMessageError: it is of a later version.
        EnvelopeError: saying what is wrong with it.
    """
    _check_size(raw, MAX_MESSAGE_BYTES)
    message: Any = None
    try:
        message = decode(raw)
        envelope = msgspec.convert(message, _Envelope)
        body = decode(envelope.body)
        if is_newer(_chunk_in(body).get("v")):
            raise _refusal(message, "")
        msgspec.convert(body, _Body)
    except EnvelopeError:
        raise
    except (ValueError, msgspec.ValidationError) as e:
        raise _refusal(
            message, f"this is not a message for a worker: {str(e)[:_DETAIL_CHARS]}"
        ) from e
    found: dict[str, Any] = message
    return found


def open_control(raw: bytes, max_bytes: int) -> dict[str, Any]:
    """Return a message of Celery's remote control, an event, or a reply, in kombu's form.

    Raises:
        EnvelopeError: saying what is wrong with it.
    """
    _check_size(raw, max_bytes)
    try:
        message: dict[str, Any] = decode(raw)
        decode(msgspec.convert(message, _ControlEnvelope).body)
    except (ValueError, msgspec.ValidationError) as e:
        msg = f"this is no message of remote control: {str(e)[:_DETAIL_CHARS]}"
        raise EnvelopeError(msg) from e
    return message


def _check_size(raw: bytes, max_bytes: int) -> None:
    if len(raw) > max_bytes:
        msg = f"this is larger than any message: {len(raw)} bytes, more than {max_bytes}"
        raise EnvelopeError(msg)


def images_shown(text: object) -> int:
    """Return how many images a message holds by what its sender wrote for people; 0 if unknown."""
    found = _SHOWN.match(text) if isinstance(text, str) else None
    return min(int(found[1]), MAX_CHUNK_IMAGES) if found else 0


def _refusal(message: Any, reason: str) -> EnvelopeError:
    """Return the error, with what can be read of the message all the same."""
    chunk = _chunk_in(_body_of(message))
    task_id, images = _task_id_of(message), _images_in(message, chunk)
    if is_newer(version := chunk.get("v")):
        newer = f"version {version} is not {WIRE_VERSION}, the one spoken here"
        return NewerMessageError(newer, task_id, images)
    return EnvelopeError(reason, task_id, images)


def _body_of(message: Any) -> Any:
    try:
        return decode(base64.b64decode(message["body"]))
    except (LookupError, TypeError, ValueError):
        return None


def _chunk_in(body: Any) -> dict[str, Any]:
    """Return what may be a chunk, whatever its version."""
    try:
        chunk = body[0][0]
    except (LookupError, TypeError):
        return {}
    return chunk if isinstance(chunk, dict) else {}


def _images_in(message: Any, chunk: dict[str, Any]) -> int:
    """Return how many images a message holds, by its chunk or else by its header; 0 if unknown."""
    images = chunk.get("images")
    if isinstance(images, list) and len(images) <= MAX_CHUNK_IMAGES:
        return len(images)
    try:
        return images_shown(message["headers"]["argsrepr"])
    except (LookupError, TypeError):
        return 0


def _task_id_of(message: Any) -> str | None:
    try:
        return msgspec.convert(message["headers"]["id"], Name)
    except (LookupError, TypeError, msgspec.ValidationError):
        return None
