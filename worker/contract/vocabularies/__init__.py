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
from pathlib import Path
from typing import Final

import msgspec

from worker.contract.labels import LabelPack, parse_labels

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
        """Return its labels, with their aliases and parents."""
        return parse_labels(self.file.read_text(encoding="utf-8"))


def vocabularies() -> tuple[Vocabulary, ...]:
    """Return all of them."""
    return tuple(_read(_DIRECTORY / f"{name}.txt") for name in NAMES)


def find_vocabulary(name: str) -> Vocabulary | None:
    """Return the vocabulary of this name, in English or Chinese; None if there is none."""
    return next((one for one in vocabularies() if name in {one.name, one.chinese_name}), None)


def _read(file: Path) -> Vocabulary:
    fields: dict[str, str | Path] = {"file": file}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not (found := _HEADER.match(line)):
                break
            fields[found[1]] = found[2].strip()
    return msgspec.convert(fields, Vocabulary, strict=True)
