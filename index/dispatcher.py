"""Many callers, one searcher: batches concurrent searches for an index that one thread at a time may use.

A GPU index is of that kind: Faiss keeps one region of scratch memory per `StandardGpuResources`, so two searches at
once corrupt each other. It is also at its best with many queries in one call.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from chextriev.errors import ChextrievError, InvalidSetting, Overloaded, ServerFailed, ServerUnavailable
from chextriev.index.exact import Rows, Scores, unit_rows
from chextriev.index.vector_index import ANY, Scan, check_queries

MAX_BATCH = 1_024  # queries of one search
MAX_WAITING = 8_192  # queries that no search has begun
SMALLEST_CLASS = 16


class Searcher(Protocol):
    """What `VectorIndex.search` promises, without its promise about threads."""

    @property
    def width(self) -> int:
        """D, the width of its vectors."""

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> tuple[Scores, Rows]:
        """Scores [Q, count] and rows [Q, count], best first."""


@dataclass(eq=False)
class _Batch:
    """Searches that go together; once begun, none is added."""

    count: int
    scan: Scan
    queries: list[npt.NDArray[Any]] = field(default_factory=list)
    size: int = 0


Answer = tuple[Scores, Rows]


class Dispatcher:
    """`search` for any number of threads over a searcher that is only ever called from one.

    What has queued up while the last search ran forms the next batch; nobody waits for more to come. Searches go
    together if their scan is the same and their counts fall into one class (`count_class`). A caller's answer does not
    depend on whom it shares a batch with: the searcher is asked for the whole class, and the caller gets the first
    `count` of it. Use it as a context, or call `close`.
    """

    def __init__(self, searcher: Searcher, *, max_batch: int = MAX_BATCH, max_waiting: int = MAX_WAITING) -> None:
        if min(max_batch, max_waiting) < 1:
            raise InvalidSetting(f"max_batch = {max_batch}, max_waiting = {max_waiting}; give 1 or more queries")
        self._searcher = searcher
        self._max_batch, self._max_waiting = max_batch, max_waiting
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="chextriev-index")
        self._lock = threading.Lock()
        self._open: dict[tuple[Any, ...], tuple[_Batch, Future[Answer]]] = {}
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """The number of queries whose search has not begun."""
        return self._waiting

    def search(self, queries: npt.NDArray[Any], count: int, scan: Scan = ANY) -> Answer:
        """As the searcher's; blocks until it is done.

        Queries that it would refuse are refused before they join others. Raises Overloaded if too many wait,
        ServerUnavailable after `close`, ServerFailed if the searcher broke; its own errors pass as they are.
        """
        check_queries(queries, self._searcher.width, count)
        unit_rows(queries, "query")
        answer, first = self._join(queries, count_class(count), scan)
        error = answer.exception()
        if isinstance(error, ChextrievError):
            raise error
        if error is not None:
            raise ServerFailed(
                f"the index broke while it searched ({type(error).__name__}: {error}); open it again"
            ) from error
        scores, rows = answer.result()
        own = slice(first, first + len(queries))
        return scores[own, :count], rows[own, :count]

    def close(self) -> None:
        """Answer what waits, then end the thread. A second call does nothing."""
        with self._lock:
            self._closed = True
        self._worker.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _join(self, queries: npt.NDArray[Any], count: int, scan: Scan) -> tuple[Future[Answer], int]:
        """Put the queries into a batch that has not begun; its answer, and the line of the first of them in it."""
        key = (count, *map(_identity, vars(scan).values()))
        with self._lock:
            if self._closed:
                raise ServerUnavailable("this index is closed and answers no more searches; open it again")
            if self._waiting and self._waiting + len(queries) > self._max_waiting:
                raise Overloaded(
                    f"{self._waiting} queries wait for this index, of {self._max_waiting} at most; try again later,"
                    " or search with fewer threads"
                )
            batch, answer = self._open.get(key, (None, None))
            if batch is None or answer is None or batch.size + len(queries) > self._max_batch:
                batch = _Batch(count, scan)
                answer = self._worker.submit(self._run, key, batch)
                self._open[key] = batch, answer
            first = batch.size
            batch.queries.append(queries)
            batch.size += len(queries)
            self._waiting += len(queries)
        return answer, first

    def _run(self, key: tuple[Any, ...], batch: _Batch) -> Answer:
        with self._lock:
            if key in self._open and self._open[key][0] is batch:
                del self._open[key]
            self._waiting -= batch.size
        return self._searcher.search(np.concatenate(batch.queries), batch.count, batch.scan)


def _identity(value: Any) -> Any:
    """Equal for equal settings, and for views of the same memory; a batch holds its arrays, so no address returns."""
    if isinstance(value, np.ndarray):
        return value.ctypes.data, value.shape, value.strides, value.dtype.str
    return value


def count_class(count: int) -> int:
    """The power of two, 16 at least, that is asked for in place of a count, so that similar searches go together."""
    return 1 << max(SMALLEST_CLASS.bit_length() - 1, (count - 1).bit_length())
