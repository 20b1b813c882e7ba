"""The text of a URL -> which Redis is meant, or a sentence about what is wrong. Parsed once.

::

    redis://[[USER]:PASSWORD@]HOST[:6379][/DB]        rediss:// for TLS
    sentinel://[[USER]:PASSWORD@]HOST[:26379][,HOST...][/DB]?service=NAME    sentinels:// for TLS
        [&sentinel_user=USER][&sentinel_password=PASSWORD]
    unix://[[USER]:PASSWORD@]/PATH[?db=DB]            redis+socket:// is the same

It is stricter than the libraries. Where they guess, a part of a password ends up in the name of a
host, and so in a message. What cannot be read is shown by its scheme alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

from worker.contract.i18n import gettext_noop as N_

STARS: Final = "***"
Kind = Literal["tcp", "unix", "sentinel"]
Place = tuple[str, int]

_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("tcp", False),
    "rediss": ("tcp", True),
    "sentinel": ("sentinel", False),
    "sentinels": ("sentinel", True),
    "unix": ("unix", False),
    "redis+socket": ("unix", False),
}
_PORTS: Final[Mapping[Kind, int]] = {"tcp": 6379, "sentinel": 26379, "unix": 0}
# Schemes of others that are no secret either.
_FOREIGN: Final = frozenset(
    ["amqp", "amqps", "http", "https", "sqs", "valkey", "valkeys", "redis-cluster", "rediscluster"]
)
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password")
_OF_SENTINELS: Final = ("service", "sentinel_user", "sentinel_password")
_CERT_REQS: Final = frozenset({"required", "optional", "none"})
_YES: Final = frozenset({"true", "1", "yes"})
_NO: Final = frozenset({"false", "0", "no"})

_PLACE: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::([0-9]{1,5}))?")
_DATABASE: Final = re.compile(r"[0-9]{1,9}")
_SERVICE: Final = re.compile(r"[\w.:-]+")
_UNSEEN: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")
_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_END_OF_PLACES: Final = re.compile(r"[/?#]")
_MOST_PORT: Final = 65_535

SCHEME: Final = N_(
    "only redis://, rediss://, unix://, sentinel:// and sentinels:// URLs are understood"
)
ESCAPE: Final = N_(
    "this URL cannot be read; in a password, write / as %2F, # as %23, ? as %3F, @ as %40, "
    ": as %3A, % as %25"
)
SEVERAL: Final = N_(
    "this is more than one URL; several sentinels stand in one, as in sentinel://HOST1:26379,"
    "HOST2:26379/0?service=NAME; in a password, write : as %3A, / as %2F"
)
CLUSTER: Final = N_(
    "a queue needs one server, and no Redis Cluster: name one host; several, separated by commas, "
    "are for sentinel:// alone; in a password, write , as %2C"
)
BLANKS: Final = N_(
    "there is a blank or a control character in this URL; in a password, write a blank as %20"
)
USER_ALONE: Final = N_(
    "there is a user without a password; a password follows a colon: "
    "redis://:PASSWORD@HOST:6379/0, with / as %2F, @ as %40, : as %3A"
)
HOST: Final = N_(
    "the host cannot be read, or its port is no number from 1 to 65535; in a password, write "
    "/ as %2F, # as %23, ? as %3F, @ as %40, : as %3A"
)
DATABASE: Final = N_(
    "what follows the host must be the number of a database, such as /0; in a password, write "
    "/ as %2F"
)
SOCKET: Final = N_(
    "what follows unix:// must be the path of a socket, such as unix:///run/redis.sock?db=0; in a "
    "password, write / as %2F"
)
PARAMETERS: Final = N_(
    "of parameters, only ?db=, ?service= and those of TLS with rediss:// are understood, such as "
    "?ssl_ca_certs=FILE; a password stands before the host, with ? as %3F"
)
SERVICE: Final = N_(
    "sentinels are asked for a service by its name: sentinel://HOST:26379/0?service=NAME"
)


class AddressError(ValueError):
    """A URL cannot be used. The message is one of those above, and no part of the URL."""


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Which Redis a URL means; `shown` is the URL without anything that may be a secret.

    `hosts` are the sentinels of a service, the server, or nothing where `path` is a socket. `tls`
    has redis-py's parameters of TLS, and is None without TLS. User and password are the server's,
    those of the sentinels stand apart.
    """

    kind: Kind
    shown: str
    hosts: tuple[Place, ...] = ()
    path: str = ""
    db: int = 0
    service: str = ""
    user: str = ""
    password: str = ""
    sentinel_user: str = ""
    sentinel_password: str = ""
    tls: Mapping[str, str | bool] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.shown!r})"


def parse(text: str) -> RedisAddress:
    """Return which Redis a URL means.

    Raises:
        AddressError: it cannot be read without a doubt; saying how to write it.
    """
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() not in _KINDS:
        raise AddressError(SCHEME)
    _refuse_doubtful(text, rest)
    kind, has_tls = _KINDS[scheme.lower()]
    end = found.start() if (found := _END_OF_PLACES.search(rest)) else len(rest)
    who, at, places = rest[:end].rpartition("@")
    path, _, query = rest[end:].partition("?")
    user, password = _login(who) if at else ("", "")
    given = _parameters(query, kind, has_tls=has_tls)
    db, service = given.pop("db", ""), given.pop("service", "")
    if kind == "sentinel" and not _SERVICE.fullmatch(service):
        raise AddressError(SERVICE)
    is_socket = kind == "unix"
    return RedisAddress(
        kind=kind,
        shown=_shown(scheme, who + at, places + path, {"db": db, "service": service}),
        hosts=() if is_socket else _hosts(places, kind),
        path=_socket(places, path) if is_socket else "",
        db=int((db if is_socket else _database(path, db)) or 0),
        service=service,
        user=user,
        password=password,
        sentinel_user=given.pop("sentinel_user", ""),
        sentinel_password=given.pop("sentinel_password", ""),
        tls=_tls(given) if has_tls else None,
    )


def masked(text: str) -> str:
    """Return what may be shown of a URL that cannot be read: at most its scheme."""
    scheme, mark, _ = text.partition("://")
    known = bool(mark) and (scheme.lower() in _KINDS or scheme.lower() in _FOREIGN)
    return f"{scheme}://{STARS}" if known else STARS


def _refuse_doubtful(text: str, rest: str) -> None:
    if _UNSEEN.search(text):
        raise AddressError(BLANKS)
    if "://" in rest:
        raise AddressError(SEVERAL)
    end = found.start() if (found := _END_OF_PLACES.search(rest)) else len(rest)
    if "#" in rest or "@" in rest[end:] or _BROKEN_ESCAPE.search(rest):
        raise AddressError(ESCAPE)


def _login(who: str) -> tuple[str, str]:
    user, _, password = who.partition(":")
    if not password:
        # Mostly a password whose colon was forgotten.
        raise AddressError(USER_ALONE)
    return _unescaped(user), _unescaped(password)


def _hosts(places: str, kind: Kind) -> tuple[Place, ...]:
    """Return hosts and ports; a URL without a host means this machine."""
    if kind == "tcp" and re.search("[,;]", places):
        raise AddressError(CLUSTER)
    found = []
    for place in places.split(","):
        parts = _PLACE.fullmatch(place)
        if not parts or (kind == "sentinel" and not parts[1]):
            raise AddressError(HOST)
        port = int(parts[2] or _PORTS[kind])
        if not 1 <= port <= _MOST_PORT:
            raise AddressError(HOST)
        host = parts[1].strip("[]") or "localhost"
        if not is_encodable(host):
            raise AddressError(HOST)
        found.append((host, port))
    return tuple(found)


def is_encodable(host: str) -> bool:
    """Whether a host can be looked up: Python's sockets encode its name so, and raise ValueError.

    Neither is one of its parts empty, nor longer than 63 characters.
    """
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _socket(places: str, path: str) -> str:
    if places or len(path) < len("/x"):
        raise AddressError(SOCKET)
    return _unescaped(path)


def _database(path: str, asked: str) -> str:
    """Return the number of the database, which is given once: as `/3` or as `?db=3`."""
    number = path.removeprefix("/")
    if (number and not _DATABASE.fullmatch(number)) or (number and asked and number != asked):
        raise AddressError(DATABASE)
    return number or asked


def _parameters(query: str, kind: Kind, *, has_tls: bool) -> dict[str, str]:
    known = {"db", *(_TLS_FILES if has_tls else ())}
    known |= {"ssl_cert_reqs", "ssl_check_hostname"} if has_tls else set()
    known |= set(_OF_SENTINELS) if kind == "sentinel" else set()
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        # Of kombu's own URLs of sockets.
        name = "db" if name == "virtual_host" and kind == "unix" else name
        if name not in known or name in found or not value:
            raise AddressError(PARAMETERS)
        found[name] = _unescaped(value)
    if "db" in found and not _DATABASE.fullmatch(found["db"]):
        raise AddressError(DATABASE)
    return found


def _tls(given: Mapping[str, str]) -> dict[str, str | bool]:
    """Return redis-py's parameters; the certificate is checked unless a URL says otherwise."""
    found: dict[str, str | bool] = dict(given)
    reqs = given.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    checked = given.get("ssl_check_hostname", "true").lower()
    if reqs not in _CERT_REQS or checked not in _YES | _NO:
        raise AddressError(PARAMETERS)
    # Python's ssl refuses to check a name without a certificate.
    return found | {
        "ssl_cert_reqs": reqs,
        "ssl_check_hostname": checked in _YES and reqs == "required",
    }


def _unescaped(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as e:
        raise AddressError(ESCAPE) from e


def _shown(scheme: str, login: str, where: str, named: Mapping[str, str]) -> str:
    """Return a URL with nothing of its login: what stands for the user may be half a password."""
    stars = "" if not login else f":{STARS}@" if login.startswith(":") else f"{STARS}:{STARS}@"
    query = "&".join(f"{name}={value}" for name, value in named.items() if value)
    return f"{scheme}://{stars}{where}{'?' if query else ''}{query}"
