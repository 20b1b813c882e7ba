"""A message in English -> the same message in the language of the user, by gettext.

A program speaks English until `use_language` says otherwise. The commands call it when they start;
whatever writes data (records, HTTP bodies, logs) goes on in English, or goes back to it.

Messages are marked where they are made, with named placeholders, and filled afterwards::

    from worker.contract.i18n import gettext as _

    msg = _("no image found in {paths}").format(paths=paths)

The catalogues lie in `locale/`; `ops/messages.py` brings them up to date.
"""

from __future__ import annotations

import gettext as _gettext
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DOMAIN: Final = "wanwu"
LOCALE_DIR: Final = Path(__file__).with_name("locale")
ENGLISH: Final = "en"
LANGUAGES: Final = ("zh",)

# In the order in which the C library looks for a locale.
_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")
_PORTABLE: Final = ("c", "posix")

_state: dict[str, _gettext.NullTranslations] = {"current": _gettext.NullTranslations()}


def gettext(message: str) -> str:
    """Return the message in the current language; in English if there is no translation."""
    # The message "" is the header of a catalogue.
    return _state["current"].gettext(message) if message else ""


def gettext_noop(message: str) -> str:
    """Mark a message, as `N_`, that is translated where it is shown."""
    return message


def ngettext(singular: str, plural: str, number: int) -> str:
    """Return the message for this number of things in the current language."""
    return _state["current"].ngettext(singular, plural, number)


def use_language(language: str) -> None:
    """Speak this language from now on, in all threads, click's own messages included.

    Args:
        language: One of `LANGUAGES`, or `ENGLISH`.
    """
    if language == ENGLISH:
        _state["current"] = _gettext.NullTranslations()
        _gettext.textdomain("messages")
        return
    _state["current"] = _gettext.translation(DOMAIN, LOCALE_DIR, [language], fallback=True)
    # click asks the standard library's current domain.
    _gettext.bindtextdomain(DOMAIN, LOCALE_DIR)
    _gettext.textdomain(DOMAIN)


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
