"""Map a function over tasks in a few processes: results in order, few in flight, and a clean end on Ctrl-C."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from chextriev.errors import InvalidSetting

Task = TypeVar("Task")
Result = TypeVar("Result")
_AHEAD = 3  # tasks in flight a worker: enough that none waits, few enough that memory stays bounded


def map_in_order(function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int) -> Iterator[Result]:
    """Yield function(task) for each task, in order; with one worker in this process.

    The processes are spawned, not forked: a fork of a process with threads (torch, Arrow) may hang. They end when the
    iteration ends, fails or is interrupted, and when this process dies.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    queue = iter(tasks)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        with _interrupts_ignored():
            pending = deque(pool.submit(function, task) for task in islice(queue, workers * _AHEAD))
        while pending:
            result = _result(pending.popleft())
            pending.extend(pool.submit(function, task) for task in islice(queue, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        raise InvalidSetting(
            "a worker process ended before its work (memory, or a script without `if __name__ == '__main__':`);"
            " run again with workers set to 1"
        ) from None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here inherit that they ignore Ctrl-C: the parent alone answers it, and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _end_with_parent() -> None:
    """Let no worker outlive a parent that was killed."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
