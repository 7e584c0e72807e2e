"""Merging of asynchronous generators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

_Item = TypeVar("_Item")


async def merged(sources: Sequence[AsyncGenerator[_Item]]) -> AsyncGenerator[tuple[int, _Item]]:
    """The items of all sources as they come, each with the number of its source. Each source runs in a task of its own
    and waits until its last item is taken. Raises the error of the first source that fails. All sources are closed in
    the end, or with the generator.
    """
    items: asyncio.Queue[tuple[int, _Item] | None] = asyncio.Queue(1)
    errors: list[BaseException] = []

    async def pump(number: int, source: AsyncGenerator[_Item]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await items.put((number, item))
        except Exception as error:
            errors.append(error)
        await items.put(None)

    tasks = [asyncio.ensure_future(pump(number, source)) for number, source in enumerate(sources)]
    left = len(tasks)
    try:
        while left:
            item = await items.get()
            if item is not None:
                yield item
            elif errors:
                raise errors[0]
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
