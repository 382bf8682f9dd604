"""The client for event loops: `Client`, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

from chextriev.encoder import Embeddings
from chextriev.errors import InvalidSetting, ServerUnavailable, ServingError, UnknownModel
from chextriev.hits import Hit
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import answers, located, search
from chextriev.serving.client.aio_ahead import batches_async, map_ahead_async, numbered_async
from chextriev.serving.client.answers import Answer
from chextriev.serving.client.connection import Connection, open_async_transport
from chextriev.serving.client.deadline import Countdown, Deadline
from chextriev.serving.client.described import Described
from chextriev.serving.client.retry import Tries
from chextriev.serving.client.sources import Source, as_file, as_list, check_stream, cut
from chextriev.serving.client.statuses import named
from chextriev.serving.client.transport import AsyncTransport, ModelDescription
from chextriev.serving.wire import ensemble_name, index_name, located_name

if TYPE_CHECKING:
    from chextriev.index.retriever import Ranking, Retriever

Result = TypeVar("Result")
Sources = Iterable[Source] | AsyncIterable[Source]


class AsyncClient:
    """`Client` for one event loop: the same arguments, methods and errors.

    What reads a source, and a local index, are called in threads. Use it in an `async with` block, or `await aclose()`.
    """

    def __init__(
        self,
        address: str | AsyncTransport,
        *,
        system: str = "v6",
        index: "str | Path | Retriever | None" = None,
        deadline: Deadline | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.system, self.deadline = system, deadline or Deadline()
        self._connection = connection or Connection()
        self._served, self._index = index == search.SERVED, search.open_local(index)
        self._transport = open_async_transport(address, self._connection) if isinstance(address, str) else address
        self._described = Described()
        self._closed = False

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the connection; requests on their way fail. May be called again."""
        if not self._closed:
            self._closed = True
            await self._transport.close()

    async def encoder_digest(self, *, deadline: Deadline | None = None) -> str:
        """The bundle that the server encodes with."""
        return answers.digest_of_encoder(await self._describe(ensemble_name(self.system), self._start(deadline)))

    async def embed(self, source: Source | Sequence[Source], *, deadline: Deadline | None = None) -> Embeddings:
        """Embeddings of one radiograph or of several, in order: one request, or as few as a server takes."""
        return await self._embed(as_list(source), self._start(deadline))

    async def findings(self, source: Source, *, deadline: Deadline | None = None) -> dict[str, float]:
        """Probability in 0..1 of each finding, by its name."""
        return answers.findings_of(await self.embed(source, deadline=deadline))

    async def search(
        self,
        source: Source,
        k: int = 10,
        *,
        patient_id: str | None = None,
        deadline: Deadline | None = None,
        **ranking: "Unpack[Ranking]",
    ) -> list[Hit]:
        """The k most similar radiographs of the index; see `Client.search`."""
        return (await self.search_each([source], k, patient_ids=[patient_id], deadline=deadline, **ranking))[0]

    async def search_each(
        self,
        sources: Sequence[Source],
        k: int = 10,
        *,
        patient_ids: Sequence[str | None] | None = None,
        deadline: Deadline | None = None,
        **ranking: "Unpack[Ranking]",
    ) -> list[list[Hit]]:
        """`search` of several radiographs. patient_ids: one for each, None where unknown."""
        patients, countdown = search.check_query(k, len(sources), patient_ids), self._start(deadline)
        search.check_index(self._index, served=self._served)
        digest = answers.digest_of_encoder(await self._describe(ensemble_name(self.system), countdown))
        await self._check_searched(digest, ranking, countdown)
        return await self._search(await self._embed(sources, countdown), k, patients, countdown, ranking)

    async def search_embeddings(
        self,
        queries: Embeddings,
        k: int = 10,
        *,
        patient_ids: Sequence[str | None] | None = None,
        deadline: Deadline | None = None,
        **ranking: "Unpack[Ranking]",
    ) -> list[list[Hit]]:
        """`search_each` of what `embed` has given."""
        patients, countdown = search.check_query(k, len(queries), patient_ids), self._start(deadline)
        search.check_index(self._index, served=self._served)
        await self._check_searched(queries.encoder_digest, ranking, countdown)
        return await self._search(queries, k, patients, countdown, ranking)

    def stream(
        self, sources: Sources, *, concurrency: int = 8, batch: int = 1, deadline: Deadline | None = None
    ) -> AsyncGenerator[Embeddings, None]:
        """Embeddings of any number of radiographs, in order; see `Client.stream`.

        A consumer that may leave halfway closes it (`contextlib.aclosing`).
        """
        check_stream(concurrency, batch)

        async def work(group: list[Source]) -> Embeddings:
            return await self.embed(group, deadline=deadline)

        return map_ahead_async(work, batches_async(sources, batch), concurrency=concurrency)

    async def answers(
        self, sources: Sources, *, concurrency: int = 8, batch: int = 1, deadline: Deadline | None = None
    ) -> AsyncGenerator[Answer, None]:
        """`stream` with an `Answer` for each source; see `Client.answers`."""
        check_stream(concurrency, batch)

        async def work(numbered: list[tuple[int, Source]]) -> list[Answer]:
            files, unread = await asyncio.to_thread(answers.read_apart, numbered)
            return answers.in_order([*unread, *await self._answer(files, deadline)])

        groups = batches_async(numbered_async(sources), batch)
        async with aclosing(map_ahead_async(work, groups, concurrency=concurrency)) as found:
            async for group in found:
                for answer in group:
                    yield answer

    def _start(self, deadline: Deadline | None) -> Countdown:
        return (deadline or self.deadline).start()

    async def _answer(self, files: list[tuple[int, RadiographFile]], deadline: Deadline | None) -> list[Answer]:
        try:
            return answers.answered(files, await self._embed([file for _, file in files], self._start(deadline)))
        except ServingError as error:
            if answers.may_be_one_of_them(error, len(files)):
                return [answer for file in files for answer in await self._answer([file], deadline)]
            return answers.failed(files, error)

    async def _embed(self, sources: Sequence[Source], countdown: Countdown) -> Embeddings:
        files = await asyncio.to_thread(lambda: [as_file(source) for source in sources])
        parts = [await self._embed_request(request, countdown) for request in cut(files)]
        if len(parts) == 1:
            return parts[0]
        return answers.join(parts, await self._describe(ensemble_name(self.system), countdown))

    async def _embed_request(self, files: list[RadiographFile], countdown: Countdown) -> Embeddings:
        request, ids = answers.new_request(), [file.image_id for file in files]

        async def once() -> Embeddings:
            model = await self._encoding(files, countdown)
            call = answers.embed_call(model, files, request)
            return answers.read_embeddings(model, files, await self._transport.infer(call, countdown.remaining_s()))

        return await self._persist(once, countdown, request, ids)

    async def _check_searched(self, digest: str, ranking: "Ranking", countdown: Countdown) -> None:
        """OtherEncoder where the index is of another encoder than queries of this digest."""
        if self._index is not None:
            self._index.check_encoder(digest)
            return
        search.check_served(ranking)
        search.check_same_encoder(digest, await self._describe(index_name(self.system), countdown))

    async def _search(
        self, queries: Embeddings, k: int, patients: list[str | None], countdown: Countdown, ranking: "Ranking"
    ) -> list[list[Hit]]:
        if self._index is not None:
            return await asyncio.to_thread(self._index.search, queries, k, patient_ids=patients, **ranking)
        return await self._search_served(queries, k, patients, countdown)

    async def _search_served(
        self, queries: Embeddings, k: int, patients: Sequence[str | None], countdown: Countdown
    ) -> list[list[Hit]]:
        hits: list[list[Hit]] = []
        for part, patient_ids in search.parts(queries, patients):
            request = answers.new_request()

            async def once(
                part: Embeddings = part, patient_ids: Sequence[str | None] = patient_ids, request: str = request
            ) -> list[list[Hit]]:
                model = await self._model(index_name(self.system), countdown)
                search.check_same_encoder(part.encoder_digest, model)
                call = search.search_call(model, part, k, patient_ids, request)
                return search.read_hits(await self._transport.infer(call, countdown.remaining_s()), len(part))

            hits += await self._persist(once, countdown, request, part.image_ids)
        return hits

    async def _encoding(self, files: list[RadiographFile], countdown: Countdown) -> ModelDescription:
        """The ensemble for files that all have boxes, or all lack them."""
        model = await self._model(ensemble_name(self.system), countdown)
        if not located.needs_proposals(files, model):
            return model
        try:
            return await self._model(located_name(self.system), countdown)
        except UnknownModel as error:
            raise located.no_localizer(self.system, error) from None

    async def _describe(self, name: str, countdown: Countdown) -> ModelDescription:
        return await self._persist(lambda: self._model(name, countdown), countdown)

    async def _model(self, name: str, countdown: Countdown) -> ModelDescription:
        known = self._described.get(name)
        return known or self._described.put(await self._transport.describe(name, countdown.connecting_s()))

    async def _persist(
        self,
        once: Callable[[], Awaitable[Result]],
        countdown: Countdown,
        request: str | None = None,
        ids: Sequence[str] = (),
    ) -> Result:
        tries = Tries(self._connection.retry, countdown)
        try:
            while True:
                if self._closed:
                    raise InvalidSetting("this client is closed; open another one")
                try:
                    return await once()
                except ServerUnavailable as error:
                    self._described.forget()
                    pause_s = tries.pause_after(error)
                await asyncio.sleep(pause_s)
        except ServingError as error:
            raise named(error, request, ids) from None
