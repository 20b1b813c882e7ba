"""Bytes of a label file, as editors and Excel save them -> label pack.

Read is what is certain: UTF-8, UTF-16 with its mark, Chinese of Windows (GB18030) where it cannot
be anything else; lines, a table with a header (commas, tabs or semicolons), a JSON list. All else
is refused with the line that tells, and the way out.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.contract.i18n import Message
from worker.contract.i18n import gettext_noop as N_
from worker.contract.label_json import json_entries
from worker.contract.labels import (
    Entry,
    LabelPack,
    LabelsError,
    line_place,
    pack_of_entries,
    parse_labels,
)
from worker.contract.local.files import UnfitFileError, read_given
from worker.contract.reasons import reason

# Twenty thousand labels, each with four aliases of the greatest length.
_MOST_BYTES: Final = 16 * 1024 * 1024
# The longest mark first: that of UTF-32 begins with that of UTF-16.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_LABEL: Final = frozenset({"label", "标签"})
_ALIASES: Final = frozenset({"aliases", "alias", "别名"})
_PARENT: Final = frozenset({"parent", "上级"})
_SEPARATORS: Final = ("\t", ",", ";")
# Between aliases in one cell.
_IN_CELL: Final = re.compile(r"[|｜;；\n]")
# In GB2312, of the 3,755 characters that are in common use.
_COMMON: Final = range(0xB0, 0xD8)
# Rows of signs and digits; those of kana, Greek and Cyrillic speak for another encoding.
_SIGNS: Final = frozenset({0xA1, 0xA2, 0xA3})
_OTHERS: Final = frozenset({0xA0, *range(0xA4, 0xB0)})
# Of Korean text none lies beyond; of Chinese text of some length, much does.
_LAST_HANGUL: Final = 0xC8
_MOST_COMMON: Final = 0.9
_PAIR: Final = re.compile(rb"[\x80-\xff].", re.DOTALL)


def read_labels(file: Path) -> LabelPack:
    """Return the labels of a file, which may be a FIFO: `--labels <(command)`.

    Raises:
        LabelsError: naming the file, it cannot be read or used.
    """
    try:
        return read_label_file(read_given(file, _MOST_BYTES))
    except (LabelsError, OSError) as e:
        raise LabelsError(N_("{file}: {reason}"), file=file, reason=given_reason(e)) from e


def given_reason(error: LabelsError | OSError) -> LabelsError | Message | str | None:
    """Return why a file that a user has named cannot be used, without its name."""
    if isinstance(error, LabelsError):
        return error
    return error.strerror if isinstance(error, UnfitFileError) else reason(str(error))


def read_label_file(body: bytes) -> LabelPack:
    """Return the labels of a label file.

    Raises:
        LabelsError: naming the line that cannot be used, or if there is no label at all.
    """
    text = decoded_text(body)
    if text.lstrip().startswith(("[", "{")) and (found := json_entries(text)) is not None:
        return pack_of_entries(found)
    if separator := _separator(text):
        return pack_of_entries(_of_table(text, separator))
    return parse_labels(text)


def decoded_text(body: bytes) -> str:
    """Return the text of a file in an encoding that is certain.

    Raises:
        LabelsError: naming the line that tells, and the way out.
    """
    if body.startswith(_WORKBOOKS):
        raise LabelsError(
            N_("it is a workbook of a spreadsheet: save it as `CSV UTF-8`, and give that file")
        )
    encoding = next((name for mark, name in _MARKS if body.startswith(mark)), "utf-8")
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding == "utf-8" and _is_chinese(body):
            return body.decode("gb18030")
        raise LabelsError(
            N_(
                "{place}: it is neither UTF-8 nor, for certain, another encoding: save the "
                "file as UTF-8 (in Excel: CSV UTF-8), or convert it: iconv -f GB18030 -t UTF-8"
            ),
            place=line_place(body[: e.start].count(b"\n") + 1),
        ) from e
    _check_lost(text)
    return text


def _check_lost(text: str) -> None:
    """Refuse a text in which signs tell that it was read or written in a wrong encoding before."""
    for number, line in enumerate(text.splitlines(), start=1):
        if "\0" in line:
            raise LabelsError(
                N_("{place}: it looks like UTF-16 without its mark: save the file as UTF-8"),
                place=line_place(number),
            )
        if "\ufffd" in line:
            raise LabelsError(
                N_("{place}: a character was lost when the file was saved: save it as UTF-8"),
                place=line_place(number),
            )


def _is_chinese(body: bytes) -> bool:
    """Whether bytes are Chinese of Windows, and can hardly be anything else.

    Nearly any bytes can be read as GB18030. Of real text nearly all characters are common ones; of
    Korean (EUC-KR) and Cyrillic texts they are not, or all lie in the first part.
    """
    try:
        body.decode("gb18030")
    except UnicodeDecodeError:
        return False
    pairs = [(pair[0], pair[1]) for pair in _PAIR.findall(body)]
    if any(first in _OTHERS for first, _ in pairs):
        return False
    characters = [pair for pair in pairs if pair[0] not in _SIGNS]
    common = sum(first in _COMMON and second > 0xA0 for first, second in characters)  # noqa: PLR2004 - GB2312's
    beyond = any(first > _LAST_HANGUL for first, _ in characters)
    return bool(characters) and beyond and common >= _MOST_COMMON * len(characters)


def _separator(text: str) -> str | None:
    """Return what separates the columns, if the first line is a header of a table of labels."""
    first = next((line for line in text.splitlines() if line.strip()), "").removeprefix("\ufeff")
    for separator in _SEPARATORS:
        names = [name.strip().strip('"').casefold() for name in first.split(separator)]
        if len(names) > 1 and _LABEL & set(names):
            return separator
    if first.strip().casefold() in _LABEL:
        raise LabelsError(
            N_("{place}: {name!r} may be a header or a label: leave it out, or begin with another"),
            place=line_place(1),
            name=first.strip(),
        )
    return None


def _of_table(text: str, separator: str) -> Iterator[Entry]:
    rows = table_rows(text, separator)
    _, header = next(rows)
    columns = _columns(header)
    for line, cells in rows:
        yield _of_row(cells, columns, line_place(line))


def table_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table that are not blank: the number of a row's last line, its cells.

    Raises:
        LabelsError: naming the line that is no row.
    """
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield rows.line_num, cells
    except csv.Error as e:
        raise LabelsError(
            N_("{place}: it is no row of a table: {reason}"),
            place=line_place(rows.line_num),
            reason=e,
        ) from e


def _columns(cells: list[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, cell in enumerate(cells):
        for name, spellings in (("label", _LABEL), ("aliases", _ALIASES), ("parent", _PARENT)):
            if cell.casefold() in spellings:
                if name in found:
                    raise LabelsError(N_("the header names the column {name} twice"), name=cell)
                found[name] = place
    unknown = [cell for place, cell in enumerate(cells) if cell and place not in found.values()]
    if unknown:
        raise LabelsError(
            N_("the header has a column {name!r}: known are label, aliases and parent"),
            name=unknown[0],
        )
    return found


def _of_row(cells: list[str], columns: dict[str, int], place: Message) -> Entry:
    if any(cells[place] for place in range(len(cells)) if place not in columns.values()):
        raise LabelsError(N_("{place}: it has more cells than the header has columns"), place=place)
    cells += [""] * (max(columns.values()) + 1 - len(cells))
    aliases = _IN_CELL.split(cells[columns["aliases"]]) if "aliases" in columns else []
    parent = cells[columns["parent"]] if "parent" in columns else ""
    texts = [cells[columns["label"]], *(alias for alias in aliases if alias.strip())]
    return Entry.of(place, texts, parent)
