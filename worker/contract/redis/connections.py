"""URL -> clients of Redis. Every connection of ours is configured in `pools`, with its time-outs.

A connection may vanish silently: a firewall, a load balancer or a NAT forgets it, a host is
switched off. Nothing that is sent arrives then, and nothing comes back. So no reply is waited for
without end, idle connections are tested by the kernel, and by us before they are used again.
"""

from __future__ import annotations

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.redis.errors import passes, reason_message
from worker.contract.redis.pools import REPLY_TIMEOUT_S, make_pool
from worker.contract.redis.retry import RetryPolicy
from worker.contract.secret import SecretUrl


class BrokerUnreachableError(TranslatedError, ConnectionError):
    """Redis does not answer at the URL given, or refuses the password."""


def connect(url: SecretUrl | str, *, timeout_s: float = REPLY_TIMEOUT_S) -> redis.Redis:
    """Return a client of the Redis at `url` that answered a ping; it does not try again by itself.

    An answer that refuses is one, too: a server that cannot write its file may not even be pinged.

    Raises:
        BrokerUnreachableError: one sentence, password masked, after at most the time-out of
            `pools` for a connection, and `timeout_s`.
    """
    secret = _secret(url)
    try:
        client = _client(secret, Retry(NoBackoff(), 0), timeout_s)
        client.ping()
    except (redis.RedisError, OSError, ValueError) as e:
        if not (isinstance(e, redis.ResponseError) and passes(e)):
            raise unreachable(secret, e) from e
    return client


def retrying_client(url: SecretUrl | str) -> redis.Redis:
    """Return a client that rides out a short absence of Redis: about half a minute."""
    return _client(_secret(url), RetryPolicy(), REPLY_TIMEOUT_S)


def single_try_client(url: SecretUrl | str) -> redis.Redis:
    """Return a client that raises at once, for callers that try again in their own way."""
    return _client(_secret(url), Retry(NoBackoff(), 0), REPLY_TIMEOUT_S)


def unreachable(url: SecretUrl | str, error: Exception) -> BrokerUnreachableError:
    """Return the error for a Redis that cannot be reached or used."""
    secret = _secret(url)
    hint = _hint(secret, error)
    return BrokerUnreachableError(
        N_("cannot reach Redis at {url}: {reason}{hint}"),
        url=secret,
        reason=reason_message(error),
        hint=Message(hint),
    )


def _client(url: SecretUrl, retry: Retry, timeout_s: float) -> redis.Redis:
    return redis.Redis.from_pool(make_pool(url.address, retry=retry, timeout_s=timeout_s))


def _secret(url: SecretUrl | str) -> SecretUrl:
    return url if isinstance(url, SecretUrl) else SecretUrl(url)


def _hint(url: SecretUrl, error: Exception) -> str:
    """Ask whether the password or TLS is the matter, where it looks so; in English."""
    text = str(error).lower()
    if isinstance(error, redis.AuthenticationError) and "sentinel" not in text:
        return N_(" (is the password right? redis://:PASSWORD@HOST:6379/0)")
    # A server without TLS takes the greeting for half a command, and waits for the rest of it.
    if not url.problem and url.address.tls is not None:
        silent = isinstance(error, redis.TimeoutError) or "timed out" in text
        if silent or "wrong version number" in text or "wrong_version_number" in text:
            return N_(" (does it speak TLS? rediss:// is for that alone, redis:// for without)")
    # A server with TLS answers with an alert, which is no reply of Redis.
    elif "protocol error" in text:
        return N_(" (does it want TLS? that is rediss://)")
    return ""
