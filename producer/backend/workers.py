"""Broker -> who is online, with which model. Celery's own remote control asks them."""

from __future__ import annotations

import msgspec
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from worker.contract.i18n import gettext as _
from worker.contract.queue.url_numbers import broker_url_of
from worker.contract.redis.connections import BrokerUnreachableError, unreachable
from worker.contract.redis.errors import passes, reason_of
from worker.contract.worker_info import STATS_KEY, WorkerInfo

__all__ = ["BrokerRefusesError", "WorkerInfo", "online"]


class BrokerRefusesError(BrokerUnreachableError):
    """Redis answers, but refuses for a while what is asked of it: its memory is full, and so on."""


def online(app: Celery, timeout_s: float, *, limit: int | None = None) -> list[WorkerInfo]:
    """Return the workers that answer within `timeout_s`; with a limit, as soon as so many have.

    Raises:
        BrokerUnreachableError: the broker is away.
        BrokerRefusesError: it is there: to ask the workers is to write, which it refuses.
    """
    try:
        stats = app.control.inspect(timeout=timeout_s, limit=limit).stats() or {}
    except (OperationalError, OSError, redis.RedisError) as e:
        url = broker_url_of(app)
        if any(isinstance(each, redis.ResponseError) and passes(each) for each in (e, e.__cause__)):
            msg = _("Redis at {url} refuses work: {reason}").format(url=url, reason=reason_of(e))
            raise BrokerRefusesError(msg) from e
        raise unreachable(url, e) from e
    return [_info(name, reply) for name, reply in sorted(stats.items())]


def _info(name: str, reply: object) -> WorkerInfo:
    about = reply.get(STATS_KEY) if isinstance(reply, dict) else None
    try:
        # Fields that this version does not know are passed over.
        info = msgspec.convert(about, WorkerInfo)
    except msgspec.ValidationError:
        # A worker of another program, or of another version: online all the same.
        info = WorkerInfo(has_labels=True)
    return msgspec.structs.replace(info, name=name)
