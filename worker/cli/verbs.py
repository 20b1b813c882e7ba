"""What all verbs share: how one is declared, how it loads what it needs, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Final, NoReturn, ParamSpec

import click

from worker.contract.extras import missing, remedy
from worker.contract.i18n import gettext as _
from worker.contract.imports import importing
from worker.contract.labels import LabelsError
from worker.contract.printable import printable_lines
from worker.contract.settings import SettingsError
from worker.contract.stops import INTERRUPTED, end_as_usual
from worker.errors import NoModelError, TaggerError

P = ParamSpec("P")
WRONG_USE: Final = click.UsageError.exit_code


def verb(example: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return what makes a function a verb; the help ends with its example."""
    return click.command(epilog=f"Example: {example}")


def exits_with_code(command: Callable[P, int]) -> Callable[P, None]:
    """Run a verb and end the process with its exit code; what ends it early is one line."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if missing("worker"):
            message = _("this command needs the worker's libraries: {install}")
            fail(message.format(install=remedy("worker")))
        try:
            sys.exit(command(*args, **kwargs))
        except (SettingsError, LabelsError) as e:
            raise click.UsageError(str(e)) from e
        except NoModelError as e:
            fail(str(e), WRONG_USE)
        except TaggerError as e:
            fail(str(e))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    return run


@contextmanager
def loading() -> Iterator[None]:
    """Import in the block; after it a signal interrupts work, which may have to be undone."""
    with importing():
        yield
    end_as_usual()


def echo(line: str) -> None:
    """Say something to a person, apart from the data."""
    click.echo(printable_lines(line), err=True)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with an exit code; the message says why."""
    echo(_("error: {message}").format(message=message))
    sys.exit(code)
