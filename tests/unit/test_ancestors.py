"""What lies above a label: in order, bounded, and never a circle."""

from __future__ import annotations

import pytest

from worker.contract.ancestors import MOST_ANCESTORS, ancestors_of
from worker.contract.messages import Tag

PARENTS = {"金毛犬": "狗", "狗": "动物", "甲": "乙", "乙": "甲", "丙": "丙", "丁": "甲"}


@pytest.mark.parametrize(
    ("label", "above"),
    [
        ("金毛犬", ("狗", "动物")),
        ("狗", ("动物",)),
        ("动物", ()),
        ("甲", ("乙",)),
        ("丙", ()),
        ("丁", ("甲", "乙")),
    ],
)
def test_the_line_begins_with_the_parent_and_ends_before_it_repeats(
    label: str, above: tuple[str, ...]
) -> None:
    assert ancestors_of(label, PARENTS) == above
    assert Tag.below(above, label, 0.5).above == above


def test_the_line_is_bounded() -> None:
    endless = {str(number): str(number + 1) for number in range(100)}
    assert ancestors_of("0", endless) == tuple(map(str, range(1, MOST_ANCESTORS + 1)))
