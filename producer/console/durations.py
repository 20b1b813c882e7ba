"""Seconds -> a time span for a person."""

from __future__ import annotations

from typing import Final

from worker.contract.i18n import gettext as _

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def age(seconds: float) -> str:
    """Return a time span in its largest sensible unit."""
    if seconds < _MINUTE_S:
        return _("{seconds:.0f} s").format(seconds=max(seconds, 0))
    if seconds < _HOUR_S:
        return _("{minutes:.0f} min").format(minutes=seconds / _MINUTE_S)
    return _("{hours:.1f} h").format(hours=seconds / _HOUR_S)
