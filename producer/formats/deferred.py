"""A sink that is opened by its first record: until then what stands in the file stays."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.contract.messages import Record

if TYPE_CHECKING:
    from producer.formats import OpenSink, Sink


class DeferredSink:
    """Passes records on to a sink that it opens for the first, or when its block ends well."""

    def __init__(self, opens: Callable[[], OpenSink]) -> None:
        self._opens = opens
        self._stack = ExitStack()
        self._sink: Sink | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._opened()
        self._stack.__exit__(kind, error, trace)

    @property
    def is_opened(self) -> bool:
        """Whether what stood in the file is gone."""
        return self._sink is not None

    def write(self, record: Record) -> None:
        """Pass a record on."""
        self._opened().write(record)

    def flush(self) -> None:
        """Make what was written safe from our own end."""
        if self._sink is not None:
            self._sink.flush()

    def _opened(self) -> Sink:
        if self._sink is None:
            self._sink = self._stack.enter_context(self._opens())
        return self._sink
