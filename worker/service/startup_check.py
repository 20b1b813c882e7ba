"""Settings -> a Redis that was found fit for a worker, or one sentence about what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import redis
import structlog
from celery.exceptions import WorkerShutdown

from worker.contract.redis.connections import BrokerUnreachableError, connect, unreachable
from worker.contract.redis.errors import reason_of
from worker.contract.redis.key_types import explained, is_wrong_type
from worker.contract.redis.rights import ServerUnfitError
from worker.contract.redis.server_check import (
    check_server,
    worker_commands,
    worker_result_commands,
)
from worker.contract.settings import Settings
from worker.errors import BrokerError

EXIT_CODE: Final = 1

log = structlog.get_logger()


def check_redis(settings: Settings) -> None:
    """Make sure that the Redis of the settings, and that of the results, can be used.

    Raises:
        BrokerUnreachableError: one is away.
        BrokerError: one cannot be used, or refuses the password.
    """
    keys, is_apart = settings.keys, settings.results != settings.broker_url
    wanted = {settings.broker_url: worker_commands(keys)}
    # Results beside the queue come and go with it: nobody waits for them.
    replicas = settings.redis_wait_replicas if is_apart else 0
    results = worker_result_commands(keys, replicas)
    wanted[settings.results] = wanted.get(settings.results, ()) + results
    for url, commands in wanted.items():
        try:
            with connect(url) as client:
                check_server(client, url, commands)
        except ServerUnfitError as e:
            raise BrokerError(e) from e
        except BrokerUnreachableError as e:
            # Waiting helps neither a wrong password nor a wrong database number.
            wrong = isinstance(e.__cause__, redis.ResponseError | redis.AuthenticationError)
            if wrong:
                raise BrokerError(e) from e
            raise
        except redis.RedisError as e:
            raise unreachable(url, e) from e


def explain(settings: Settings, error: BaseException) -> str:
    """Return why a connection was lost, with the name that holds another type, if that is it."""
    if is_wrong_type(error):
        with suppress(BrokerUnreachableError), connect(settings.broker_url) as client:
            return explained(error, client, settings.keys)
    return reason_of(error)


def check_early(settings: Settings) -> None:
    """Check Redis before the model is loaded; one that is away is waited for later, by Celery.

    Raises:
        BrokerError: Redis cannot be used.
    """
    try:
        check_redis(settings)
    except BrokerUnreachableError as e:
        log.warning("redis.waiting", reason=str(e))


def check_once(settings: Settings, refuse: Callable[[BrokerError], None]) -> Callable[[], None]:
    """Return a check of Redis that is made with the first connection, before anything else.

    `refuse` is called with the reason if the worker ends for it.
    """
    is_fit = False

    def check() -> None:
        nonlocal is_fit
        if is_fit:
            return
        try:
            check_redis(settings)
        except BrokerError as e:
            log.critical("redis.unfit", reason=str(e))
            refuse(e)
            raise WorkerShutdown(EXIT_CODE) from e
        is_fit = True

    return check
