"""Concurrent searches share a searcher that one thread uses, and get the answers they would get alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chextriev.errors import (
    CountMismatch,
    InvalidSetting,
    InvalidValue,
    Overloaded,
    ServerFailed,
    ServerUnavailable,
)
from chextriev.index.dispatcher import Dispatcher, count_class
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import ANY, Scan, train_index

WIDTH, THREADS, PATIENCE_S = 32, 16, 60
VECTORS = np.random.default_rng(0).standard_normal((4_000, WIDTH)).astype(np.float32)
QUERIES = VECTORS[::10] + np.float32(0.05)


@pytest.fixture(scope="module")
def exact():
    return train_index(VECTORS, IndexSpec("Flat"))


@pytest.fixture(scope="module")
def approximate():
    return train_index(VECTORS, IndexSpec("IVF32,PQ8x4fs,Refine(SQfp16)", nprobe=4))


class Gated:
    """A real index whose first search waits until `release`, and that keeps the number of queries of each."""

    def __init__(self, index):
        self.index, self.width = index, index.width
        self.sizes, self.threads = [], set()
        self.begun, self.release = threading.Event(), threading.Event()

    def search(self, queries, count, scan=ANY):
        self.sizes.append(len(queries))
        self.threads.add(threading.get_ident())
        self.begun.set()
        assert self.release.wait(PATIENCE_S)
        return self.index.search(queries, count, scan)


class Broken:
    """A real index that fails in one of its searches, counted from 0."""

    def __init__(self, index, error, at=0):
        self.index, self.width = index, index.width
        self.error, self.left = error, at

    def search(self, queries, count, scan=ANY):
        self.left -= 1
        if self.left == -1:
            raise self.error
        return self.index.search(queries, count, scan)


def queue_up(dispatcher, gated, pool, calls):
    """Begin one search, then queue these behind it; the futures of all of them."""
    first = pool.submit(dispatcher.search, QUERIES[:1], 10)
    assert gated.begun.wait(PATIENCE_S)
    rest = [pool.submit(dispatcher.search, *call) for call in calls]
    queued, moment = sum(len(call[0]) for call in calls), threading.Event()
    for _ in range(1000 * PATIENCE_S):
        if dispatcher.waiting == queued:
            break
        moment.wait(0.001)
    assert dispatcher.waiting == queued
    return [first, *rest]


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_threads_get_the_answers_of_one(kind, request):
    index = request.getfixturevalue(kind)
    rank = np.random.default_rng(1).permutation(len(index))
    scans = [ANY, Scan(rank=rank), Scan(allowed=np.arange(len(index)) % 3 > 0)]
    calls = [
        (QUERIES[start : start + 1 + start % 4], (5, 10, 16, 20)[start % 4], scans[start % 3]) for start in range(300)
    ]
    alone = [index.search(queries, count_class(count), scan) for queries, count, scan in calls]
    with Dispatcher(index, max_batch=32) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda call: dispatcher.search(*call), calls))
    for (queries, count, _), found, wanted in zip(calls, together, alone, strict=True):
        assert found[0].shape == found[1].shape == (len(queries), count)
        assert_same(found, [part[:, :count] for part in wanted])


def test_an_exact_index_answers_as_without_a_dispatcher(exact):
    with Dispatcher(exact) as dispatcher:
        assert_same(dispatcher.search(QUERIES[:7], 10), exact.search(QUERIES[:7], 10))
        assert dispatcher.search(QUERIES[:0], 10)[1].shape == (0, 10)
        assert dispatcher.search(QUERIES[:2], 10_000)[1].shape == (2, len(VECTORS))


def test_what_waits_goes_together(exact):
    gated = Gated(exact)
    with Dispatcher(gated) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, [(QUERIES[row : row + 2], 10) for row in range(THREADS - 1)])
        gated.release.set()
        answers = [future.result(PATIENCE_S) for future in futures]
    assert gated.sizes == [1, 2 * (THREADS - 1)]
    assert len(gated.threads) == 1
    for row, answer in enumerate(answers[1:]):
        assert_same(answer, exact.search(QUERIES[row : row + 2], 10))


def test_batches_have_an_end_and_do_not_mix(exact):
    gated, chosen = Gated(exact), np.arange(len(VECTORS)) < 2_000
    calls = [(QUERIES[:3], 10)] * 4 + [(QUERIES[:3], 100)] * 2 + [(QUERIES[:3], 10, Scan(allowed=chosen))] * 2
    with Dispatcher(gated, max_batch=8) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, calls)
        gated.release.set()
        answers = [future.result(PATIENCE_S) for future in futures[1:]]
    assert sorted(gated.sizes) == [1, 6, 6, 6, 6]
    for call, answer in zip(calls, answers, strict=True):
        assert_same(answer, exact.search(*call))
    assert (answers[-1][1] < 2_000).all()


def test_views_of_one_array_are_the_same_scan(exact):
    gated, rank, chosen = Gated(exact), np.arange(len(VECTORS) + 9), np.arange(len(VECTORS) + 9) % 2 == 0
    own = slice(0, len(VECTORS))
    calls = [(QUERIES[:3], 10, Scan(rank=rank[own], allowed=chosen[own])) for _ in range(5)]
    calls.append((QUERIES[:3], 10, Scan(rank=rank[own].copy(), allowed=chosen[own])))
    with Dispatcher(gated) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, calls)
        gated.release.set()
        for future in futures[1:]:
            assert_same(future.result(PATIENCE_S), exact.search(*calls[0]))
    assert sorted(gated.sizes) == [1, 3, 15]


def test_a_batch_larger_than_the_limit_is_searched_alone(exact):
    with Dispatcher(exact, max_batch=4, max_waiting=4) as dispatcher:
        assert_same(dispatcher.search(QUERIES[:50], 10), exact.search(QUERIES[:50], 10))


def test_wrong_queries_fail_alone(exact):
    spoilt = QUERIES[:3].copy()
    spoilt[2, 5] = np.nan
    gated = Gated(exact)
    with Dispatcher(gated) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, [(QUERIES[:3], 10)] * 3)
        with pytest.raises(InvalidValue, match="query 2 has a value that is not finite"):
            dispatcher.search(spoilt, 10)
        with pytest.raises(CountMismatch, match=r"shape \[3, 5\]; this index needs \[number, 32\]"):
            dispatcher.search(QUERIES[:3, :5], 10)
        with pytest.raises(InvalidSetting, match="k = 0"):
            dispatcher.search(QUERIES[:3], 0)
        gated.release.set()
        for future in futures[1:]:
            assert_same(future.result(PATIENCE_S), exact.search(QUERIES[:3], 10))
    assert gated.sizes == [1, 9]


def test_errors_of_the_index_pass_as_they_are(exact):
    with Dispatcher(exact) as dispatcher:
        with pytest.raises(InvalidSetting, match="nprobe = 4"):
            dispatcher.search(QUERIES[:3], 10, Scan(nprobe=4))
        assert_same(dispatcher.search(QUERIES[:3], 10), exact.search(QUERIES[:3], 10))


@pytest.mark.parametrize("error", [RuntimeError("CUDA error 700"), SystemExit(3)])
def test_a_broken_index_is_seen_by_every_caller_and_the_next_is_served(exact, error):
    broken = Broken(exact, error)
    with Dispatcher(broken) as dispatcher:
        with pytest.raises(ServerFailed, match=f"broke while it searched .{type(error).__name__}: {error}") as caught:
            dispatcher.search(QUERIES[:3], 10)
        assert caught.value.__cause__ is error
        assert_same(dispatcher.search(QUERIES[:3], 10), exact.search(QUERIES[:3], 10))


def test_a_batch_fails_as_a_whole_and_no_other(exact):
    gated = Gated(Broken(exact, RuntimeError("CUDA error 700"), at=1))
    with Dispatcher(gated) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, [(QUERIES[:1], 10)] * 5 + [(QUERIES[:1], 100)])
        gated.release.set()
        failures = [type(future.exception(PATIENCE_S)) for future in futures]
    assert failures == [type(None), *[ServerFailed] * 5, type(None)]


def test_a_full_queue_refuses(exact):
    gated = Gated(exact)
    with Dispatcher(gated, max_waiting=6) as dispatcher, ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, [(QUERIES[:3], 10)] * 2)
        with pytest.raises(Overloaded, match="6 queries wait for this index, of 6 at most"):
            dispatcher.search(QUERIES[:1], 10)
        gated.release.set()
        assert all(future.result(PATIENCE_S)[1].size for future in futures)
        assert_same(dispatcher.search(QUERIES[:1], 10), exact.search(QUERIES[:1], 10))
    with pytest.raises(InvalidSetting, match="max_batch = 0"):
        Dispatcher(exact, max_batch=0)


def test_closing_answers_what_waits_and_refuses_the_rest(exact):
    gated = Gated(exact)
    dispatcher = Dispatcher(gated)
    with ThreadPoolExecutor(THREADS) as pool:
        futures = queue_up(dispatcher, gated, pool, [(QUERIES[:3], 10)] * 4)
        closing = pool.submit(dispatcher.close)
        gated.release.set()
        closing.result(PATIENCE_S)
        for future in futures[1:]:
            assert_same(future.result(PATIENCE_S), exact.search(QUERIES[:3], 10))
    with pytest.raises(ServerUnavailable, match="closed"):
        dispatcher.search(QUERIES[:1], 10)
    dispatcher.close()
    assert not {thread.ident for thread in threading.enumerate()} & gated.threads


@pytest.mark.parametrize(("count", "asked"), [(1, 16), (16, 16), (17, 32), (32, 32), (100, 128), (1_025, 2_048)])
def test_similar_counts_are_one_class(count, asked):
    assert count_class(count) == asked
