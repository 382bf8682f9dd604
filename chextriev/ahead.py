"""Work done in threads ahead of its consumer, in order and in bounded memory.

For work that releases the interpreter's lock, as decoding and resizing do.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from chextriev.errors import InvalidSetting

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int = 2, ahead: int = 8
) -> Generator[Result, None, None]:
    """Yield `work(item)` for each item, in order, while `workers` threads compute the next ones.

    At most `ahead` items are pulled but not yet done with: the one that the consumer holds, and those behind it. What
    `work` raises is raised in its place and ends the stream; what `items` raises is raised when it is pulled. However
    the stream ends, what has not begun never begins, and the threads are gone when it has. A consumer that may fail
    halfway closes it (`contextlib.closing`). Raises InvalidSetting, at the call, for fewer than one of either.
    """
    for name, value in (("workers", workers), ("ahead", ahead)):
        if value < 1:
            raise InvalidSetting(f"{name} is {value}; at least 1 is needed")
    return _results(work, iter(items), workers, ahead)


def _results(
    work: Callable[[Item], Result], items: Iterator[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    pending: deque[Future[Result]] = deque()
    try:
        while True:
            pending.extend(pool.submit(work, item) for item in islice(items, ahead - len(pending)))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
