"""A console that shows whatever it is given, and obeys nothing in it."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from worker.contract.printable import printable_lines


class PrintableConsole(Console):
    """rich's console: what styles and moves the cursor is rich's own, and no part of a text.

    Texts are mostly escaped before, where their width is still to be measured; none comes through.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of what is shown."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)
