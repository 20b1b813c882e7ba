"""A message in English -> the same message in the language of the user, by gettext.

A program speaks English until `use_language` says otherwise. The commands call it when they start;
whatever writes data (records, HTTP bodies, logs) goes on in English, or goes back to it.

Messages are marked where they are made, with named placeholders, and filled afterwards::

    from worker.contract.i18n import gettext as _

    msg = _("no image found in {paths}").format(paths=paths)

Errors that a log may hold in English, before a person reads them in their language, carry a
`Message`, which is translated when it is read::

    raise DeviceError(N_("device {name} is not here"), name=name)

The catalogues lie in `locale/`; `ops/messages.py` brings them up to date.
"""

from __future__ import annotations

import gettext as _gettext
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

DOMAIN: Final = "wanwu"
LOCALE_DIR: Final = Path(__file__).with_name("locale")
ENGLISH: Final = "en"
LANGUAGES: Final = ("zh",)

# In the order in which the C library looks for a locale.
_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")
_PORTABLE: Final = ("c", "posix")


class _State:
    """The language in use, in all threads."""

    language: str = ENGLISH
    catalogue: _gettext.NullTranslations = _gettext.NullTranslations()


def language_in_use() -> str:
    """Return the language that `use_language` chose."""
    return _State.language


class Message:
    """A message and what fills it; `str()` is in the language in use when it is asked for.

    `english` is for what a library said: people who read English see that, others the message,
    which says the same.
    """

    def __init__(self, message: str, /, *, english: str | None = None, **fields: Any) -> None:
        self._message = message
        self._english = english
        self._fields = fields

    def __str__(self) -> str:
        if self._english is not None and language_in_use() == ENGLISH:
            return self._english
        text = gettext(self._message)
        return text.format(**self._fields) if self._fields else text

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


class TranslatedError(Exception):
    """An error whose sentence is in the language in use when it is asked for.

    It is a message with its fields, or that of another error. Without fields the message is taken
    as it is, braces and all.
    """

    def __init__(self, message: object = "", /, **fields: Any) -> None:
        super().__init__(message)
        self._sentence = Message(message, **fields) if isinstance(message, str) else message

    def __str__(self) -> str:
        return str(self._sentence)


def gettext(message: str) -> str:
    """Return the message in the current language; in English if there is no translation."""
    # The message "" is the header of a catalogue.
    return _State.catalogue.gettext(message) if message else ""


def gettext_noop(message: str) -> str:
    """Mark a message, as `N_`, that is translated where it is shown."""
    return message


def ngettext(singular: str, plural: str, number: int) -> str:
    """Return the message for this number of things in the current language."""
    return _State.catalogue.ngettext(singular, plural, number)


def use_language(language: str) -> None:
    """Speak this language from now on, in all threads, click's own messages included.

    Args:
        language: One of `LANGUAGES`, or `ENGLISH`.
    """
    _State.language = language
    if language == ENGLISH:
        _State.catalogue = _gettext.NullTranslations()
        _gettext.textdomain("messages")
        return
    _State.catalogue = _gettext.translation(DOMAIN, LOCALE_DIR, [language], fallback=True)
    # click asks the standard library's current domain.
    _gettext.bindtextdomain(DOMAIN, LOCALE_DIR)
    _gettext.textdomain(DOMAIN)


@contextmanager
def in_language(language: str) -> Iterator[None]:
    """Speak this language within the block, as `use_language` does."""
    before = _State.language
    use_language(language)
    try:
        yield
    finally:
        use_language(before)


def user_language(environ: Mapping[str, str] = os.environ) -> str:
    """Return the language of the user's locale; `ENGLISH` if there is no catalogue for it.

    As GNU gettext does: the first of LC_ALL, LC_MESSAGES and LANG that is set counts, but LANGUAGE,
    a list by preference, goes before it unless that locale is `C`.
    """
    locale = next((environ[name] for name in _VARIABLES if environ.get(name)), "")
    if _code(locale) in _PORTABLE:
        return ENGLISH
    for name in (*environ.get("LANGUAGE", "").split(":"), locale):
        if _code(name) in (ENGLISH, *LANGUAGES):
            return _code(name)
    return ENGLISH


def _code(locale: str) -> str:
    """Return the language of a locale: `zh` of `zh_CN.UTF-8`."""
    return locale.partition(".")[0].partition("_")[0].lower()
