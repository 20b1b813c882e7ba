"""An output file as the state of a job: where one broke off, the next goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from producer.formats import LINES, Stream, Target, open_sink, records_of
from producer.formats.journal import journal_of, replace
from producer.formats.jsonl_tail import mend_end, refuse_a_blob
from producer.formats.output_lock import OutputLock
from producer.jobs.options import TagSource
from producer.jobs.results import StoredResults
from producer.jobs.resume_state import NoResumeState
from producer.sources.scan import Image, path_of
from worker.contract.messages import Record, Stamp
from worker.contract.stores.jobs import LOST, MESSAGE_LOST, JobStore, NoSuchJobError

_CANCELLED: Final = "cancelled"
# Images with these codes were never tried: they are sent again.
_UNTRIED: Final = frozenset({_CANCELLED, LOST, MESSAGE_LOST})
_DIGEST_BYTES: Final = 8


class FileResumeState(NoResumeState):
    """The images that have a record in a file, and the job that wrote it last.

    An image is done if its record is of the file as it is now (path, size, time of last change) and
    of the same model and labels; one that failed is done too, unless failures are tried again, but
    not one whose job was cancelled, or whose message was lost.
    Records without those particulars, and images that cannot be looked at from here, count by path.
    Beside the file lies another with `.job` added to its name, which names that job until it ends.
    A million images take some 200 MB.
    """

    def __init__(self, target: Target, file: Path, *, retries_failed: bool = False) -> None:
        self.file: Final = file
        self._target = target
        self._retries_failed = retries_failed
        self._lock_file = OutputLock(file)
        self._paths: set[bytes] = set()
        self._done: set[bytes] = set()
        self._failed: dict[bytes, Stamp | None] = {}
        self._cancelled: set[bytes] = set()
        self._failed_before: set[bytes] = set()
        self._again: set[bytes] = set()
        self._lost: set[bytes] = set()
        self._sent_again = 0

    @property
    def images(self) -> int:
        """How many images have a record that says more than that its job was cancelled."""
        return len(self._paths) - len(self._cancelled)

    @property
    def failed_before(self) -> int:
        """How many images that were passed over have failed, and were not tried again."""
        return len(self._failed_before)

    @property
    def sent_again(self) -> int:
        """How many images are sent again that an earlier job had lost."""
        return self._sent_again

    def read(self) -> None:
        """Learn what the file holds; half a line, where the writer was killed, is cut off.

        Raises:
            RecordsError: it holds something else than records.
        """
        stream, journal = self._target.form.stream, journal_of(self.file)
        if not stream and self._lock_file.replaces and journal.exists() and journal.stat().st_size:
            # It was to be overwritten, and records have come: only theirs count.
            self.file.unlink(missing_ok=True)
        if stream and self.file.exists():
            self._learn_lines(self.file, stream)
        elif self.file.exists():
            self._learn(self._records())
        if not stream and journal.exists():
            self._learn_lines(journal, LINES)

    def pending(self, images: Iterable[Image], source: TagSource) -> Iterator[Image]:
        """Yield the images that are not done yet."""
        for image in images:
            path = path_of(image)
            name = _digest(path)
            if name in self._paths:
                if self._is_done(name, path, source):
                    if name in self._failed:
                        self._failed_before.add(name)
                    continue
                self._again.add(name)
                self._sent_again += name in self._lost
            yield image

    def note(self, record: Record) -> None:
        """Learn of a record that was written."""
        self._learn([record])

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Note that the file is this job's from now on."""
        self._lock_file.begin(job, replaces=replaces)

    def end(self) -> None:
        """Note that the job has ended; of images that were tagged again, drop the old records."""
        if self._again:
            replace(self.file, self._write_latest)
            self._again.clear()
        self._lock_file.end()

    def take_over(self, jobs: JobStore, source: TagSource) -> Iterator[list[Record]]:
        """Take over from the job that broke off: its records are yielded, its queue is dropped.

        Records of other labels or another model are left.
        """
        job = self._lock_file.job
        if not job:
            return
        with suppress(NoSuchJobError):
            jobs.set_state(job, _CANCELLED)
            for records in StoredResults(jobs, job).records():
                if new := [record for record in records if self.takes(record, source)]:
                    yield new

    def takes(self, record: Record, source: TagSource) -> bool:
        """Whether a record is of use and not there yet; it is there from now on."""
        if record.labels != source.labels or record.model not in {"", source.model}:
            return False
        if record.error is not None:
            known = record.error.code in _UNTRIED or _digest(record.path) in self._paths
        else:
            known = _key(record.path, record.file, source) in self._done
        if not known:
            self._learn([record])
        return not known

    def _is_done(self, name: bytes, path: str, source: TagSource) -> bool:
        if name in self._cancelled:
            return False
        stamp = stamp_of(path)
        if name in self._failed:
            return not self._retries_failed and self._failed[name] in {None, stamp}
        return stamp is None or name in self._done or _key(path, stamp, source) in self._done

    def _learn(self, records: Iterable[Record]) -> None:
        for record in records:
            name = _digest(record.path)
            if name in self._paths:
                # From a run that ended before it could drop the older one.
                self._again.add(name)
            self._paths.add(name)
            self._lost.discard(name)
            if record.error is not None and record.error.code in _UNTRIED:
                self._cancelled.add(name)
                if record.error.code == MESSAGE_LOST:
                    self._lost.add(name)
                continue
            self._cancelled.discard(name)
            if record.error is not None:
                self._failed[name] = record.file
                continue
            self._failed.pop(name, None)
            source = TagSource(record.model, record.labels)
            # Without a stamp, as an earlier version wrote it, it counts by its path.
            self._done.add(_key(record.path, record.file, source) if record.file else name)

    def _learn_lines(self, file: Path, stream: Stream) -> None:
        """Learn what the file holds, and only then touch its end."""
        refuse_a_blob(file)
        with file.open("rb") as lines:
            self._learn(stream.records(lines, file))
        was_begun = bool(self._lock_file.job)
        self._learn(mend_end(file, stream, is_ours=bool(self._paths), was_begun=was_begun))

    def _records(self) -> Iterator[Record]:
        return records_of(self.file, self._target.format)

    def _write_latest(self, new: Path) -> None:
        last: dict[bytes, int] = {}
        for number, record in enumerate(self._records()):
            if (name := _digest(record.path)) in self._again:
                last[name] = number
        with open_sink(self._target._replace(file=new)) as sink:
            for number, record in enumerate(self._records()):
                if last.get(_digest(record.path), number) == number:
                    sink.write(record)


def stamp_of(path: str) -> Stamp | None:
    """Return size and time of a file, if it can be looked at from here."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(status.st_size, status.st_mtime)


def _key(path: str, stamp: Stamp | None, source: TagSource) -> bytes:
    return _digest(repr((path, stamp, *source)))


def _digest(name: str) -> bytes:
    body = name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
