"""Any number of labels that a model tells apart, of few characters."""

from __future__ import annotations

import itertools
from typing import Final

CHARACTERS: Final = "这是一张的照片猫狗山水火车鱼鸟花树瓜果红黄蓝白黑大小"


def labels(count: int) -> tuple[str, ...]:
    """Return so many labels of two to five characters, no two of the same ones."""
    groups = (itertools.combinations(CHARACTERS, n) for n in (2, 3, 4, 5))
    found = map("".join, itertools.chain.from_iterable(groups))
    return tuple(itertools.islice(found, count))
