"""The note beside an output file: which job writes it, and the lock of the command that does.

The lock is the kernel's (flock), so that none is left by a process that was killed. It is on the
note, as the file itself is replaced by others of its name; and on the file too, if it is there, as
it may have another name, with another note (a hard link).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from producer.arguments import argument
from producer.errors import InUseError
from worker.contract.i18n import gettext as _
from worker.contract.local.files import UnfitFileError, read_regular
from worker.contract.local.neighbours import open_own
from worker.contract.reasons import os_reason

SUFFIX: Final = ".job"
_MOST_BYTES: Final = 4096
# Anything may stand in a file of this name.
_JOB: Final = re.compile("[0-9A-Za-z_.-]{1,64}")
_LOCKS: Final = Path("/proc/locks")
# Follows the job in a note: what stood in the file before the job is to go.
_REPLACES: Final = "replaces"
# File systems without locks, and directories in which nobody may leave a note.
_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
_NO_NOTES: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

Echo = Callable[[str], object]


class OutputLock:
    """What lies beside an output file while a command writes it, or until its job is taken over."""

    def __init__(self, file: Path, name: str = "") -> None:
        """Take the file, and what it is called in sentences if not by its path."""
        self._file: Final = file
        self._name: Final = name or str(file)
        real = Path(os.path.realpath(file))
        self.path: Final = real.with_name(f"{real.name}{SUFFIX}")

    @property
    def job(self) -> str:
        """The job that writes the file, or wrote it and did not end; empty if there is none."""
        job = self._note().partition(" ")[0]
        return job if _JOB.fullmatch(job) else ""

    @property
    def replaces(self) -> bool:
        """Whether that job was to replace what stood in the file before."""
        return self._note().partition(" ")[2] == _REPLACES

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Note that the file is this job's from now on; where no note may lie, nobody knows."""
        note = f"{job} {_REPLACES}" if replaces else job
        try:
            self._write(f"{note}\n".encode())
        except OSError as e:
            if not _is_refused(e):
                raise

    def end(self) -> None:
        """Forget the job. Whoever holds the note removes it."""
        if self._note():
            self._write(b"")

    @contextmanager
    def held(self, echo: Echo) -> Iterator[None]:
        """Keep other commands from the file; `echo` is called if that cannot be done here.

        Raises:
            InUseError: another command holds it, named if it is seen from here.
        """
        lock = self._lock(echo)
        file_lock = None
        try:
            file_lock = self._lock_file()
            yield
        finally:
            if file_lock is not None:
                os.close(file_lock)
            if lock is not None:
                if not os.fstat(lock).st_size:
                    self.path.unlink(missing_ok=True)
                os.close(lock)

    def _note(self) -> str:
        try:
            note = read_regular(self.path, _MOST_BYTES, os.O_NOFOLLOW)
        except (FileNotFoundError, UnfitFileError):
            return ""
        return note.decode("ascii", "replace").strip()

    def _write(self, note: bytes) -> None:
        with open_own(self.path) as stream:
            stream.truncate()
            stream.write(note)

    def _lock(self, echo: Echo) -> int | None:
        while True:
            try:
                with open_own(self.path) as stream:
                    lock = os.dup(stream.fileno())
            except OSError as e:
                if not _is_refused(e):
                    raise
                self._warn(echo, e)
                return None
            try:
                self._flock(lock)
            except OSError as e:
                if e.errno not in _NO_LOCKS:
                    os.close(lock)
                    raise
                self._warn(echo, e)
                return lock
            if self._is(lock):
                return lock
            # Its holder has just removed it.
            os.close(lock)

    def _lock_file(self) -> int | None:
        """Lock the file too, if it is there; the note's lock has said what cannot be locked."""
        try:
            if not stat.S_ISREG(self._file.stat().st_mode):
                return None
            lock = os.open(self._file, os.O_RDWR | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            self._flock(lock)
        except OSError:
            os.close(lock)
            return None
        return lock

    def _flock(self, lock: int) -> None:
        """Lock an open file, or close it and say who has it.

        Raises:
            InUseError: another command has.
            OSError: it cannot be locked here.
        """
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            holder = _holder(lock)
            os.close(lock)
            raise InUseError(self._in_use(holder)) from e

    def _warn(self, echo: Echo, error: OSError) -> None:
        echo(
            _("note: nothing keeps other commands from writing {file}: {reason}").format(
                file=self._name, reason=os_reason(error)
            )
        )

    def _is(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), self.path.lstat())
        except FileNotFoundError:
            return False

    def _in_use(self, holder: int | None) -> str:
        if holder:
            return _(
                "{file} is being written by another command (process {pid}): choose another {out}"
            ).format(file=self._name, pid=holder, out=argument("out"))
        return _("{file} is being written by another command: choose another {out}").format(
            file=self._name, out=argument("out")
        )


def _is_refused(error: OSError) -> bool:
    """Whether no note may lie there: the directory is closed to us, or something else is there."""
    return isinstance(error, UnfitFileError) or error.errno in _NO_NOTES


def lock_of_url(url: str) -> OutputLock:
    """Return the lock of an output that lies elsewhere, for all commands of this user here."""
    digest = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return OutputLock(Path(tempfile.gettempdir()) / f"wanwu-{os.getuid()}-{digest}", url)


def _holder(lock: int) -> int | None:
    """Return the process that holds the lock on an open file, if the kernel tells."""
    inode = str(os.fstat(lock).st_ino)
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK ADVISORY WRITE 1234 08:01:131 0 EOF; one that waits has an arrow in it.
        match line.split():
            case [_kind, _way, _mode, "WRITE", process, place, *_rest] if (
                place.rpartition(":")[2] == inode
            ):
                return int(process) if int(process) > 0 else None
    return None
