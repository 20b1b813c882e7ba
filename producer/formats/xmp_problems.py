"""What kept a sidecar from being read or written -> the sentence for a person."""

from __future__ import annotations

from pathlib import Path

from worker.contract.i18n import gettext as _
from worker.contract.local.files import UnfitFileError
from worker.contract.printable import printable
from worker.contract.reasons import os_reason, reason


def problem_with(file: Path, error: OSError | ValueError) -> str:
    """Return the sentence: what is no sidecar stays as it is, whatever it is."""
    shown = printable(str(file))
    if isinstance(error, ValueError):
        return _("{file} is unchanged: {reason}").format(file=shown, reason=reason(str(error)))
    if isinstance(error, UnfitFileError):
        return _("{file} is unchanged: {reason}").format(file=shown, reason=error.strerror)
    return _("{file} cannot be written: {reason}").format(file=shown, reason=os_reason(error))
