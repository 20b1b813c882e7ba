"""Code of an image's failure -> a sentence in the user's language, for whoever shows one.

What a worker answers, and what records keep, is data: English, whatever the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_

# Those of `worker.errors` and of `worker.contract.failures`.
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


def image_sentence(code: str, message: str) -> str:
    """Return why an image cannot be used; `message` is the same in English, and may say more."""
    known = IMAGES.get(code)
    return message if known is None else str(Message(known, english=message))
