"""The cache directory for what is made from models, also for a user without a home."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.contract.i18n import gettext_noop as N_
from worker.errors import NoCacheError

_NAME: Final = "wanwu-tagger"
_HUB: Final = "huggingface"
_WRITABLE_BY_OTHERS: Final = 0o022


def cache_directory() -> Path:
    """Return `wanwu-tagger` in the user's cache directory, else one below that of temporary files.

    Raises:
        NoCacheError: neither can be used.
    """
    caches = _caches()
    if caches and _is_usable(caches / _NAME):
        return caches / _NAME
    return _private()


def provide_home() -> None:
    """Give a user without a home one for this process, or without a cache one for the hub's files.

    The libraries take "~" for a directory of that name, or raise, as for `docker run --user 12345`.
    """
    with suppress(NoCacheError):
        if _home() is None:
            os.environ.setdefault("LOGNAME", str(os.getuid()))
            os.environ["HOME"] = str(_private())
        caches = _caches()
        if "HF_HOME" not in os.environ and caches and not _is_usable(caches / _HUB):
            os.environ["HF_HOME"] = str(_private() / _HUB)


def _caches() -> Path | None:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given)
    home = _home()
    return home and home / ".cache"


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # HOME is not set, and the system does not know this user.
        return None


def _is_usable(directory: Path) -> bool:
    """Whether a directory is there, or can be made."""
    if directory.is_dir():
        return True
    there = next(parent for parent in directory.parents if parent.exists())
    return os.access(there, os.W_OK | os.X_OK)


def _private() -> Path:
    """Return a directory for temporary files that no other user can have written to."""
    try:
        directory = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
    except OSError as e:
        raise NoCacheError(
            N_("there is no directory to keep models in ({reason}): set XDG_CACHE_HOME"), reason=e
        ) from e
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or status.st_mode & _WRITABLE_BY_OTHERS:
        raise NoCacheError(
            N_("others may write to {directory}, so no models are kept there: set XDG_CACHE_HOME"),
            directory=directory,
        )
    return directory
