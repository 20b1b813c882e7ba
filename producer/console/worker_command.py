"""What is to be tagged, and where the queue is -> the command that starts a worker for it."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from producer.arguments import argument
from producer.backend.workers import WorkerInfo
from producer.sources.scan import STANDARD_INPUT
from worker.contract.i18n import gettext as _
from worker.contract.printable import printable
from worker.contract.settings import Settings, SettingsError
from worker.contract.urls import is_url

_ANYWHERE: Final = "DIR"
_MAGIC: Final = frozenset("*?[")
_MOST_DIRECTORIES: Final = 3


def start_worker(settings: Settings, paths: Sequence[str], *, as_blobs: bool = False) -> str:
    """Return the command, as it is typed, that starts a worker here for these paths.

    It names no password: arguments are visible in `ps`.
    """
    command = "worker start" if as_blobs else f"worker start {_images(paths)}"
    shown, here = str(settings.broker_url), Settings()
    with suppress(SettingsError):
        here = Settings.from_env()
    if settings.keys != here.keys:
        command = f"WANWU_PREFIX={settings.keys.prefix} {command}"
    if settings.broker_url == here.broker_url:
        return command
    if settings.broker_url.has_secret:
        return _("export WANWU_BROKER_URL=... (the same URL), then {command}").format(
            command=command
        )
    return f"WANWU_BROKER_URL={shlex.quote(shown)} {command}"


def can_embed() -> bool:
    """Whether what --embedded needs is installed."""
    return bool(importlib.util.find_spec("torch"))


def way_out(settings: Settings, hidden: Sequence[str]) -> str:
    """Return what lets the paths or URLs be read: a worker that may, or bytes instead of files."""
    command = start_worker(settings, hidden)
    if any(map(is_url, hidden)):
        return command
    return _("{command} (or submit with {blobs})").format(command=command, blobs=argument("blobs"))


def unread(workers: Sequence[WorkerInfo], paths: Sequence[str]) -> list[str]:
    """Return those of the paths below which no worker may read, as far as that is known here."""
    known = [one for one in workers if one.version]
    if len(known) < len(workers):
        return []  # One of another version or program: nobody knows.
    places = [name for name in paths if name != STANDARD_INPUT]
    return [place for place in places if not any(may_read(one, place) for one in known)]


def may_read(worker: WorkerInfo, place: str) -> bool:
    """Whether a worker may read below a path or URL, if it is there for it as it is here."""
    if is_url(place):
        return any(prefix == "*" or place.startswith(prefix) for prefix in worker.image_urls)
    real = os.path.realpath(_directory(place))
    roots = map(os.path.realpath, worker.image_roots)
    return any(os.path.commonpath([real, root]) == root for root in roots)


def _images(paths: Sequence[str]) -> str:
    """Return the options that name the directories, or beginnings of URLs, of the paths."""
    local = {_directory(name) for name in paths if name != STANDARD_INPUT and not is_url(name)}
    urls = {_beginning(name) for name in paths if is_url(name)}
    if len(local) > _MOST_DIRECTORIES:
        local = {os.path.commonpath(local)} - {os.sep}
    places = sorted(local)[:_MOST_DIRECTORIES] + sorted(urls)[:_MOST_DIRECTORIES]
    names = [shlex.quote(printable(place)) for place in places] or [_ANYWHERE]
    return " ".join(f"--allow {name}" for name in names)


def _directory(name: str) -> str:
    """Return the directory that holds all that a path or pattern means."""
    path = Path(os.path.abspath(name))  # noqa: PTH100 - links stay as the user knows them
    if path.is_dir():
        return str(path)
    if path.exists():
        return str(path.parent)
    parts = path.parts
    plain = next((n for n, part in enumerate(parts) if _MAGIC & set(part)), len(parts) - 1)
    return str(Path(*parts[:plain]))


def _beginning(url: str) -> str:
    plain = next((url[:n] for n, sign in enumerate(url) if sign in _MAGIC), url)
    return f"{plain.rpartition('/')[0]}/"
