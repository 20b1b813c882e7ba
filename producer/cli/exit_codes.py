"""What ends a command -> one line on standard error and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from functools import wraps
from typing import Final, NoReturn, ParamSpec

import click

from producer.errors import ProducerError, UsageError, in_tree
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable_lines
from worker.contract.reasons import reason
from worker.contract.stops import INTERRUPTED, stoppable

OK: Final = 0
COULD_NOT_RUN: Final = ProducerError.exit_code
WRONG_USAGE: Final = UsageError.exit_code
SOME_FAILED: Final = 3

P = ParamSpec("P")


def exits_with_code(command: Callable[P, int]) -> Callable[P, None]:
    """Run a verb and end the process with its exit code; what ends it early is one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with stoppable():
                sys.exit(command(*args, **kwargs))
        except (click.ClickException, BrokenPipeError):
            raise  # click's own business
        except KeyboardInterrupt:
            # One that came inside exec(), as in a dataclass being made, is remembered even when
            # caught: `python -m` would end by the signal. The next exec() forgets it.
            exec("")  # noqa: S102
            sys.exit(INTERRUPTED)
        except Exception as e:
            known = in_tree(e)
            if known is not None and known.exit_code == WRONG_USAGE:
                raise click.UsageError(str(known)) from e
            if known is None and not isinstance(e, OSError):
                raise
            _fail(_reason(known or e))

    return run


def echo(message: str) -> None:
    """Say something to a person, apart from the data, in their language."""
    click.echo(printable_lines(message), err=True)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _("the disk is full: make room, then run it again (submit continues with --resume)")
    return str(error) if isinstance(error, ProducerError) else str(reason(str(error)))


def _fail(message: str) -> NoReturn:
    echo(_("error: {message}").format(message=" ".join(message.split())))
    sys.exit(COULD_NOT_RUN)
