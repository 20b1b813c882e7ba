"""The address of a Redis -> a pool of connections to it: to a server, a socket, or a master.

Which server is the master, the sentinels of a service say. They are asked with each new connection,
and each second besides: after a failover that somebody asked for, the old master goes on answering
for some ten seconds, and what is written there meanwhile is lost.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.connection import UnixDomainSocketConnection
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from worker.contract.redis_address import Kind, Place, RedisAddress, is_encodable

CONNECT_TIMEOUT_S: Final = 3.0
# For each reply, and for a TLS handshake. Redis answers within milliseconds; this is for one that
# writes a snapshot, or is far away.
REPLY_TIMEOUT_S: Final = 5.0
# A connection that has been idle for so long is tested before it is used.
IDLE_CHECK_S: Final = 10
MASTER_CHECK_S: Final = 1.0

# After 15 s without traffic the kernel probes every 5 s; what was sent must be acknowledged in 20.
_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 15,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 20_000,  # milliseconds
    }.items()
    if hasattr(socket, name)
}
# Known to `contract.reasons`, which translates them.
_SILENT: Final = "no sentinel of {service} answers"
_NO_MASTER: Final = "the sentinels know no master of {service} that is there"
_LOGIN: Final = "the sentinels refuse the name or the password: see WANWU_SENTINEL_PASSWORD"
_NO_SENTINEL: Final = "what answers for {service} is no sentinel"
_CLASSES: Final[Mapping[tuple[Kind, bool], type]] = {
    ("tcp", False): redis.Connection,
    ("tcp", True): redis.SSLConnection,
    ("unix", False): UnixDomainSocketConnection,
    ("sentinel", False): SentinelManagedConnection,
    ("sentinel", True): SentinelManagedSSLConnection,
}


def make_pool(
    address: RedisAddress,
    *,
    retry: Retry | None = None,
    timeout_s: float = REPLY_TIMEOUT_S,
    derive: Callable[[type], type] = lambda kind: kind,
    **options: Any,
) -> redis.ConnectionPool:
    """Return a pool of connections to a Redis; none is open yet.

    Without `retry` redis-py does not try again. `derive` makes another class of that of the
    connections, and `options` go to it as they are.
    """
    given: dict[str, Any] = {"db": address.db, "health_check_interval": IDLE_CHECK_S, **options}
    given |= _login(address.user, address.password) | _network(address, timeout_s)
    given["connection_class"] = derive(_CLASSES[address.kind, address.tls is not None])
    if retry is not None:
        given["retry"] = retry
    if address.kind == "sentinel":
        return ServicePool(address.service, _Sentinels(address), **given)
    if address.kind == "unix":
        given["path"] = address.path
    else:
        given["host"], given["port"] = address.hosts[0]
    return redis.ConnectionPool(**given)


class ServicePool(SentinelConnectionPool):
    """Connections to the master of a service, whichever server that is.

    `moves` counts how often it was another one: a connection that is in use for long, as for a
    subscription, is to be closed by its owner then.
    """

    def __init__(self, service: str, sentinels: Sentinel, **options: Any) -> None:
        super().__init__(service, sentinels, **options)  # type: ignore[no-untyped-call]
        self._asked_s = time.monotonic()
        self._asking = threading.Lock()

    @property
    def moves(self) -> int:
        """How often the sentinels have named another master than before."""
        moves: int = self.sentinel_manager.moves
        return moves

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """Return a connection to the master as it is known since the last second."""
        if time.monotonic() - self._asked_s > MASTER_CHECK_S and self._asking.acquire(
            blocking=False
        ):
            try:
                self.get_master_address()
            except redis.RedisError:
                # Nobody knows a better one; if it is away, too, that will be noticed.
                self._asked_s = time.monotonic()
            finally:
                self._asking.release()
        return super().get_connection(*arguments, **options)

    def get_master_address(self) -> Place:
        """Return where the master is; idle connections to another one are closed."""
        found: Place = super().get_master_address()  # type: ignore[no-untyped-call]
        self._asked_s = time.monotonic()
        return found

    def disconnect(self, inuse_connections: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Close the connections; if all, those to the sentinels as well."""
        super().disconnect(inuse_connections)
        if inuse_connections:
            self.sentinel_manager.close()


class _Sentinels(Sentinel):
    """The sentinels of a service; says in a sentence why they name no master.

    New connections and the pool ask alike: so it is here that `moves` are counted.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.moves = 0
        self._named: Place | None = None
        options = _network(address, CONNECT_TIMEOUT_S)
        options |= _login(address.sentinel_user, address.sentinel_password)
        # Whoever asks them tries again.
        options |= {"ssl": address.tls is not None, "retry": Retry(NoBackoff(), 0)}
        super().__init__(list(address.hosts), sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    def discover_master(self, service_name: str) -> Place:
        """Return where the master of a service is.

        Raises:
            redis.AuthenticationError: a sentinel refuses the password.
            MasterNotFoundError: no sentinel answers, or none knows a master that is there.
        """
        problem = ""
        for place, sentinel in enumerate(self.sentinels):
            try:
                known: Any = sentinel.sentinel_masters()
            except redis.AuthenticationError as e:
                raise redis.AuthenticationError(_LOGIN) from e
            except (redis.RedisError, OSError) as e:
                problem = problem or (_NO_SENTINEL if _is_server(e) else _SILENT)
                continue
            problem = _NO_MASTER
            state = known.get(service_name)
            is_there = state and self.check_master_state(state, service_name)  # type: ignore[no-untyped-call]
            if is_there and is_encodable(str(state["ip"])):
                # The one that answers is asked first from now on.
                self.sentinels.insert(0, self.sentinels.pop(place))
                found = str(state["ip"]), int(state["port"])
                self.moves += self._named not in {None, found}
                self._named = found
                return found
        raise MasterNotFoundError(problem.format(service=service_name))


def _is_server(error: Exception) -> bool:
    """Whether a server answered, where a sentinel was asked."""
    return isinstance(error, redis.ResponseError) and "unknown command" in str(error).lower()


def _login(user: str, password: str) -> dict[str, str]:
    named = {"username": user, "password": password}
    return {name: text for name, text in named.items() if text}


def _network(address: RedisAddress, timeout_s: float) -> dict[str, Any]:
    """Return the time-outs of a connection, and TLS."""
    found: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": timeout_s,
    }
    if address.kind != "unix":
        found |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    return found | dict(address.tls or {})
