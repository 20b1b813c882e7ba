"""The sources -> the catalogues of messages: `python ops/messages.py` updates them, --check looks.

Messages come from `_()` and `ngettext()` in the sources, from the help of the two commands, from
click, and from the model that ships with the program: its notice. A message that is new has an
empty translation afterwards: fill it in and run this again. A message that no source has any more
goes. Catalogues are sorted and hold no line numbers, so that changes of two people merge; after a
conflict in a .mo, run this once more.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from producer.cli import main as producer
from worker.artifact.manifest import open_artifact
from worker.cli import main as worker
from worker.contract.commands import help_messages
from worker.contract.i18n import DOMAIN, LANGUAGES, LOCALE_DIR

ROOT = Path(__file__).parents[1]
CLICK = Path(click.__file__).parent
KEYWORDS = {"_": None, "N_": None, "ngettext": (1, 2)}

Message = str | tuple[str, ...]


class _Catalogue(Catalog):
    """A catalogue whose header holds no dates and versions, which would change without need."""

    @property
    def mime_headers(self) -> list[tuple[str, str]]:
        return [
            ("Language", str(self.locale)),
            ("MIME-Version", "1.0"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Transfer-Encoding", "8bit"),
            ("Plural-Forms", self.plural_forms),
        ]

    @mime_headers.setter
    def mime_headers(self, _headers: object) -> None:
        pass

    @property
    def header_comment(self) -> str:
        return f"# Messages of wanwu-tagger in {self.locale}."

    @header_comment.setter
    def header_comment(self, _comment: object) -> None:
        pass


def messages() -> Iterator[Message]:
    """Yield every message that a user may read; one with a plural as a pair."""
    for place in (ROOT / "producer", ROOT / "worker", CLICK):
        for found in extract_from_dir(place, [("**.py", "python")], keywords=KEYWORDS):
            yield found[2]
    yield open_artifact().manifest.notice or ""
    yield from help_messages(producer)
    yield from help_messages(worker)


def updated(language: str) -> tuple[bytes, bytes, list[str]]:
    """Return the .po and the .mo of a language as they should be, and what lacks a translation."""
    old = _read(language)
    new = _Catalogue(locale=language, fuzzy=False)
    for message in messages():
        known = old.get(message[0] if isinstance(message, tuple) else message)
        new.add(message, known.string if known else "")
    text, compiled = io.BytesIO(), io.BytesIO()
    write_po(text, new, no_location=True, sort_output=True, width=100)
    write_mo(compiled, new)
    missing = [str(one.id) for one in new if one.id and not _is_translated(one.string)]
    return text.getvalue(), compiled.getvalue(), missing


def _read(language: str) -> Catalog:
    place = _place(language).with_suffix(".po")
    if not place.exists():
        return Catalog(locale=language)
    with place.open("rb") as file:
        return read_po(file, locale=language)


def _is_translated(string: Message | list[str] | None) -> bool:
    return bool(string) and all(string or ())


def _place(language: str) -> Path:
    return LOCALE_DIR / language / "LC_MESSAGES" / DOMAIN


def main() -> None:
    """Update the catalogues, or say what is wrong with them."""
    wrong = []
    for language in LANGUAGES:
        text, compiled, missing = updated(language)
        wrong += [f"{language}: not translated: {message}" for message in missing]
        for suffix, content in ((".po", text), (".mo", compiled)):
            file = _place(language).with_suffix(suffix)
            if file.exists() and file.read_bytes() == content:
                continue
            if "--check" in sys.argv:
                wrong.append(f"{file.relative_to(ROOT)} is out of date: run ops/messages.py")
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
    print("\n".join(wrong) or "all messages are translated")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
