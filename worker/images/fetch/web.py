"""URL -> bytes and stamp, from a web server: redirects followed, addresses checked."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.contract.messages import Stamp
from worker.errors import ImageError, NotFoundError, OutsideRootsError, UnreadableError
from worker.images.fetch.addresses import PrivateAddressError, public_socket
from worker.images.fetch.allowed import is_allowed, is_named, outside
from worker.images.fetch.body import Body
from worker.images.fetch.failures import unreadable

if TYPE_CHECKING:
    from worker.contract.messages import Part
    from worker.images.fetch.daemon_threads import DaemonThreads
    from worker.images.fetch.limits import ByteBudget

_CONNECT_S: Final = 10.0
_READ_S: Final = 20.0
_READ_BYTES: Final = 1024 * 1024
_MOST_HOPS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NOT_FOUND: Final = frozenset({404, 410})
_PASSING: Final = frozenset({429, 502, 503, 504})
_HEADERS: Final = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity"}
# What may stand in a URL as it is sent; whatever else there is, is quoted first.
_QUOTED: Final = re.compile(r"[!#-;=?-\[\]_a-z~]*")
# What comes of URLs and answers that are not as they should be.
_ERRORS: Final = (aiohttp.ClientError, OSError, ValueError)


class PassingError(Exception):
    """It may go well in a moment: `error` if not, `after_s` if the server said when."""

    def __init__(self, error: ImageError, after_s: float = 0.0) -> None:
        super().__init__(str(error))
        self.error: Final = error
        self.after_s: Final = after_s


class _Resolver(AbstractResolver):
    """Resolves names on threads that may be left behind: nothing interrupts `getaddrinfo`."""

    def __init__(self, threads: DaemonThreads) -> None:
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        ask = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host, host=str(where[0]), port=port, family=kind, proto=proto, flags=flags
            )
            for kind, _, proto, _, where in await self._threads.call(host, ask)
        ]

    async def close(self) -> None:
        pass


class WebClient:
    """Connections to web servers. Belongs to the event loop that it was made on."""

    def __init__(
        self, prefixes: Sequence[str], max_bytes: int, budget: ByteBudget, threads: DaemonThreads
    ) -> None:
        """Take what may be fetched; names are resolved on the threads."""
        self._prefixes = prefixes
        self._max_bytes = max_bytes
        self._budget = budget
        # Apart: a connection into a private network must not serve a URL that may not go there.
        self._public = _session(
            aiohttp.TCPConnector(limit=0, resolver=_Resolver(threads), socket_factory=public_socket)
        )
        self._named = _session(aiohttp.TCPConnector(limit=0, resolver=_Resolver(threads)))

    async def close(self) -> None:
        """Close the connections."""
        await self._public.close()
        await self._named.close()

    async def get(self, url: str, part: Part | None) -> tuple[bytes, Stamp | None, int]:
        """Return a body, its stamp, and the bytes of the budget that it holds.

        Raises:
            ImageError: of stage `read`.
            PassingError: it may go well in a moment.
            TimeoutError: the server says nothing.
        """
        try:
            return await self._follow(url, part)
        except TimeoutError:
            raise
        except _ERRORS as e:
            error = _explain(e)
            if _may_pass(e):
                raise PassingError(error) from e
            raise error from e

    async def _follow(self, url: str, part: Part | None) -> tuple[bytes, Stamp | None, int]:
        headers = _HEADERS
        if part:
            end = part.offset + part.size_bytes - 1
            headers = _HEADERS | {"Range": f"bytes={part.offset}-{end}"}
        for _ in range(_MOST_HOPS):
            # Wherever a server sends us, what is allowed is decided here.
            if not is_allowed(url, self._prefixes):
                raise outside()
            session = self._named if is_named(url, self._prefixes) else self._public
            # Whatever is not read to its end when this block ends has its connection closed.
            async with session.get(_target(url), headers=headers, allow_redirects=False) as answer:
                place = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or not place:
                    return await self._take(answer, part)
                url = urljoin(url, place)
        msg = "the server sends us from one address to the next"
        raise UnreadableError(msg)

    async def _take(
        self, answer: aiohttp.ClientResponse, part: Part | None
    ) -> tuple[bytes, Stamp | None, int]:
        _refuse(answer, 206 if part else 200)
        body = Body(self._max_bytes, self._budget)
        try:
            data = await body.read(answer)
            _check_part(len(data), part)
        except BaseException:
            self._budget.give_back(body.held_bytes)
            raise
        return data, None if part else _stamp(answer, len(data)), body.held_bytes


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        # The whole has its deadline in the pool.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_S),
        auto_decompress=False,
        # Most images come without a pause: each is two system calls.
        read_bufsize=_READ_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _target(url: str) -> yarl.URL:
    """Return a URL to send as it is, where that can be: a signed one holds only as it was given."""
    return yarl.URL(url, encoded=_QUOTED.fullmatch(url) is not None)


def _refuse(answer: aiohttp.ClientResponse, wanted: int) -> None:
    if answer.status == wanted:
        return
    if answer.status in _NOT_FOUND:
        msg = f"the server has no such image ({answer.status})"
        raise NotFoundError(msg)
    reason = f"{answer.status} {answer.reason or ''}".strip()
    error = UnreadableError(f"the server does not give the image: {reason[:100]}")
    if answer.status in _PASSING:
        raise PassingError(error, _after_s(answer.headers.get("Retry-After", "")))
    raise error


def _check_part(size_bytes: int, part: Part | None) -> None:
    if part and size_bytes != part.size_bytes:
        msg = f"{size_bytes} bytes came of a part of {part.size_bytes}"
        raise unreadable(msg)


def _after_s(text: str) -> float:
    """Return the seconds of a Retry-After. A date is as good as none: clocks differ."""
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _may_pass(error: Exception) -> bool:
    """Whether a connection was refused or broken; not if it must not be, or there is no host."""
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
        return not isinstance(cause, PrivateAddressError | ssl.SSLError) and not (
            isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        )
    return isinstance(error, aiohttp.ClientConnectionError)


def _explain(error: Exception) -> ImageError:
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, PrivateAddressError):
            return OutsideRootsError(
                "the address leads into a private network, and no --allow of this worker "
                "(WANWU_IMAGE_URLS with --embedded) names its host"
            )
        reason = error.os_error.strerror or error.os_error
        return unreadable(f"no connection to {error.host}:{error.port}: {reason}")
    return unreadable(error.message if isinstance(error, aiohttp.ClientResponseError) else error)


def _stamp(answer: aiohttp.ClientResponse, size_bytes: int) -> Stamp | None:
    changed = answer.headers.get("Last-Modified")
    try:
        modified_s = parsedate_to_datetime(changed).timestamp() if changed else None
    except (ValueError, TypeError, ArithmeticError, OSError):
        modified_s = None
    return None if modified_s is None else Stamp(size_bytes, modified_s)
