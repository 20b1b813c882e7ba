"""What may end the producer's work: a tree of errors, each with the exit code of its command.

    ProducerError                      1
    +-- UsageError (ValueError)        2  what was asked for cannot be done as it was asked
    |   +-- NoSuchPathError               a path leads nowhere, and no pattern matches
    |   +-- NoImagesError                 the paths hold no image
    |   +-- LabelsNeededError             the model has no labels of its own, and none were given
    |   +-- RecordsError                  a file holds something else than records
    |   +-- ExistingRecordsError          a file holds something that nobody said may go
    |   +-- StoreError                    a store cannot be reached from here, or refuses
    |   `-- UnknownFormatError            no format has this ending, or not in this way
    +-- UnavailableError                  Redis or a private server cannot be used now
    |   `-- JobLostError                  Redis does not know a job that is under way
    +-- NoWorkerError                     no worker is online
    +-- NoSuchJobError                    there is no job with this id, or it has expired
    +-- NoResultsError                    there is nothing to write
    +-- ServerError                       a `producer serve` does not answer, or refuses
    +-- EncodingError                     labels cannot be embedded here
    +-- InUseError                        another command writes the file
    `-- NotInstalledError                 an extra is missing

Errors of the worker's contract, of Redis and of Celery get their place in it by `in_tree`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from worker.contract.extras import ExtraError, incomplete
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelsError
from worker.contract.settings import SettingsError


class ProducerError(Exception):
    """What ended the work, in one sentence for a person."""

    exit_code: ClassVar[int] = 1


class UsageError(ProducerError, ValueError):
    """What was asked for cannot be done as it was asked."""

    exit_code: ClassVar[int] = 2


class NoSuchPathError(UsageError):
    """A path leads nowhere, and no pattern of that form matches."""


class NoImagesError(UsageError):
    """The paths hold no image."""


class LabelsNeededError(UsageError):
    """The model has no labels of its own, and none were given."""


class RecordsError(UsageError):
    """A file holds something else than records."""


class ExistingRecordsError(UsageError):
    """What was to be written holds something already, and nobody said that it may go."""


class StoreError(UsageError):
    """A store cannot be reached from here, or refuses."""


class UnknownFormatError(UsageError):
    """No format has this ending, or records cannot be written in this way."""


class UnavailableError(ProducerError):
    """Redis, or a server or worker of our own, cannot be used now."""


class JobLostError(UnavailableError):
    """Redis does not know a job that is under way."""


class NoWorkerError(ProducerError):
    """No worker is online."""


class NoSuchJobError(ProducerError):
    """There is no job with this id, or it has expired."""


class NoResultsError(ProducerError):
    """There is nothing to write."""


class ServerError(ProducerError):
    """A `producer serve` does not answer, or refuses."""


class EncodingError(ProducerError):
    """Labels cannot be embedded here."""


class InUseError(ProducerError):
    """Another command writes the file."""


class NotInstalledError(ProducerError):
    """What is asked for needs an extra that is not installed."""


def in_tree(error: Exception) -> ProducerError | None:
    """Return an error as one of the tree, with the same sentence; None if it has no place there."""
    if isinstance(error, ProducerError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return NotInstalledError(", ".join(incomplete(error)))
    for foreign, own in _places():
        if isinstance(error, foreign):
            return own(str(error))
    return _of_redis(error)


def _places() -> tuple[tuple[type[Exception], type[ProducerError]], ...]:
    # Only here, when something has gone wrong: these load Redis' client, which takes a while.
    from worker.contract.local.redis_server import EmbeddedError  # noqa: PLC0415
    from worker.contract.redis.connections import BrokerUnreachableError  # noqa: PLC0415
    from worker.contract.redis.rights import ServerUnfitError  # noqa: PLC0415
    from worker.contract.stores import jobs  # noqa: PLC0415

    return (
        (SettingsError, UsageError),
        (LabelsError, UsageError),
        (ExtraError, NotInstalledError),
        (BrokerUnreachableError, UnavailableError),
        (ServerUnfitError, UnavailableError),
        (EmbeddedError, UnavailableError),
        (jobs.NoSuchJobError, NoSuchJobError),
    )


def _of_redis(error: Exception) -> UnavailableError | None:
    import redis  # noqa: PLC0415 - as `_places`
    from kombu.exceptions import OperationalError  # noqa: PLC0415

    from worker.contract.redis.errors import reason_of  # noqa: PLC0415

    if not isinstance(error, (redis.RedisError, OperationalError)):
        return None
    return UnavailableError(
        _("lost the connection to Redis: {reason}").format(reason=reason_of(error))
    )


@contextmanager
def raises_producer_errors() -> Iterator[None]:
    """Let what ends the block do so as one of the tree, if it has a place there."""
    try:
        yield
    except ProducerError:
        raise
    except Exception as e:
        if (known := in_tree(e)) is None:
            raise
        raise known from e
