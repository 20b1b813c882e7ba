"""Who may ask, and how much -> a request whose body is complete, or a refusal before it is read.

It is ASGI by itself, around all routes: what it refuses, no other code has seen.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.api.bodies import JSON_WEIGHT, URGENT_PATH, Bodies, HungUpError
from producer.api.errors import UNPROCESSABLE, RefusedError, answer
from producer.api.watches import BrokenError

# 100,000 paths of 160 characters.
JSON_BYTES: Final = 16 * 2**20
# Fields of a form without a file.
_FIELDS_BYTES: Final = 2**20
# Around the bytes of an image in a form.
_FORM_BYTES: Final = 65_536
# Ours ends with the image that brings it above half of this: `producer.jobs.http_transport`.
_UPLOAD_BYTES: Final = 32 * 2**20
# Shown before a key is known, and asked by what only looks whether the server is well. They take no
# body, and none shows what belongs to somebody.
OPEN_PATHS: Final = frozenset({"/", "/health", "/docs", "/openapi.json"})
OPEN_BELOW: Final = "/docs/"
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
# What is still on its way from a client that was refused is passed over, for so long: if the
# connection were closed at once, the client would not see why.
_DRAIN_S: Final = 1.0
_DRAIN_BYTES: Final = 32 * 2**20
_CLOSE: Final = (b"connection", b"close")


class Rules(NamedTuple):
    """The key that a request must bring, or the hosts by which it may come; the largest image."""

    api_key: str
    hosts: frozenset[str]
    max_file_bytes: int

    def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Make sure that the client may ask.

        Raises:
            RefusedError: it may not.
        """
        if not self.api_key:
            self._check_host(headers)
            return
        if _is_open(scope["path"]):
            return
        given = headers.get("x-api-key", "")
        if not secrets.compare_digest(given.encode(), self.api_key.encode()):
            raise RefusedError(401, "unauthorized", "give the API key as X-API-Key")

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Refuse what a page of another site sends: by a name of its own, or by ours."""
        if host_of(headers.get("host", "")) not in self.hosts:
            message = "this host is not served without an API key: add it to WANWU_API_HOSTS"
            raise RefusedError(421, "wrong_host", message)
        origin = headers.get("origin")
        if origin is not None and host_of(origin.partition("://")[2]) not in self.hosts:
            raise RefusedError(403, "wrong_origin", "pages of other sites may not ask")

    def size_of(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, int]:
        """Return the most bytes that a body may have, and how many one counts as.

        Raises:
            RefusedError: it is larger, or does not say how large it is.
        """
        if "transfer-encoding" in headers:
            raise RefusedError(411, "no_length", "say how long the body is (Content-Length)")
        size = int(text) if (text := headers.get("content-length", "0")).isdecimal() else 0
        if size and _is_open(scope["path"]):
            raise RefusedError(413, "too_large", "this path takes no body")
        most, setting = self._most_bytes(scope["path"], headers.get("content-type", ""))
        if size > most:
            message = f"{size:,} bytes are more than the limit of {most:,}{setting}"
            raise RefusedError(413, "too_large", message)
        return most, size * (1 if setting else JSON_WEIGHT)

    def _most_bytes(self, path: str, kind: str) -> tuple[int, str]:
        """Return the most bytes of a body, and the setting that says so."""
        kind = kind.partition(";")[0].strip().lower()
        setting = " (WANWU_MAX_FILE_BYTES)"
        if kind == "multipart/form-data" and path == URGENT_PATH:
            return self.max_file_bytes + _FORM_BYTES, setting
        if kind == "multipart/form-data" and path.endswith("/images"):
            return self.max_file_bytes + _UPLOAD_BYTES, setting
        is_json = kind.endswith("json")
        return JSON_BYTES if is_json else _FIELDS_BYTES, ""


class Gate:
    """The outermost application."""

    def __init__(self, app: ASGIApp, rules: Rules, bodies: Bodies) -> None:
        self._app = app
        self._rules = rules
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # A client that is gone reads no answer; a stream that cannot go on breaks off.
        with suppress(HungUpError, BrokenError):
            try:
                await self._enter(scope, receive, send)
            except RefusedError as e:
                await _refuse(scope, receive, send, e)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        self._rules.check(scope, headers)
        most_bytes, weight_bytes = self._rules.size_of(scope, headers)
        if not weight_bytes:
            await self._app(scope, receive, send)
            return
        async with (
            self._bodies.read(receive, most_bytes) as body,
            self._bodies.admitted(scope, weight_bytes),
        ):
            if _is_cut_off(headers.get("content-type", ""), body.tail):
                cut_off = answer(UNPROCESSABLE, "bad_request", "the form is cut off: it has no end")
                await cut_off(scope, receive, send)
                return
            await self._app(scope, self._bodies.replayed(body, receive), send)


def _is_cut_off(kind: str, tail: bytes) -> bool:
    """Whether a form lacks its end: whoever parsed it would not miss its last part."""
    name, options = parse_options_header(kind)
    boundary = options.get(b"boundary", b"")
    return name == b"multipart/form-data" and bool(boundary) and b"--%b--" % boundary not in tail


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_BELOW)


def hosts_of(address: str, more: Sequence[str]) -> frozenset[str]:
    """Return the names by which a server at an address may be asked."""
    return _LOCAL | {name for one in (address, *more) if (name := host_of(one))}


def host_of(text: str) -> str:
    """Return the name or address in a `Host`, without port, brackets and the dot at its end."""
    name = text.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    # Without brackets, several colons are an address of version 6, as `--address` has it.
    if name.count(":") == 1:
        name = name.partition(":")[0]
    return name.removesuffix(".")


async def _refuse(scope: Scope, receive: Receive, send: Send, error: RefusedError) -> None:
    """Answer, and close the connection if more of the request is on its way."""
    has_body = Headers(scope=scope).get("content-length", "0") != "0"
    has_body = has_body or "transfer-encoding" in Headers(scope=scope)
    response = answer(error.status, error.code, str(error))

    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        elif has_body and not message.get("more_body"):
            await send({**message, "more_body": True})
            await _pass_over(scope, receive)
            message = {"type": "http.response.body"}
        await send(message)

    await response(scope, receive, send_closing)


async def _pass_over(scope: Scope, receive: Receive) -> None:
    """Read what a client has sent on before it saw the answer."""
    if "expect" in Headers(scope=scope):
        return  # It waits for a word before it sends any.
    left = _DRAIN_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return
