"""What kept a sidecar from being read or written -> the sentence for a person."""

from __future__ import annotations

from pathlib import Path

from producer.formats.xmp_sidecar import SidecarError
from worker.contract.i18n import gettext as _
from worker.contract.local.files import UnfitFileError
from worker.contract.printable import printable
from worker.contract.reasons import os_reason


def problem_with(file: Path, error: OSError | ValueError) -> str:
    """Return the sentence: what is no sidecar stays as it is, whatever it is."""
    shown = printable(str(file))
    if isinstance(error, ValueError):
        # Of a record that somebody made: a NUL in a name, or none at all.
        why = error if isinstance(error, SidecarError) else _("no file can have such a name")
        return _("{file} is unchanged: {reason}").format(file=shown, reason=why)
    if isinstance(error, UnfitFileError):
        return _("{file} is unchanged: {reason}").format(file=shown, reason=error.strerror)
    return _("{file} cannot be written: {reason}").format(file=shown, reason=os_reason(error))
