"""An output file as the state of a job: where one broke off, the next goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from producer.formats import LINES, Stream, Target, is_stream, open_sink, records_of
from producer.formats.journal import journal_of, replace
from producer.formats.jsonl_tail import mend_end, refuse_a_blob
from producer.formats.output_lock import OutputLock
from producer.formats.xmp_sidecar import Notes, Sidecar, SidecarError, sidecar_of
from producer.jobs.options import TagSource
from producer.jobs.results import StoredResults
from producer.sources.scan import Image, path_of
from worker.contract.messages import Record, Stamp
from worker.contract.stores.jobs import JobStore, NoSuchJobError

_CANCELLED: Final = "cancelled"
_DIGEST_BYTES: Final = 8


class ResumeState(Protocol):
    """What is done already, and how to go on from there."""

    @property
    def images(self) -> int:
        """How many images are known to be done."""

    @property
    def failed_before(self) -> int:
        """How many images that were passed over have failed, and were not tried again."""

    def read(self) -> None:
        """Learn it."""

    def pending(self, images: Iterable[Image], source: TagSource) -> Iterator[Image]:
        """Yield the images that are not done yet."""

    def note(self, record: Record) -> None:
        """Note a record that was written."""

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Note which job goes on, and whether what stood there before is to go."""

    def end(self) -> None:
        """Note that the job has ended, and nothing is left of it."""

    def take_over(self, jobs: JobStore, source: TagSource) -> Iterator[list[Record]]:
        """Take over from the job that broke off: yield its records, to be written."""


def resume_state_of(target: Target | None, *, retries_failed: bool = False) -> ResumeState:
    """Return the state of resumption of what records are written to."""
    if target is None:
        return NoResumeState()
    if target.file is not None and not is_stream(target.file):
        return FileResumeState(target, target.file, retries_failed=retries_failed)
    return SidecarResumeState(target) if target.in_sidecars else NoResumeState()


class NoResumeState:
    """Of what is written to standard output nobody knows what is done."""

    @property
    def images(self) -> int:
        """Know of none."""
        return 0

    @property
    def failed_before(self) -> int:
        """Know of none."""
        return 0

    def read(self) -> None:
        """Have nothing to learn."""

    def pending(self, images: Iterable[Image], _source: TagSource) -> Iterator[Image]:
        """Yield all."""
        return iter(images)

    def note(self, record: Record) -> None:
        """Have nothing to note."""

    def begin(self, job: str, *, replaces: bool = False) -> None:
        """Have nowhere to note it."""

    def end(self) -> None:
        """Have nothing to note."""

    def take_over(self, _jobs: JobStore, _source: TagSource) -> Iterator[list[Record]]:
        """Know of no other job."""
        return iter(())


class SidecarResumeState(NoResumeState):
    """Each image's own sidecar tells whether it is done: by our notes in it."""

    def __init__(self, target: Target) -> None:
        self._by_stem = target.format == "xmp-stem"

    def pending(self, images: Iterable[Image], source: TagSource) -> Iterator[Image]:
        """Yield the images whose notes are missing, or of another file, model or label set."""
        for image in images:
            path = path_of(image)
            stamp = _stamp(path)
            if stamp is None or self._notes(path) != (source.model, source.labels or "", stamp):
                yield image

    def _notes(self, path: str) -> Notes | None:
        try:
            return Sidecar.read(sidecar_of(path, by_stem=self._by_stem)).notes
        except (OSError, SidecarError):
            return None


class FileResumeState(NoResumeState):
    """The images that have a record in a file, and the job that wrote it last.

    An image is done if its record is of the file as it is now (path, size, time of last change) and
    of the same model and labels; one that failed is done too, unless failures are tried again, but
    not one whose job was cancelled.
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

    @property
    def images(self) -> int:
        """How many images have a record that says more than that its job was cancelled."""
        return len(self._paths) - len(self._cancelled)

    @property
    def failed_before(self) -> int:
        """How many images that were passed over have failed, and were not tried again."""
        return len(self._failed_before)

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
            known = record.error.code == _CANCELLED or _digest(record.path) in self._paths
        else:
            known = _key(record.path, record.file, source) in self._done
        if not known:
            self._learn([record])
        return not known

    def _is_done(self, name: bytes, path: str, source: TagSource) -> bool:
        if name in self._cancelled:
            return False
        stamp = _stamp(path)
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
            if record.error is not None and record.error.code == _CANCELLED:
                # Nobody has looked at it.
                self._cancelled.add(name)
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


def _stamp(path: str) -> Stamp | None:
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
