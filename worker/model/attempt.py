"""A step of libraries on files that anybody may have written -> its result, or one sentence."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.reasons import reason
from worker.errors import ExportError


def attempt(step: Callable[[], Any], what: Message, files: tuple[str, ...] = ()) -> Any:
    """Return what `step` returns; whatever it raises becomes one sentence.

    Of `files` one is to blame where a library fell over what it found in them.

    Everything is caught: models, processors and tokenizers run the code of several libraries, some
    of it compiled, on files that anybody may have written.
    """
    try:
        return step()
    except ExportError:
        raise
    except OSError as e:
        raise ExportError(
            N_("{what} cannot be read: {reason}"), what=what, reason=library_reason(e)
        ) from e
    except ImportError as e:
        raise ExportError(
            N_("{what} needs a library that is not installed: {reason}"),
            what=what,
            reason=_first_line(e),
        ) from e
    except Exception as e:
        if files and isinstance(e, LookupError | AttributeError | TypeError):
            raise ExportError(
                N_("{what} cannot be used: something is wrong in {files}: get them again"),
                what=what,
                files=", ".join(files),
            ) from e
        raise ExportError(
            N_("{what} cannot be used: {reason}"), what=what, reason=_first_line(e)
        ) from e


def library_reason(error: OSError) -> Message:
    """Return why a library could not read or fetch something, in one line."""
    if error.errno == errno.ENOSPC:
        return Message(N_("the disk is full"))
    return reason(_first_line(error))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
