"""Broker -> who is online, with which model. Celery's own remote control asks them."""

from __future__ import annotations

import msgspec
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from worker.contract.i18n import gettext as _
from worker.contract.redis.connections import BrokerUnreachableError, unreachable
from worker.contract.redis.errors import passes, reason_of
from worker.contract.secret import SecretUrl


class BrokerRefusesError(BrokerUnreachableError):
    """Redis answers, but refuses for a while what is asked of it: its memory is full, and so on."""


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of itself. `notice` is a sentence its model's users should read."""

    name: str = ""
    model: str = ""
    device: str = ""
    precision: str = ""
    has_labels: bool = False
    notice: str | None = None
    images: int = 0
    failed: int = 0
    images_per_s: float | None = None
    version: str = ""
    image_roots: tuple[str, ...] = ()
    image_urls: tuple[str, ...] = ()


def online(app: Celery, timeout_s: float, *, limit: int | None = None) -> list[WorkerInfo]:
    """Return the workers that answer within `timeout_s`; with a limit, as soon as so many have.

    Raises:
        BrokerUnreachableError: the broker is away.
        BrokerRefusesError: it is there: to ask the workers is to write, which it refuses.
    """
    try:
        stats = app.control.inspect(timeout=timeout_s, limit=limit).stats() or {}
    except (OperationalError, OSError, redis.RedisError) as e:
        url = SecretUrl(app.conf.broker_url)
        if any(isinstance(each, redis.ResponseError) and passes(each) for each in (e, e.__cause__)):
            msg = _("Redis at {url} refuses work: {reason}").format(url=url, reason=reason_of(e))
            raise BrokerRefusesError(msg) from e
        raise BrokerUnreachableError(unreachable(url, e)) from e
    return [_info(name, told) for name, told in sorted(stats.items())]


def _info(name: str, told: object) -> WorkerInfo:
    about = told.get("tagger") if isinstance(told, dict) else None
    try:
        # Fields that this version does not know are passed over.
        info = msgspec.convert(about, WorkerInfo)
    except msgspec.ValidationError:
        # A worker of another program, or of another version: online all the same.
        info = WorkerInfo(has_labels=True)
    return msgspec.structs.replace(info, name=name)
