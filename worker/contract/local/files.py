"""A name -> an open file that is what it should be. Nobody who makes files can make us wait.

In a directory that others may write to, a name says nothing about what a file is: it may be a FIFO,
a device, a link, or two gigabytes. So each file is opened once, without waiting, looked at by its
handle, and read up to a limit.

    open_regular, read_regular    files that we come across: a regular file, or an error
    open_given, read_given        files that a user names on purpose, so that a FIFO is meant:
                                  `--labels <(command)`, `/dev/stdin`; only the wait has an end
"""

from __future__ import annotations

import io
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.printable import printable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Non-blocking, or opening a FIFO would wait for its other end; no terminal becomes ours.
FLAGS: Final = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# So long nothing may come from what a user names that is no regular file.
WAIT_S: Final = 60.0
_KINDS: Final = {
    stat.S_IFDIR: N_("it is a directory"),
    stat.S_IFIFO: N_("it is a FIFO, not a regular file"),
    stat.S_IFSOCK: N_("it is a socket, not a regular file"),
    stat.S_IFCHR: N_("it is a device, not a regular file"),
    stat.S_IFBLK: N_("it is a device, not a regular file"),
    stat.S_IFLNK: N_("it is a link, which is not followed"),
}
_NO_STREAM: Final = frozenset({stat.S_IFDIR, stat.S_IFBLK})


class UnfitFileError(TranslatedError, OSError):
    """A file is not what it should be. Its sentence names it; `strerror` is the reason alone."""

    def __init__(self, file: Path, reason: str, /, **fields: Any) -> None:
        why = Message(reason, **fields)
        super().__init__(N_("{file}: {reason}"), file=printable(str(file)), reason=why)
        self.strerror = str(why)


def open_regular(file: Path, most_bytes: int | None = None, flags: int = 0) -> io.BufferedReader:
    """Open a regular file, of at most so many bytes, to be read; `flags` are those of `os.open`.

    Raises:
        UnfitFileError: it is something else, or larger.
        OSError: it cannot be opened.
    """
    stream = os.fdopen(_regular(file, os.O_RDONLY | flags), "rb")
    try:
        if most_bytes is not None:
            _refuse_size(file, os.fstat(stream.fileno()).st_size, most_bytes)
    except BaseException:
        stream.close()
        raise
    return stream


def open_to_change(file: Path, flags: int = 0) -> io.BufferedRandom:
    """Open a regular file to be read and written.

    Raises:
        UnfitFileError: it is something else.
        OSError: it cannot be opened.
    """
    return os.fdopen(_regular(file, os.O_RDWR | flags), "rb+")


def read_regular(file: Path, most_bytes: int, flags: int = 0) -> bytes:
    """Return what a regular file holds.

    Raises:
        UnfitFileError: it is something else, or holds more.
        OSError: it cannot be read.
    """
    with open_regular(file, most_bytes, flags) as stream:
        return _all_of(stream, file, most_bytes)


def open_given(file: Path, wait_s: float = WAIT_S) -> IO[bytes]:
    """Open a file that a user has named: a FIFO or a terminal too, of which each wait has an end.

    Raises:
        UnfitFileError: it is a directory or a disk; when read, nothing has come for too long.
        OSError: it cannot be opened.
    """
    descriptor = os.open(file, os.O_RDONLY | FLAGS)
    try:
        status = os.fstat(descriptor)
        if stat.S_IFMT(status.st_mode) in _NO_STREAM:
            refuse_kind(file, status)
        if stat.S_ISREG(status.st_mode):
            return os.fdopen(descriptor, "rb")
        return cast("IO[bytes]", io.BufferedReader(_Stream(descriptor, file, wait_s)))
    except BaseException:
        os.close(descriptor)
        raise


def read_given(file: Path, most_bytes: int) -> bytes:
    """Return what a file that a user has named holds.

    Raises:
        UnfitFileError: it holds more, or nothing has come for too long.
        OSError: it cannot be read.
    """
    with open_given(file) as stream:
        return _all_of(stream, file, most_bytes)


def refuse_kind(file: Path, status: os.stat_result) -> None:
    """Refuse what is no regular file.

    Raises:
        UnfitFileError: saying what it is.
    """
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), N_("it is not a regular file"))
        raise UnfitFileError(file, kind)


def _regular(file: Path, flags: int) -> int:
    # Looked at before it is opened: to open a device can be an act.
    refuse_kind(file, file.stat(follow_symlinks=not flags & os.O_NOFOLLOW))
    descriptor = os.open(file, flags | FLAGS)
    try:
        # It may have become something else meanwhile.
        refuse_kind(file, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _all_of(stream: IO[bytes], file: Path, most_bytes: int) -> bytes:
    # A file that grows meanwhile, and one that does not say its size, is bounded too.
    body = stream.read(most_bytes + 1)
    _refuse_size(file, len(body), most_bytes)
    return body


def _refuse_size(file: Path, size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        reason = N_("{size:,} bytes are more than the {most:,} that are read of such a file")
        raise UnfitFileError(file, reason, size=size_bytes, most=most_bytes)


class _Stream(io.RawIOBase):
    """A FIFO, a terminal or another stream, read as it comes."""

    def __init__(self, descriptor: int, file: Path, wait_s: float) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._file = file
        self._wait_s = wait_s
        self._poll = select.poll()
        # One that has no writer yet is waited for: the kernel reports an end only after one.
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read what is there, or wait for it.

        Raises:
            UnfitFileError: nothing has come for too long.
        """
        while True:
            if not self._poll.poll(self._wait_s * 1000):
                reason = N_("nothing has come from it for {seconds:g} s")
                raise UnfitFileError(self._file, reason, seconds=self._wait_s)
            # Another reader may have been faster.
            with suppress(BlockingIOError):
                return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        """Close it, once."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
