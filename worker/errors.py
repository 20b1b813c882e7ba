"""What can go wrong, as a tree. Class attributes say what goes into a result: code, stage.

::

    TaggerError
    +-- ImageError                 one image fails; its neighbours do not
    |   +-- read
    |   |   +-- NotFoundError      not_found
    |   |   +-- UnreadableError    unreadable       permission, I/O; may pass
    |   |   +-- NotAFileError      not_a_file       directory, FIFO, device, socket
    |   |   +-- OutsideRootsError  outside_roots
    |   |   +-- EmptyFileError     empty_file
    |   |   +-- TooLargeError      too_large        in bytes
    |   |   +-- FetchTimeoutError  fetch_timeout    a server took longer than the deadline
    |   |   +-- BlobMissingError   blob_missing
    |   |   +-- ReportedError      (as reported)    the producer could not read it
    |   +-- decode
    |   |   +-- NotAnImageError    not_an_image
    |   |   +-- TruncatedError     truncated
    |   |   +-- TooManyPixelsError too_many_pixels
    |   |   +-- TooComplexError    too_complex      scans, strips, tiles, chunks, segments, ...
    |   |   +-- BrokenImageError   broken_image
    |   |   +-- DecodeTimeoutError decode_timeout   took longer than the deadline
    |   |   +-- DecodeMemoryError  out_of_memory    needs more memory than a decode may take
    |   |   +-- DecoderCrashError  decoder_crashed  decode processes ended with it
    |   +-- infer
    |   |   +-- InferenceError     inference_failed
    |   |   |   +-- DeviceMemoryError  out_of_memory  a smaller batch may fit
    |   |   +-- UnexpectedError    internal_error   a bug of ours
    |   +-- rank
    |   |   +-- LabelsMissingError labels_missing
    |   |   +-- LabelsAlikeError   labels_alike     the model cannot tell labels apart
    |   +-- job
    |       +-- CancelledError     cancelled
    |       +-- PoisonError        poison           workers died of it
    +-- WorkerGoneError            nothing is known of the image: another worker must try
    +-- ArtifactError              the model cannot be used: missing, altered, newer, unfit
    +-- ExportError                no artifact can be made of a model
    |   +-- NoModelError           (an ArtifactError, too) there is no model of that name
    +-- DeviceError                the device asked for is not here
    +-- DecoderStartError          no process that decodes can be started
    +-- NoCacheError               there is nowhere to keep what was made of a model
    +-- BrokerError                Redis cannot be used: too old, in cluster mode, rights missing
"""

from __future__ import annotations

from typing import ClassVar

from worker.contract import failures
from worker.contract.i18n import Message, TranslatedError
from worker.contract.i18n import gettext_noop as N_
from worker.contract.messages import Failure, Stage


class TaggerError(TranslatedError):
    """Anything that this program raises on purpose. `str()` is one sentence for a person."""


class ImageError(TaggerError):
    """One image cannot be tagged.

    The sentence does not name the path: the result that it goes into does. It is data, so English.
    """

    code: ClassVar[str]
    stage: ClassVar[Stage]
    sentence: ClassVar[str]

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.sentence)

    def __str__(self) -> str:
        return Exception.__str__(self)

    def failure(self) -> Failure:
        """Return what goes into the image's result."""
        return Failure(code=self.code, stage=self.stage, message=str(self))


class NotFoundError(ImageError):
    """Nothing lies at the path."""

    code = failures.NOT_FOUND
    stage = "read"
    sentence = failures.not_found("worker").message


class UnreadableError(ImageError):
    """The file is there but cannot be read."""

    code = failures.UNREADABLE
    stage = "read"
    sentence = "the file cannot be read"


class NotAFileError(ImageError):
    """The path leads to a directory, a FIFO, a device or a socket."""

    code = failures.NOT_A_FILE
    stage = "read"
    sentence = failures.not_a_file(0).message


class OutsideRootsError(ImageError):
    """The path, links resolved, leaves the directories that the worker may read."""

    code = "outside_roots"
    stage = "read"
    sentence = (
        "the file lies outside the directories that this worker may read (worker start --allow)"
    )


class EmptyFileError(ImageError):
    """There are no bytes."""

    code = failures.EMPTY_FILE
    stage = "read"
    sentence = failures.empty_file().message


class TooLargeError(ImageError):
    """More bytes than `max_bytes`."""

    code = failures.TOO_LARGE
    stage = "read"

    def __init__(self, size_bytes: int, max_bytes: int) -> None:
        super().__init__(failures.too_large(size_bytes, max_bytes).message)


class FetchTimeoutError(ImageError):
    """Its server did not give it in time, in all or from one moment to the next."""

    code = "fetch_timeout"
    stage = "read"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"its server did not give it in time (WANWU_FETCH_TIMEOUT_S): {timeout_s:g} s at most, "
            "less if it lets many images wait"
        )


class BlobMissingError(ImageError):
    """The image's bytes are not in Redis any more."""

    code = "blob_missing"
    stage = "read"
    sentence = "the image's bytes are not in Redis any more; submit it again"


class ReportedError(ImageError):
    """The producer could not read the image and sent its reason along."""

    code = "reported"
    stage = "read"

    def __init__(self, reported: Failure) -> None:
        super().__init__(reported.message)
        self._reported = reported

    def failure(self) -> Failure:
        """Return the producer's failure as it came."""
        return self._reported


class NotAnImageError(ImageError):
    """The bytes are of no image format that is read here."""

    code = "not_an_image"
    stage = "decode"
    sentence = "this is not an image in any format that can be read"


class TruncatedError(ImageError):
    """The image's data ends too early."""

    code = "truncated"
    stage = "decode"
    sentence = "the image is cut off: its data ends too early"


class TooManyPixelsError(ImageError):
    """More pixels than `max_pixels`, found before any was decoded."""

    code = "too_many_pixels"
    stage = "decode"

    def __init__(self, size: tuple[int, int] | None, max_pixels: int) -> None:
        seen = f"{size[0]} x {size[1]}" if size else "the image's"
        super().__init__(
            f"{seen} pixels are more than the limit of {max_pixels:,} (WANWU_MAX_PIXELS)"
        )


class TooComplexError(ImageError):
    """More pieces than any sound image has, found before any was decoded."""

    code = "too_complex"
    stage = "decode"

    def __init__(self, count: int, limit: int, what: str) -> None:
        super().__init__(
            f"it has {count:,} {what}, or more: the limit is {limit:,}, which no sound image needs"
        )


class BrokenImageError(ImageError):
    """The format is known, but its data cannot be decoded."""

    code = "broken_image"
    stage = "decode"
    sentence = "the image's data is damaged"


class DecodeTimeoutError(ImageError):
    """Reading and decoding took longer than `decode_timeout_s`."""

    code = "decode_timeout"
    stage = "decode"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"it was not decoded within {timeout_s:g} s (WANWU_DECODE_TIMEOUT_S): the file is "
            "made to take long, or its disk does not answer"
        )


class DecodeMemoryError(ImageError):
    """Decoding needs more memory than `decode_memory_bytes`, or than there is."""

    code = "out_of_memory"
    stage = "decode"
    sentence = "decoding needs more memory than one image may take (WANWU_DECODE_MEMORY_BYTES)"


class DecoderCrashError(ImageError):
    """Processes ended while they decoded it: a fault of a library, or they were killed."""

    code = "decoder_crashed"
    stage = "decode"
    sentence = "decode processes ended each time they tried this image, so it is not tried again"


class InferenceError(ImageError):
    """The model failed on this image, alone."""

    code = "inference_failed"
    stage = "infer"
    sentence = "the model failed on this image"


class DeviceMemoryError(InferenceError):
    """The device has too little memory for a batch; a smaller one may fit."""

    code = "out_of_memory"
    sentence = "the device has too little memory for this image"


class UnexpectedError(ImageError):
    """Something that should not happen did; the worker's log has the traceback."""

    code = "internal_error"
    stage = "infer"
    sentence = "an error inside the worker; its log says more"


class LabelsMissingError(ImageError):
    """No labels were given, or they are gone, and the model has none of its own."""

    code = "labels_missing"
    stage = "rank"
    sentence = "the model has no labels of its own and none were given (--labels or --label)"


class LabelsAlikeError(ImageError):
    """The model knows no word of some labels, or reads some as the same."""

    code = "labels_alike"
    stage = "rank"
    sentence = "the model cannot tell all labels apart"


class CancelledError(ImageError):
    """The job was cancelled before the image was looked at."""

    code = failures.CANCELLED
    stage = "job"

    def __init__(self, job: str) -> None:
        super().__init__(failures.cancelled(job).message)


class PoisonError(ImageError):
    """Workers died, again and again, while they had this image in hand."""

    code = "poison"
    stage = "job"
    sentence = "workers died each time they tried this image, so it is not tried again"


class WorkerGoneError(TaggerError):
    """This worker can tag nothing any more; it says nothing about the image."""


class ArtifactError(TaggerError):
    """The model artifact is missing, altered, of a newer format, or unfit for use."""


class ExportError(TaggerError):
    """No artifact can be made: the model is not found, not known, broken, or does not agree."""


class NoModelError(ArtifactError, ExportError):
    """There is no model of the name that was given."""


class DeviceError(TaggerError):
    """The device asked for does not exist here."""


class DecoderStartError(TaggerError):
    """No process that decodes images can be started."""

    def __init__(self, reason: object = Message(N_("it ends at once"))) -> None:
        super().__init__(
            N_(
                "no process that decodes images can be started here ({reason}); "
                "WANWU_DECODER=threads decodes on threads of the worker"
            ),
            reason=reason,
        )


class NoCacheError(TaggerError):
    """There is nowhere to keep what was made of a model."""


class BrokerError(TaggerError):
    """Redis is there, but cannot be used as it is."""
