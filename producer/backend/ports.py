"""An address and a port -> a socket that listens there, or one sentence why none can."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

from worker.contract.i18n import gettext as _
from worker.contract.reasons import reason as foreign

# As many may wait to be taken in as uvicorn lets.
_BACKLOG: Final = 2048


class PortError(OSError):
    """There is no listening at this address and port."""


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens: whoever connects from now on is answered, if somebody does.

    Raises:
        PortError: naming the port, in a sentence for a person.
    """
    try:
        family, *_, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as e:
        raise PortError(reason(address, port, e)) from e


def reason(address: str, port: int, error: Exception) -> str:
    """Return why there is no listening, in a sentence for a person."""
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return _(
            "port {port} of {address} is in use by another program: choose another --port"
        ).format(port=port, address=address)
    if number in {errno.EACCES, errno.EPERM}:
        return _("port {port} needs root rights: choose a --port above 1023").format(port=port)
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        # The standard library puts the address into it once more.
        lookup = isinstance(error, socket.gaierror)
        text = str(error.strerror) if lookup else os.strerror(error.errno)
    return _("cannot listen on {address}, port {port}: {reason}").format(
        address=address, port=port, reason=foreign(text)
    )


def url_place(address: str, port: int) -> str:
    """Return address and port as they stand in a URL."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
