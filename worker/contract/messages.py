"""Chunk of image references -> wire -> chunk of results. The only shapes that cross the queue.

Inside the program these are frozen structs; dicts exist only between `to_wire` and `from_wire`.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from typing import Annotated, Any, Final, Literal, Self, get_args

import msgspec
from msgspec import Meta

WIRE_VERSION: Final = 1
APP_NAME: Final = "wanwu"
# The queue's name; the list in Redis has a prefix: see `keys`.
QUEUE: Final = "tag"
TASK: Final = "worker.tag"

MAX_CHUNK_IMAGES: Final = 1024
# Eight times the longest that Linux opens.
MAX_PATH_CHARS: Final = 32_768
# The priority of a message whose sender waits: it is taken before all others.
URGENT: Final = 9
# Between an archive and the name of an image in it.
INSIDE: Final = "!/"
MAX_THUMBNAIL_PX: Final = 1024
# A job's bits, one a chunk, are then 16 MiB at most.
MAX_CHUNKS: Final = 2**27
# A tag is certain if it is as likely as all else together. How many of such tags are wrong is in
# ops/docs/labels.md, "What counts as a tag".
CERTAIN: Final = 0.5

_INDEX_DIGITS: Final = 4
# For so long, in seconds, whatever belongs to a message is kept while the message may wait: longer
# than any queue should last. Whatever else is forgotten, it does not stay for ever.
MAX_WAIT_S: Final = 30 * 86_400

_MAX_VERSION: Final = 1_000
# How much of a value, and of a library's sentence, an error message repeats.
_VALUE_CHARS: Final = 40
_DETAIL_CHARS: Final = 160

JobId = Annotated[str, Meta(pattern=r"\A[0-9A-Za-z_.-]{1,64}\Z")]
Seq = Annotated[int, Meta(ge=0, lt=MAX_CHUNKS)]
PackHash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16,64}\Z")]
FilePath = Annotated[str, Meta(min_length=1, max_length=MAX_PATH_CHARS)]
Sentence = Annotated[str, Meta(max_length=4096)]

# How large a share of the workers a job has beside others: a quarter, one, four.
Priority = Literal["low", "normal", "high"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

Stage = Literal["message", "read", "decode", "infer", "rank", "job"]


class MessageError(ValueError):
    """A message does not have the shape or the version that this program speaks."""


class ForeignIdError(MessageError):
    """A message holds a chunk, but its task id is not the chunk's own.

    Results are stored, counted and read by that id: whoever waits for another would wait for ever.
    """


class NewerVersionError(MessageError):
    """A message is of a version that is not known here: another program may read it."""


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """A struct that travels as JSON. `v` is checked before anything else is read.

    Fields that are not known here are of a later program, and are passed over: whatever cannot be
    passed over has a version of its own.
    """

    v: int = WIRE_VERSION

    def to_wire(self) -> dict[str, Any]:
        """Return plain dicts and lists, ready for any JSON encoder."""
        wire: dict[str, Any] = msgspec.to_builtins(self)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> Self:
        """Validate what is known of `wire` strictly.

        Raises:
            NewerVersionError: it is of a later version.
            MessageError: no version, a missing field, or a value of the wrong type.
        """
        version = wire.get("v") if isinstance(wire, dict) else None
        if type(version) is not int or not 1 <= version <= WIRE_VERSION:
            found = repr(version)[:_VALUE_CHARS]
            msg = f"{cls.__name__}: version {found} is not {WIRE_VERSION}, the one spoken here"
            raise NewerVersionError(msg) if is_newer(version) else MessageError(msg)
        _meet(cls)
        try:
            return msgspec.convert(wire, cls)
        # An integer beyond all floats is the one thing that is no `ValidationError`.
        except (msgspec.ValidationError, ValueError, OverflowError) as e:
            # It may name a field, and that may be as long as the message.
            msg = f"{cls.__name__}: {str(e)[:_DETAIL_CHARS]}"
            raise MessageError(msg) from e


_FIRST: Final = threading.Lock()
_MET: Final[set[type]] = set()


def _meet(kind: type[Wire]) -> None:
    """Let msgspec find out what a type consists of, one thread at a time.

    It does so when a type is first converted to. Where two threads do that at once, msgspec 0.22
    ends the process: the first chunks of a worker come on many threads.
    """
    if kind not in _MET:
        with _FIRST, suppress(msgspec.ValidationError):
            msgspec.convert({}, kind)
        _MET.add(kind)


def is_newer(version: object) -> bool:
    """Whether this is the number of a version that comes after the one spoken here."""
    return type(version) is int and WIRE_VERSION < version < _MAX_VERSION


class Failure(msgspec.Struct, frozen=True):
    """Why an image has no tags: a stable code, the stage, and a sentence for a person."""

    code: Annotated[str, Meta(max_length=64)]
    stage: Stage
    message: Sentence


class Stamp(msgspec.Struct, frozen=True):
    """Size and time of last change of a file: whether it is still the one that was read.

    The time is in seconds since the epoch, on the clock of the file system.
    """

    size_bytes: int
    modified_s: float


class Part(msgspec.Struct, frozen=True):
    """The place of an image within a file that holds several, such as a tar archive."""

    offset: Annotated[int, Meta(ge=0, lt=2**62)]
    size_bytes: Annotated[int, Meta(ge=0, lt=2**62)]


class ImageRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where to find an image.

    `path` is absolute, or a URL. With a `part` it is that of the file that holds the image, `!/`
    and the image's name in it. Bytes of a path that are not UTF-8 are lone surrogates (PEP 383),
    so that `os.fsencode(path)` is the name on disk. `blob` is the Redis key of its bytes
    in blob mode; `stamp` is then its file's.
    `error` is set when the producer could not read those bytes: the image travels all the same, so
    that every image submitted ends in exactly one result.
    """

    path: FilePath
    blob: Annotated[str, Meta(max_length=200)] | None = None
    error: Failure | None = None
    stamp: Stamp | None = None
    part: Part | None = None

    @property
    def place(self) -> str:
        """The file or address to read from."""
        return self.path.partition(INSIDE)[0] if self.part else self.path


class Chunk(Wire, frozen=True, kw_only=True):
    """A task's message: some images of one job, to be tagged with one label pack.

    `labels` is the hash of a label pack in Redis, or None for the model's own labels. With
    `embeddings`, results hold the images' embeddings; with `thumbnail_px`, a small picture of each,
    no side of which is longer than that. An `urgent` one is decoded and inferred before all others.
    `sent_at_s` is the sender's wall clock (seconds since the epoch). Blobs must be named for the
    chunk; that they are those of this installation is checked where its prefix is known
    (`Keys.check_blobs`).
    """

    job: JobId
    seq: Seq
    images: tuple[ImageRef, ...]
    labels: PackHash | None = None
    top_k: int = 5
    threshold: float = 0.0
    embeddings: bool = False
    thumbnail_px: Annotated[int, Meta(ge=0, le=MAX_THUMBNAIL_PX)] = 0
    urgent: bool = False
    sent_at_s: float

    def __post_init__(self) -> None:
        """Hold the limits that types cannot express."""
        if not 1 <= len(self.images) <= MAX_CHUNK_IMAGES:
            msg = f"a chunk holds 1 to {MAX_CHUNK_IMAGES} images, not {len(self.images)}"
            raise ValueError(msg)
        if any(image.blob and not self._owns(image.blob) for image in self.images):
            msg = f"a blob does not belong to chunk {self.task_id}"
            raise ValueError(msg)
        if self.top_k < 1:
            msg = f"top_k must be at least 1, not {self.top_k}"
            raise ValueError(msg)
        if not (math.isfinite(self.threshold) and math.isfinite(self.sent_at_s)):
            msg = "threshold and sent_at_s must be finite numbers"
            raise ValueError(msg)

    def _owns(self, blob: str) -> bool:
        prefix, mark, index = blob.rpartition(f"blob:{self.task_id}:")
        return bool(prefix and mark) and is_index(index)

    @property
    def task_id(self) -> str:
        """The deterministic Celery task id: a chunk that is sent twice overwrites itself."""
        return task_id(self.job, self.seq)

    def check_task_id(self, found: str) -> None:
        """Make sure that this chunk came under its own id.

        Raises:
            ForeignIdError: it did not; the sentence names the right one.
        """
        if found != self.task_id:
            msg = (
                f"task id {found[:_VALUE_CHARS]!r} is not {self.task_id!r}, the id of the chunk "
                f"inside: send it with task_id={self.task_id!r}"
            )
            raise ForeignIdError(msg)


def is_index(text: str) -> bool:
    """Whether a text is the number of an image in its chunk, as it stands in the name of a blob."""
    return 1 <= len(text) <= _INDEX_DIGITS and text.isascii() and text.isdigit()


def waiting_s(kept_s: int) -> int:
    """Return for how many seconds what is waited for is kept, where results are for `kept_s`."""
    return max(kept_s, MAX_WAIT_S)


def task_id(job: str, seq: int) -> str:
    """Return the Celery task id of chunk `seq` of `job`."""
    return f"{job}-{seq}"


def split_task_id(name: str) -> tuple[str, int] | None:
    """Return job and number of a chunk's task id, or None for another name."""
    job, _, number = name.rpartition("-")
    try:
        return msgspec.convert((job, number), tuple[JobId, Seq], strict=False)
    except msgspec.ValidationError:
        return None


class Tag(msgspec.Struct, frozen=True, omit_defaults=True):
    """A label and its share of the softmax over the label set, 0 to 1; its parent if it has one.

    `ancestors` are what lies above the parent, the nearest first.
    """

    label: str
    score: float
    parent: str | None = None
    ancestors: tuple[str, ...] = ()

    @classmethod
    def below(cls, line: tuple[str, ...], label: str, score: float) -> Self:
        """Return a tag with what lies above its label, the nearest first."""
        return cls(label, score, line[0] if line else None, line[1:])

    @property
    def above(self) -> tuple[str, ...]:
        """What lies above the label, the nearest first: its parent, and that one's ancestors."""
        return () if self.parent is None else (self.parent, *self.ancestors)


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds an image spent in each stage; None for a stage that it did not reach.

    `queue_ms` runs from the sender's clock to the worker's and is never negative; `total_ms` is
    queue plus everything in the worker until the tags stood.
    """

    queue_ms: float | None = None
    read_ms: float | None = None
    decode_ms: float | None = None
    batch_wait_ms: float | None = None
    infer_ms: float | None = None
    total_ms: float | None = None


class ImageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one image: tags or a failure, never both.

    `stamp` is that of the file which was read. `embedding` is a unit vector (of a classifier, its
    logits), float16, little-endian, in base64; `thumbnail` a JPEG in base64.
    """

    path: str
    tags: tuple[Tag, ...] = ()
    error: Failure | None = None
    timing: Timing = Timing()
    batch_size: int | None = None
    stamp: Stamp | None = None
    embedding: str | None = None
    thumbnail: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the output: an `ImageResult` with its worker. The order of fields is fixed.

    `labels` is the hash of the label pack, None for the model's own labels.
    """

    path: str
    status: Literal["ok", "failed"]
    tags: tuple[Tag, ...]
    error: Failure | None
    timing: Timing
    batch_size: int | None
    worker: str
    device: str
    model: str
    labels: str | None = None
    file: Stamp | None = None
    embedding: str | None = None
    thumbnail: str | None = None

    @classmethod
    def untouched(cls, path: str, error: Failure) -> Self:
        """Return the record of an image that no worker has tried."""
        return cls(
            path=path,
            status="failed",
            tags=(),
            error=error,
            timing=Timing(),
            batch_size=None,
            worker="",
            device="",
            model="",
        )


class ChunkResult(Wire, frozen=True, kw_only=True):
    """A task's return value: one result per image of the chunk, in the chunk's order.

    It is of the chunk's version, so that whoever has sent that can read it.
    """

    job: str
    seq: int
    worker: str
    device: str
    model: str
    labels: PackHash | None = None
    images: tuple[ImageResult, ...]

    @property
    def failed(self) -> int:
        """How many of the images failed."""
        return sum(image.error is not None for image in self.images)

    def records(self) -> list[Record]:
        """Return the output's records, one per image."""
        return [
            Record(
                path=image.path,
                status="failed" if image.error else "ok",
                tags=image.tags,
                error=image.error,
                timing=image.timing,
                batch_size=image.batch_size,
                worker=self.worker,
                device=self.device,
                model=self.model,
                labels=self.labels,
                file=image.stamp,
                embedding=image.embedding,
                thumbnail=image.thumbnail,
            )
            for image in self.images
        ]
