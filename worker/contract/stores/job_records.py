"""What Redis holds of jobs: records and results -> structs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from worker.contract import failures
from worker.contract.codec import decode, encode
from worker.contract.i18n import TranslatedError
from worker.contract.messages import (
    MAX_PATH_CHARS,
    ChunkResult,
    Failure,
    MessageError,
    Priority,
    Record,
    task_id,
)

JobState = Literal["submitting", "submitted", "interrupted", "cancelled"]

# The code of images whose chunk was given back without results, whatever the reason.
LOST: Final = "lost"
# In the result of a chunk that failed as a whole: the paths of its images.
PATHS: Final = "paths"
# Of images whose message left the queue without a result.
MESSAGE_LOST: Final = "message_lost"
LOST_ERROR: Final = "MessageLostError"
LOST_REASON: Final = "its message left the queue without a result (purged, revoked or deleted)"
_CANCELLED_ERROR: Final = "JobCancelledError"
_CODES: Final = {LOST_ERROR: MESSAGE_LOST, _CANCELLED_ERROR: failures.CANCELLED}
_REVOKED: Final = "REVOKED"
# Fields of a record that count failures begin so.
CODE_FIELD: Final = "failed:"


class NoSuchJobError(TranslatedError, LookupError):
    """There is no job with this id, or it has expired."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job's record. `images` and `chunks` count what was sent, `done` what has results.

    `failed` is part of `done`, and `codes` says why. Times are seconds since the epoch. `about` is
    what was asked for, for a person, and `labels` how many; 0 is the model's own. The state may be
    one of a later version.
    """

    id: str
    created_at_s: float
    state: JobState | str = "submitting"
    images: int = 0
    chunks: int = 0
    done: int = 0
    failed: int = 0
    codes: Mapping[str, int] = {}
    about: str = ""
    labels: int = 0
    priority: Priority = "normal"
    # That of the installation; None if a version before the prefix has created the job.
    prefix: str | None = None
    # Chunks that are known to be in the queue, or were: None if their producer does not say.
    published: int | None = None
    # The most blobs of a chunk.
    blobs: int = 0
    # Images of it that an earlier job had lost (`--resume`).
    sent_again: int = 0

    @property
    def finished(self) -> bool:
        """Whether every image sent has its result and no more will be sent."""
        return self.state != "submitting" and self.done >= self.images

    @property
    def status(self) -> str:
        """Where the job stands, in a word: its state, or `finished`."""
        if self.state in {"cancelled", "interrupted"}:
            return self.state
        return "finished" if self.finished else self.state

    @property
    def outstanding(self) -> int:
        """Images sent that have no result yet."""
        return max(0, self.images - self.done)


class LostChunk(msgspec.Struct, frozen=True):
    """A chunk that failed as a whole: it has no results, only the reason, and its images' code.

    `paths` are those of its images, as far as they are known.
    """

    seq: int
    reason: str
    paths: tuple[str, ...] = ()
    code: str = LOST

    def records(self) -> list[Record]:
        """Return a failed record of each image that is known."""
        message = self.reason
        if self.code == LOST:
            message = f"there is no result of its chunk: {self.reason}"
        failure = Failure(self.code, "job", message)
        return [Record.untouched(path, failure) for path in self.paths]


def new_job_id(now_s: float | None = None) -> str:
    """Return a fresh id that sorts by time, such as `20261123-181502-5f3a9c`."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() if now_s is None else now_s))
    return f"{stamp}-{secrets.token_hex(3)}"


def success_body(result: ChunkResult) -> bytes:
    """Return the result of a chunk in Celery's form."""
    fields = {"status": "SUCCESS", "result": result.to_wire()}
    name = task_id(result.job, result.seq)
    return encode(fields | {"task_id": name, "traceback": None, "children": []})


def failed_body(name: str, kind: str, reason: str) -> bytes:
    """Return the result of a chunk, by its task id, that failed as a whole, in Celery's form."""
    error = {"exc_type": kind, "exc_message": [reason], "exc_module": "worker.contract.messages"}
    fields: dict[str, Any] = {
        "status": "FAILURE",
        "result": error,
        "traceback": None,
        "children": [],
    }
    return encode(fields | {"task_id": name})


def cancelled_body(name: str, job_id: str) -> bytes:
    """Return the shortest result of a chunk that was cancelled, where memory is short."""
    return failed_body(name, _CANCELLED_ERROR, failures.cancelled(job_id).message)


def outcome(seq: int, body: bytes) -> ChunkResult | LostChunk:
    """Return what the stored result of a chunk says."""
    meta = decode(body)
    status, found = meta.get("status"), meta.get("result")
    if status == "SUCCESS":
        try:
            return ChunkResult.from_wire(found)
        except MessageError as e:
            return LostChunk(seq, str(e), paths_in(found))
    paths = _paths(meta.get(PATHS))
    if isinstance(found, dict) and found.get("exc_type") in _CODES:
        reason = "".join(map(str, found.get("exc_message", ())))
        return LostChunk(seq, reason, paths, _CODES[found["exc_type"]])
    if status == _REVOKED:
        return LostChunk(seq, LOST_REASON, paths, MESSAGE_LOST)
    return LostChunk(seq, f"{status}: {_message(found)}", paths)


def paths_in(wire: object) -> tuple[str, ...]:
    """Return the paths of the images in what should be a chunk or its result, but is none."""
    images = wire.get("images") if isinstance(wire, dict) else None
    listed = images if isinstance(images, list | tuple) else ()
    return _paths([one.get("path") if isinstance(one, dict) else None for one in listed])


def _paths(found: object) -> tuple[str, ...]:
    paths = found if isinstance(found, list) else []
    return tuple(one for one in paths if isinstance(one, str) and 0 < len(one) <= MAX_PATH_CHARS)


def _message(error: Any) -> str:
    """Return the type and the message of an exception as Celery stores it."""
    if isinstance(error, dict):
        return f"{error.get('exc_type')}: {error.get('exc_message')}"
    return str(error)


def job_of(found: dict[bytes, bytes]) -> Job:
    """Return a job by the fields of its record."""
    # Fields of a newer version are passed over.
    fields: dict[str, Any] = {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()
    }
    codes = {
        name.removeprefix(CODE_FIELD): n
        for name, n in fields.items()
        if name.startswith(CODE_FIELD)
    }
    return msgspec.convert(fields | {"codes": codes}, Job, strict=False)
