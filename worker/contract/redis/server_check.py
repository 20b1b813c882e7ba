"""A Redis -> whether a worker can use it: its version, its mode, and what the user may do there.

Otherwise, what a server cannot do would be found out later, command by command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import redis

from worker.contract.i18n import gettext_noop as N_
from worker.contract.keys import Keys
from worker.contract.redis.errors import passes, reason_of
from worker.contract.redis.rights import NO_SCRIPT, Command, ServerUnfitError, rights_error

OLDEST: Final = (6, 2)


# What each does in Redis, a command for each kind of key. They are queued and discarded, never
# executed: the server looks at the command, the keys and the channels when it queues.


def producer_commands(keys: Keys, replicas: int = 0) -> tuple[Command, ...]:
    """Return what a producer that waits for so many replicas does where the queue is."""
    queue, probe, binding = keys.queue, keys.probe, f"{keys.prefix}_kombu.binding.probe"
    return (
        ("PING",),
        ("LPUSH", queue, "x"),
        ("RPUSH", queue, "x"),
        ("LINDEX", queue, -1),
        ("LLEN", queue),
        ("EVALSHA", NO_SCRIPT, 1, probe),
        ("EVAL", "return 1", 1, probe),
        ("LRANGE", queue, 0, -1),
        ("LREM", queue, 1, "x"),
        ("LPOP", queue, 1),
        ("HVALS", keys.unacked),
        ("HMGET", probe, "x"),
        ("HINCRBY", probe, "x", 1),
        ("SETBIT", probe, 0, 1),
        ("GET", probe),
        ("SET", probe, "x", "EX", 1),
        ("SETEX", probe, 1, "x"),
        ("EXPIRE", probe, 1),
        ("TTL", probe),
        ("EXISTS", probe),
        ("UNLINK", probe),
        ("COPY", probe, probe),
        ("HSET", probe, "x", "x"),
        ("HGETALL", probe),
        ("HLEN", probe),
        ("HDEL", probe, "x"),
        ("GETBIT", probe, 0),
        ("ZADD", probe, 0, "x"),
        ("ZREVRANGE", probe, 0, 1),
        ("SMEMBERS", binding),
        ("PUBLISH", f"{keys.prefix}/0.celery.pidbox", "x"),
        ("TIME",),
        *replica_commands(replicas),
    )


def replica_commands(replicas: int) -> tuple[Command, ...]:
    """Return what whoever waits for so many replicas does beside writing."""
    return (("WAIT", replicas, 1),) if replicas else ()


def worker_commands(keys: Keys) -> tuple[Command, ...]:
    """Return what a worker does where the queue is."""
    queue, processing, probe = keys.queue, keys.processing, keys.probe
    unacked, index = keys.unacked, keys.unacked_index
    return (
        *producer_commands(keys),
        ("BLMOVE", queue, processing, "RIGHT", "LEFT", 1),
        ("LMOVE", queue, processing, "RIGHT", "LEFT"),
        ("LRANGE", processing, 0, -1),
        ("LREM", processing, 1, "x"),
        ("HSET", unacked, "x", "x"),
        ("HGET", unacked, "x"),
        ("HDEL", unacked, "x"),
        ("ZADD", index, 0, "x"),
        ("ZSCORE", index, "x"),
        ("ZREM", index, "x"),
        ("ZRANGE", index, 0, 1, "BYSCORE"),
        ("HEXISTS", unacked, "x"),
        ("HKEYS", unacked),
        ("SADD", f"{keys.prefix}_kombu.binding.probe", "x"),
        ("MGET", probe),
        ("PUBLISH", f"{keys.prefix}/0.celeryev/worker.heartbeat", "x"),
        ("PSUBSCRIBE", f"{keys.prefix}/0.celery.pidbox"),
    )


def result_commands(keys: Keys) -> tuple[Command, ...]:
    """Return what a producer does where the results are."""
    result = keys.result("probe")
    return (("SETEX", result, 1, "x"), ("MGET", result), ("UNLINK", result))


def worker_result_commands(keys: Keys, replicas: int = 0) -> tuple[Command, ...]:
    """Return what a worker that waits for so many replicas does where the results are."""
    published = ("PUBLISH", keys.result("probe"), "x")
    return (*result_commands(keys), published, *replica_commands(replicas))


def write_commands(keys: Keys) -> tuple[Command, ...]:
    """Return what shows whether the server of the queue takes work at the moment."""
    return (("SETEX", keys.probe, 1, "x"), ("LPUSH", keys.queue, "x"))


def check_server(client: redis.Redis, url: object, commands: Iterable[Command]) -> None:
    """Make sure that these commands can be used at a server; nothing in it is touched.

    `url` is what the sentence calls it. What passes by itself (read-only, full, loading) is no
    reason to refuse.

    Raises:
        ServerUnfitError: too old, in cluster mode, or it lacks or denies a command.
        redis.RedisError: it does not answer, or refuses for a while.
    """
    _check_kind(client, url)
    missing = []
    denied: list[tuple[Command, redis.ResponseError]] = []
    for command, error in _refusals(client, commands):
        if isinstance(error, redis.exceptions.NoPermissionError):
            denied.append((command, error))
        elif "unknown command" in str(error).lower():
            missing.append(str(command[0]))
    if missing:
        raise ServerUnfitError(
            N_("Redis at {url} does not know {commands}: 6.2 or newer is needed, with it"),
            url=url,
            commands=", ".join(missing),
        )
    if denied:
        raise rights_error(url, denied)


def refusal(client: redis.Redis, commands: Iterable[Command]) -> str:
    """Return why a server that answers takes no work at the moment (READONLY, OOM, ...), or "".

    `commands` are what is to be done there.

    Raises:
        redis.RedisError: it does not answer.
    """
    for _, error in _refusals(client, commands):
        if passes(error):
            return reason_of(error)
    return ""


def _about(client: redis.Redis, section: str) -> dict[str, Any]:
    """Return a section of INFO, or nothing where the user may not read it."""
    answers: Any = client
    try:
        return dict(answers.info(section))
    except redis.ResponseError:
        return {}


def _check_kind(client: redis.Redis, url: object) -> None:
    """Refuse a server that is too old, or in cluster mode."""
    server = _about(client, "server")
    if "sentinel" in {server.get("redis_mode"), server.get("server_mode")}:  # Valkey's name
        raise ServerUnfitError(
            N_("{url} is a sentinel and no server: sentinel://HOST:26379/0?service=NAME"), url=url
        )
    version = str(server.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST:
        raise ServerUnfitError(
            N_("Redis at {url} is version {version}: 6.2 or newer is needed, or Valkey"),
            url=url,
            version=version,
        )
    if _about(client, "cluster").get("cluster_enabled"):
        raise ServerUnfitError(
            N_("Redis at {url} is in cluster mode, which a queue cannot use: take a single server"),
            url=url,
        )


def _refusals(
    client: redis.Redis, commands: Iterable[Command]
) -> list[tuple[Command, redis.ResponseError]]:
    """Return the commands that the server does not queue, each with what it says."""
    begin: Command = ("MULTI",)
    queued = list(commands)
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands([begin]))
        if (refused := _answer(connection)) is not None:
            # Without it, all that follows would be done.
            return [(begin, refused)]
        connection.send_packed_command(connection.pack_commands([*queued, ("DISCARD",)]))
        answers = [_answer(connection) for _ in queued]
        _answer(connection)
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
    pairs = zip(queued, answers, strict=True)
    return [(command, answer) for command, answer in pairs if answer is not None]


def _answer(connection: Any) -> redis.ResponseError | None:
    try:
        connection.read_response()
    except redis.ResponseError as e:
        return e
    return None
