"""SIGINT or SIGTERM -> one exception, out of which a command cleans up.

While a command still loads, there is nothing to clean up: it ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

STOPS: Final = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED: Final = 130
_AGAIN_S: Final = 0.01
# As shells report a program that a signal has ended.
_SIGNALLED: Final = 128


class Stopped(KeyboardInterrupt):
    """A signal asks the command to stop."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """The exit code that says which signal it was: 130 or 143."""
        return _SIGNALLED + self.number


class _EndAtOnce:
    """A handler that ends the process."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __call__(self, number: int, _frame: object) -> NoReturn:
        # No exception: in the midst of an import, some library might catch it.
        os._exit(self._code or _SIGNALLED + number)


def end_at_once(code: int = 0) -> None:
    """Let a signal end the process, which has nothing to clean up, with this exit code.

    0 stands for the one that says which signal it was: 130 or 143. A signal that is ignored, as one
    may be by a process in the background, stays so.
    """
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _EndAtOnce(code))


def end_as_usual() -> None:
    """Undo `end_at_once`, if it was called: from here on there may be something to clean up."""
    if isinstance(signal.getsignal(signal.SIGINT), _EndAtOnce):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(signal.getsignal(signal.SIGTERM), _EndAtOnce):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let a stop from a service manager clean up as Ctrl-C does, and neither be lost.

    Raises:
        Stopped: in the block, where a signal finds it. Further signals are ignored.
    """
    before = {number: signal.signal(number, _stop) for number in STOPS}
    hook_before = sys.unraisablehook

    def hook(ignored: UnraisableHookArgs) -> None:
        # It came in the middle of a destructor, out of which Python lets no exception: once more.
        if isinstance(ignored.exc_value, Stopped):
            number = ignored.exc_value.number
            signal.signal(signal.SIGALRM, lambda _number, frame: _stop(number, frame))
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
        else:
            hook_before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook_before
        if signal.getsignal(signal.SIGINT) is _stop:  # else it ends, and nothing stops that
            for number, handler in before.items():
                signal.signal(number, handler)


def _stop(number: int, _frame: object) -> NoReturn:
    # Once is enough: a second Ctrl-C must not stop the stopping.
    for one in STOPS:
        signal.signal(one, signal.SIG_IGN)
    raise Stopped(number)
