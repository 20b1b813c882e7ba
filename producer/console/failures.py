"""Code of a failure -> a sentence in the user's language. Records keep their own, in English.

English shows the record's sentence, which may say more: sizes, limits, what the system answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from worker.contract.failure_sentences import IMAGES
from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_

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
