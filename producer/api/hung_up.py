"""A client that waits -> its answer, unless it hangs up first: then nobody works for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from producer.api.bodies import HungUpError

T = TypeVar("T")


async def unless_hung_up(request: Request, asking: Coroutine[Any, Any, T]) -> T:
    """Return what `asking` returns; it is cancelled as soon as the client is gone.

    The body of the request must have been read.

    Raises:
        HungUpError: the client is gone.
    """
    listening = asyncio.ensure_future(_gone(request))
    # Who is gone by now is noticed here.
    await asyncio.sleep(0)
    if listening.done():
        asking.close()
        raise HungUpError
    answering = asyncio.ensure_future(asking)
    try:
        await asyncio.wait([answering, listening], return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise HungUpError
    finally:
        for task in (answering, listening):
            task.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
