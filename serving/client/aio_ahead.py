"""Work done ahead of its consumer on an event loop, in order and in bounded memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def map_ahead_async(
    work: Callable[[Item], Awaitable[Result]], items: AsyncIterable[Item], *, concurrency: int
) -> AsyncGenerator[Result, None]:
    """Yield `work(item)` for each item, in order, while up to `concurrency` of the next ones are worked on.

    At most 2 * concurrency items are pulled but not yet done with. What `work` or `items` raises is raised in its place
    and ends the stream. However it ends, what has not ended is cancelled.
    """
    slots, pulled = asyncio.Semaphore(concurrency), asyncio.Semaphore(2 * concurrency)
    queue: asyncio.Queue[asyncio.Task[Result] | None] = asyncio.Queue()

    async def limited(item: Item) -> Result:
        async with slots:
            return await work(item)

    async def feed() -> None:
        try:
            await pulled.acquire()
            async for item in items:
                queue.put_nowait(asyncio.create_task(limited(item)))
                await pulled.acquire()
        finally:
            queue.put_nowait(None)

    feeder = asyncio.create_task(feed())
    try:
        while (task := await queue.get()) is not None:
            yield await task
            pulled.release()
        await feeder
    finally:
        left: list[asyncio.Task[Result] | asyncio.Task[None]] = [feeder]
        while not queue.empty():
            if (waiting := queue.get_nowait()) is not None:
                left.append(waiting)
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def batches_async(items: Iterable[Item] | AsyncIterable[Item], size: int) -> AsyncIterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[Item] = []
    async for item in each(items):
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


async def numbered_async(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[tuple[int, Item]]:
    """`enumerate` of either kind of items."""
    position = 0
    async for item in each(items):
        yield position, item
        position += 1


async def each(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    """Either kind of items as the asynchronous one."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
