"""What may keep the work in the queue from being done -> sentences for a person."""

from __future__ import annotations

from worker.contract.i18n import gettext as _


def full_sentence(percent: int) -> str:
    """Return what a person should know of a Redis whose memory is short."""
    return _(
        "Redis is {percent} % full: nothing more is sent until there is room. producer results JOB "
        "--drop, and producer cancel JOB --drop, free what a job holds"
    ).format(percent=percent)


def later_sentence(messages: int) -> str:
    """Return what a person should know of messages that the workers here cannot read."""
    return _(
        "{messages:,} messages are of a later version: they wait for workers that can read them"
    ).format(messages=messages)


def lost_sentence(job: str, images: int) -> str:
    """Return what a person should know of images whose messages have vanished."""
    return _(
        "{images:,} images of job {job} are lost to the queue: their messages were purged, revoked "
        "or deleted. They count as failed (message_lost); the same submit with --resume sends them "
        "again"
    ).format(images=images, job=job)
