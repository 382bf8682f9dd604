"""Streams of both clients: order, bounds, errors in their place."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from itertools import count, islice
from typing import Any

import pytest

from chextriev.errors import (
    InvalidSetting,
    MissingFile,
    RequestRefused,
)
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import (
    AsyncClient,
    Client,
    Threaded,
)
from tests.serving.fake_server import FakeServer, ask_client, both, file, numbers
from tests.tiny import boxes


@both
@pytest.mark.parametrize(("concurrency", "batch"), [(1, 1), (3, 1), (2, 4)])
def test_a_stream_keeps_order_and_bounds(kind: str, concurrency: int, batch: int) -> None:
    server, pulled, seen = FakeServer(), [], []

    def sources() -> Iterator[Callable[[], RadiographFile]]:
        for number in range(40):
            pulled.append(number)
            assert len(pulled) - len(seen) <= (2 * concurrency + 1) * batch
            yield lambda number=number: file(number)

    def consume(client: Any) -> Any:
        stream = client.stream(sources(), concurrency=concurrency, batch=batch)
        return _noting(stream, seen) if kind == "threads" else _noting_async(stream, seen)

    parts = ask_client(kind, server, consume)
    assert [int(number) for part in parts for number in part.vectors[:, 0]] == list(range(40))
    assert server.most_running <= concurrency
    assert {call.rows for call in server.calls} == {batch}


def _noting(stream: Iterator[Any], seen: list[Any]) -> Iterator[Any]:
    for part in stream:
        seen.extend(part.image_ids)
        yield part


async def _noting_async(stream: AsyncIterator[Any], seen: list[Any]) -> AsyncIterator[Any]:
    async for part in stream:
        seen.extend(part.image_ids)
        yield part


@both
def test_a_stream_raises_in_the_place_of_the_refused(kind: str) -> None:
    seen: list[Any] = []

    def consume(client: Any) -> Any:
        stream = client.stream(map(file, [0, 1, 2, -1, 4]), concurrency=2)
        return _noting(stream, seen) if kind == "threads" else _noting_async(stream, seen)

    with pytest.raises(RequestRefused, match=r"every pixel is equal \(request \w+, image secret--1\)"):
        ask_client(kind, FakeServer(), consume)
    assert seen == ["secret-0", "secret-1", "secret-2"]


@both
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_go_on_after_the_refused(kind: str, batch: int) -> None:
    def unreadable() -> RadiographFile:
        return RadiographFile.from_path("nowhere.png", boxes())

    sources = [file(0), file(-1), unreadable, file(3), file(4)]
    found = ask_client(kind, FakeServer(), lambda client: client.answers(sources, concurrency=2, batch=batch))
    assert [answer.position for answer in found] == [0, 1, 2, 3, 4]
    assert [answer.image_id for answer in found] == ["secret-0", "secret--1", None, "secret-3", "secret-4"]
    assert [type(answer.error) for answer in found] == [type(None), RequestRefused, MissingFile, type(None), type(None)]
    assert numbers([answer.embeddings for answer in found if answer.error is None]) == [0, 3, 4]
    assert all(answer.embeddings is None for answer in found if answer.error is not None)


@both
def test_answers_do_not_hide_errors_of_others(kind: str) -> None:
    def broken() -> RadiographFile:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_client(kind, FakeServer(), lambda client: client.answers([file(0), broken]))


def test_a_stream_left_halfway_pulls_no_more() -> None:
    pulled = count()
    with Client(FakeServer()) as client, closing(client.stream(map(file, pulled), concurrency=2)) as stream:
        assert numbers(list(islice(stream, 3))) == [0, 1, 2]
    assert next(pulled) <= 8


def test_an_asynchronous_stream_left_halfway_leaves_no_task() -> None:
    async def live() -> AsyncIterator[RadiographFile]:
        for number in count():
            yield file(number)

    async def main() -> None:
        async with AsyncClient(Threaded(FakeServer())) as client:
            async with aclosing(client.stream(live(), concurrency=2)) as stream:
                assert numbers([await anext(stream), await anext(stream)]) == [0, 1]
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_live_source_holds_back_no_answer() -> None:
    async def main() -> None:
        more = asyncio.Event()

        async def live() -> AsyncIterator[RadiographFile]:
            yield file(0)
            await more.wait()
            yield file(1)

        async with AsyncClient(Threaded(FakeServer())) as client:
            found = []
            async for part in client.stream(live(), concurrency=2):
                found.append(part)
                more.set()
            assert numbers(found) == [0, 1]

    asyncio.run(main())


@both
@pytest.mark.parametrize("settings", [{"concurrency": 0}, {"batch": 0}, {"batch": 33}])
def test_a_stream_needs_sensible_settings(kind: str, settings: dict[str, int]) -> None:
    with pytest.raises(InvalidSetting, match="concurrency is at least 1, batch 1 to 32"):
        ask_client(kind, FakeServer(), lambda client: client.stream([file(0)], **settings))
