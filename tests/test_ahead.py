"""Work ahead of the consumer keeps order, bounds and faults in place, and leaves nothing running."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from chextriev.ahead import map_ahead
from chextriev.errors import InvalidSetting

PATIENCE_S = 10  # how long a failing test waits; a passing one never does


class Item:
    """An item that can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


class Pulled:
    """Numbers from 0 on, and how many were taken."""

    def __init__(self, stop: int | None = None) -> None:
        self.numbers = count() if stop is None else iter(range(stop))
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in self.numbers:
            self.taken += 1
            yield number


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ahead")}


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 8), (4, 3), (3, 100)])
def test_results_are_in_order(workers: int, ahead: int) -> None:
    assert list(map_ahead(double, range(50), workers=workers, ahead=ahead)) == list(range(0, 100, 2))
    assert list(map_ahead(double, [], workers=workers, ahead=ahead)) == []
    assert not threads()


def test_a_slow_item_holds_its_place() -> None:
    late = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert late.wait(PATIENCE_S)
        if number == 2:
            late.set()
        return number

    assert list(map_ahead(work, range(4), workers=2, ahead=4)) == [0, 1, 2, 3]


def test_workers_work_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def work(number: int) -> int:
        together.wait()
        return number

    assert list(map_ahead(work, range(9), workers=3, ahead=6)) == list(range(9))


def test_work_begins_before_it_is_asked_for() -> None:
    begun = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        begun[number].set()
        return number

    with closing(map_ahead(work, range(4), workers=2, ahead=3)) as stream:
        assert next(stream) == 0
        assert all(event.wait(PATIENCE_S) for event in begun[:3])
        assert not begun[3].is_set()


def test_items_are_pulled_as_needed_and_never_more() -> None:
    items = Pulled()
    stream = map_ahead(double, items, workers=2, ahead=5)
    assert items.taken == 0
    for number in range(20):
        assert next(stream) == 2 * number
        assert items.taken == number + 5
    stream.close()
    assert items.taken == 24


def test_a_result_is_not_kept_once_it_is_handed_over() -> None:
    with closing(map_ahead(Item, count(), workers=1, ahead=2)) as stream:
        first = weakref.ref(next(stream))
        assert next(stream).number == 1  # by now the thread has let go of the first
        assert first() is None


def test_a_fault_is_raised_in_its_place_and_ends_the_stream() -> None:
    items, found = Pulled(), []

    def work(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError(number)
        return number

    stream = map_ahead(work, items, workers=2, ahead=4)
    with pytest.raises(ZeroDivisionError, match="3"):
        found.extend(stream)
    assert found == [0, 1, 2]
    assert items.taken == 7
    assert list(stream) == []
    assert not threads()


def test_a_fault_of_the_items_leaves_no_thread() -> None:
    stream = map_ahead(double, (10 // (3 - number) for number in count()), workers=2, ahead=2)
    assert [next(stream), next(stream)] == [6, 10]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert not threads()


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "consumer-fails"])
def test_an_early_end_cancels_what_has_not_begun_and_waits_for_what_has(fails: bool) -> None:
    """Item 1 is at work when the stream ends, and goes on until item 3, which waits behind it, is dropped."""
    begun, ended, at_work, dropped = [], [], threading.Event(), threading.Event()

    def watched(number: int) -> Item:
        item = Item(number)
        if number == 3:
            weakref.finalize(item, dropped.set)
        return item

    def work(item: Item) -> int:
        begun.append(item.number)
        if item.number == 1:
            at_work.set()
            dropped.wait(PATIENCE_S)
        ended.append(dropped.is_set())
        return item.number

    def consume() -> None:
        with closing(map_ahead(work, map(watched, range(9)), workers=1, ahead=5)) as stream:
            assert next(stream) == 0
            assert at_work.wait(PATIENCE_S)
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            consume()
    else:
        consume()
    assert begun == [0, 1]
    assert ended == [False, True]
    assert not threads()


def test_a_stream_that_nobody_reads_starts_nothing() -> None:
    items = Pulled()
    stream = map_ahead(double, items)
    stream.close()
    assert (items.taken, threads(), list(stream)) == (0, set(), [])


def test_a_stream_that_is_forgotten_leaves_no_thread() -> None:
    stream = map_ahead(double, count())
    assert next(stream) == 0
    assert threads()
    del stream
    assert not threads()


@pytest.mark.parametrize("settings", [{"workers": 0}, {"ahead": 0}, {"ahead": -1}])
def test_settings_are_checked_at_the_call(settings: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match=f"{next(iter(settings))} is .*; at least 1 is needed"):
        map_ahead(double, [1], **settings)
