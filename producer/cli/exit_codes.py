"""What ends a command -> one line on standard error and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Final, NoReturn, ParamSpec

import click
import redis
from kombu.exceptions import OperationalError

from producer.backend.connection import JobLostError
from producer.cli.output import ExistingRecordsError
from producer.embeddings.text_encoder import EncodingError
from producer.formats import RecordsError, UnknownFormatError
from producer.formats.output_lock import InUseError
from producer.jobs.http_client import ServerError
from producer.jobs.results import NoResultsError
from producer.jobs.run import LabelsNeededError, NoImagesError, NoWorkerError
from producer.sources.stores import StoreError
from worker.contract.extras import ExtraError, incomplete
from worker.contract.i18n import gettext as _
from worker.contract.labels import LabelsError
from worker.contract.local.redis_server import EmbeddedError
from worker.contract.redis.errors import reason_of
from worker.contract.redis.server_check import ServerUnfitError
from worker.contract.settings import SettingsError
from worker.contract.stores.jobs import NoSuchJobError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

OK: Final = 0
COULD_NOT_RUN: Final = 1
SOME_FAILED: Final = 3
INTERRUPTED: Final = 130

P = ParamSpec("P")

_COULD_NOT_RUN: Final = (
    ServerError,
    EmbeddedError,
    EncodingError,
    ExtraError,
    InUseError,
    NoResultsError,
    NoWorkerError,
    NoSuchJobError,
    JobLostError,
    ServerUnfitError,
)
_WRONG_USAGE: Final = (
    SettingsError,
    LabelsError,
    LabelsNeededError,
    NoImagesError,
    RecordsError,
    ExistingRecordsError,
    StoreError,
    UnknownFormatError,
)


def exits_with_code(command: Callable[P, int]) -> Callable[P, None]:
    """Run a verb and end the process with its exit code; what stops it is told in one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _stoppable():
                sys.exit(command(*args, **kwargs))
        except _WRONG_USAGE as e:
            raise click.UsageError(str(e)) from e
        except ModuleNotFoundError as e:
            _fail(", ".join(incomplete(e)))
        except (redis.RedisError, OperationalError) as e:
            _fail(_("lost the connection to Redis: {reason}").format(reason=reason_of(e)))
        except (click.ClickException, BrokenPipeError):
            raise  # click's own business
        except OSError as e:
            full = e.errno in {errno.ENOSPC, errno.EDQUOT}
            _fail(_disk_full() if full else str(e))
        except _COULD_NOT_RUN as e:
            _fail(str(e))
        except KeyboardInterrupt:
            # One that came inside exec(), as in a dataclass being made, is remembered even when
            # caught: `python -m` would end by the signal. The next exec() forgets it.
            exec("")  # noqa: S102
            sys.exit(INTERRUPTED)

    return run


def echo(message: str) -> None:
    """Tell the user something, apart from the data, in their language."""
    click.echo(message, err=True)


_STOPS: Final = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S: Final = 0.01


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a stop from a service manager clean up as Ctrl-C does, and neither be lost."""
    before = {number: signal.signal(number, _interrupt) for number in _STOPS}
    hook_before = sys.unraisablehook

    def hook(ignored: UnraisableHookArgs) -> None:
        # It came in the middle of a destructor, out of which Python lets no exception: once more.
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            signal.signal(signal.SIGALRM, _interrupt)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            hook_before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook_before
        if signal.getsignal(signal.SIGINT) is _interrupt:  # else it ends, and nothing stops that
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    # Once is enough: a second Ctrl-C must not stop the stopping.
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _disk_full() -> str:
    return _("the disk is full: make room, then run it again (submit continues with --resume)")


def _fail(message: str) -> NoReturn:
    echo(_("error: {message}").format(message=" ".join(message.split())))
    sys.exit(COULD_NOT_RUN)
