"""Name of a vocabulary -> its label file. Vocabularies are label sets that come with the program.

Each is a label file like any other (`worker.contract.labels`) in this directory. It begins with
comments that say what it is::

    # name: general
    # 名称: 通用
    # version: 1.0
    # for: Photo libraries and content platforms
    # 用途: 图库与内容平台
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from worker.contract.i18n import gettext_noop as N_
from worker.contract.labels import LabelPack, LabelsError, parse_labels
from worker.contract.reasons import os_reason

# In the order in which they are listed.
NAMES: Final = ("general", "scenes", "food", "ecommerce", "documents")
_DIRECTORY: Final = Path(__file__).parent
_HEADER: Final = re.compile(r"# (\w+): (.+)")


class Vocabulary(msgspec.Struct, frozen=True):
    """A label set that comes with the program, and what its file says about it."""

    file: Path
    name: str
    chinese_name: str = msgspec.field(name="名称")
    version: str
    purpose: str = msgspec.field(name="for")
    chinese_purpose: str = msgspec.field(name="用途")

    def read_pack(self) -> LabelPack:
        """Return its labels, with their aliases and parents.

        Raises:
            LabelsError: naming the file, which somebody has changed.
        """
        try:
            return parse_labels(self.file.read_text(encoding="utf-8"))
        except (LabelsError, OSError, UnicodeError) as e:
            raise _unusable(self.file, e) from e


def vocabularies() -> tuple[Vocabulary, ...]:
    """Return all of them.

    Raises:
        LabelsError: naming the file that cannot be used.
    """
    return tuple(map(_named, NAMES))


def find_vocabulary(name: str) -> Vocabulary | None:
    """Return the vocabulary of this name, in English or Chinese; None if there is none.

    Raises:
        LabelsError: naming its file, which cannot be used.
    """
    if name in NAMES:
        return _named(name)
    return next((one for one in _usable() if name == one.chinese_name), None)


def _usable() -> Iterator[Vocabulary]:
    """Yield those whose files say what they are: one that does not is no harm to others."""
    for name in NAMES:
        with suppress(LabelsError):
            yield _named(name)


def _named(name: str) -> Vocabulary:
    file = _DIRECTORY / f"{name}.txt"
    try:
        return _read(file)
    except msgspec.ValidationError as e:
        raise LabelsError(
            N_("{file}: its first lines do not say what it is: {reason}"), file=file, reason=e
        ) from e
    except (OSError, UnicodeError) as e:
        raise _unusable(file, e) from e


def _unusable(file: Path, error: LabelsError | OSError | UnicodeError) -> LabelsError:
    why = os_reason(error) if isinstance(error, OSError) else error
    return LabelsError(N_("{file}: {reason}"), file=file, reason=why)


def _read(file: Path) -> Vocabulary:
    fields: dict[str, str | Path] = {"file": file}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not (found := _HEADER.match(line)):
                break
            fields[found[1]] = found[2].strip()
    return msgspec.convert(fields, Vocabulary, strict=True)
