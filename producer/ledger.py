"""An output file as the ledger of what is done: where a job broke off, the next goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from producer.fetch import fetch
from worker.contract.jobs import JobStore, NoSuchJobError

if TYPE_CHECKING:
    from producer.sinks import Sink
    from worker.contract.messages import Record

_CANCELLED: Final = "cancelled"
_DIGEST_BYTES: Final = 8


class LedgerError(ValueError):
    """The file holds something else than records."""


class Ledger:
    """The images that have a record in a JSONL file, and the job that wrote it last.

    Beside the file lies another with `.job` added to its name, which names that job until it ends.
    A million paths take some 100 MB.
    """

    def __init__(self, file: Path) -> None:
        self.file: Final = file
        self._note = file.with_name(f"{file.name}.job")
        self._done: set[bytes] = set()

    @property
    def images(self) -> int:
        """How many images have a record."""
        return len(self._done)

    def read(self) -> None:
        """Learn what the file holds; half a line, where the writer was killed, is cut off.

        Raises:
            LedgerError: a line is no record.
        """
        if not self.file.exists():
            return
        whole = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                self._done.add(_digest(_path(line, self.file, number)))
                whole += len(line)
        if whole < self.file.stat().st_size:
            with self.file.open("rb+") as file:
                file.truncate(whole)

    def remaining(self, images: Iterable[str]) -> Iterator[str]:
        """Yield the images that have no record yet."""
        return (path for path in images if _digest(path) not in self._done)

    def begin(self, job: str) -> None:
        """Note that the file is this job's from now on."""
        self._note.write_text(f"{job}\n", encoding="ascii")

    def end(self) -> None:
        """Note that the job has ended, and nothing is left of it."""
        self._note.unlink(missing_ok=True)

    def inherit(self, jobs: JobStore, sink: Sink) -> int:
        """Take over from the job that broke off: its results are written, its queue is dropped.

        Return how many records that gave.
        """
        try:
            job = self._note.read_text(encoding="ascii").strip()
            jobs.set_state(job, _CANCELLED)
            heir = _Heir(self._done, sink)
            fetch(jobs, job, heir)
        except (FileNotFoundError, NoSuchJobError):
            return 0
        sink.flush()
        return heir.taken


class _Heir:
    """A sink that passes on what is not in the ledger yet."""

    def __init__(self, done: set[bytes], sink: Sink) -> None:
        self._done = done
        self._sink = sink
        self.taken = 0

    def write(self, record: Record) -> None:
        digest = _digest(record.path)
        dropped = record.error is not None and record.error.code == _CANCELLED
        if digest not in self._done and not dropped:
            self._done.add(digest)
            self._sink.write(record)
            self.taken += 1

    def flush(self) -> None:
        self._sink.flush()


def _digest(path: str) -> bytes:
    name = path.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=_DIGEST_BYTES).digest()


def _path(line: bytes, file: Path, number: int) -> str:
    try:
        found = json.loads(line)["path"]
    except (ValueError, LookupError, TypeError):
        found = None
    if not isinstance(found, str):
        msg = f"{file}, line {number}: this is no record, so there is nothing to go on from"
        raise LedgerError(msg)
    return found
