"""Code of a failure -> a sentence in the user's language. Records keep their own, in English.

English shows the record's sentence, which may say more: sizes, limits, what the system answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_

# Of images: those of `worker.errors` and of `worker.contract.failures`.
IMAGES: Final[Mapping[str, str]] = {
    "not_found": N_("there is no such file where it is read"),
    "unreadable": N_("the file cannot be read"),
    "not_a_file": N_("this is not a regular file"),
    "outside_roots": N_(
        "workers may not read there (worker start --allow, or WANWU_IMAGE_URLS with --embedded)"
    ),
    "empty_file": N_("the file is empty"),
    "too_large": N_("the file has more bytes than are allowed (WANWU_MAX_FILE_BYTES)"),
    "blob_missing": N_("the image's bytes are not in Redis any more; submit it again"),
    "not_an_image": N_("this is not an image in any format that is read (WANWU_IMAGE_FORMATS)"),
    "truncated": N_("the image is cut off: its data ends too early"),
    "too_many_pixels": N_("the image has more pixels than are allowed (WANWU_MAX_PIXELS)"),
    "too_complex": N_("the image has more pieces than any sound one: it is made to take long"),
    "broken_image": N_("the image's data is damaged"),
    "fetch_timeout": N_("its server does not give it in time (WANWU_FETCH_TIMEOUT_S)"),
    "decode_timeout": N_("decoding takes longer than is allowed (WANWU_DECODE_TIMEOUT_S)"),
    "decoder_crashed": N_("decode processes ended each time they tried this image"),
    "inference_failed": N_("the model failed on this image"),
    "out_of_memory": N_("there is too little memory for this image"),
    "internal_error": N_("an error inside the worker; its log says more"),
    "labels_missing": N_("the model lacks these labels, or has none of its own"),
    "labels_alike": N_("the model cannot tell all labels apart"),
    "cancelled": N_("the job was cancelled"),
    "poison": N_("workers died each time they tried this image, so it is not tried again"),
    "lost": N_("there is no result of its chunk"),
    "message_lost": N_("its message left the queue without a result: submit it again"),
}
# Of dead letters that are no images.
LETTERS: Final[Mapping[str, str]] = {
    "unreadable_message": N_("this is not a message for a worker"),
    "unreadable_letter": N_("this dead letter cannot be read"),
    "newer_version": N_("it is of a later version than the workers here"),
    "foreign_id": N_("its task id is not that of its chunk"),
}
# Of answers of the HTTP API.
ANSWERS: Final[Mapping[str, str]] = {
    "bad_labels": N_("the labels cannot be used"),
    "bad_request": N_("the request is not as the API wants it"),
    "busy": N_("too many wait for an answer; try again"),
    "closed": N_("the job takes no more images"),
    "full": N_("workers must make room first; try again"),
    "no_answer": N_("no worker has answered in time"),
    "no_queue": N_("the queue does not answer"),
    "redis_full": N_("Redis is full: try again"),
    "no_such_job": N_("there is no such job"),
    "too_many": N_("these are too many images at a time"),
    "unauthorized": N_("the API key is missing or wrong: set WANWU_API_KEY"),
}
# What these sentences name, a person needs.
_NAMING: Final = frozenset({"labels_alike", "bad_labels"})
_SENTENCES: Final = {**IMAGES, **LETTERS, **ANSWERS}


def sentence(code: str, message: str) -> str:
    """Return why something failed, in the user's language; `message` is the same in English."""
    known = _SENTENCES.get(code)
    if known is None:
        return message
    found = str(Message(known, english=message))
    # Which labels, only the record's sentence names.
    return f"{found}: {message}" if code in _NAMING and found != message else found
