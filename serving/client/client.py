"""Radiographs to embeddings, findings and similar cases, by a server: the client for ordinary programs."""

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack

from chextriev.ahead import map_ahead
from chextriev.encoder import Embeddings
from chextriev.errors import InvalidSetting, ServerUnavailable, ServingError, UnknownModel
from chextriev.hits import Hit
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import answers, located, search
from chextriev.serving.client.answers import Answer
from chextriev.serving.client.connection import Connection, open_transport
from chextriev.serving.client.deadline import Countdown, Deadline
from chextriev.serving.client.described import Described
from chextriev.serving.client.retry import Tries
from chextriev.serving.client.sources import Source, as_file, as_list, batches, check_stream, cut
from chextriev.serving.client.statuses import named
from chextriev.serving.client.transport import ModelDescription, Transport
from chextriev.serving.wire import ensemble_name, index_name, located_name

if TYPE_CHECKING:
    from chextriev.index.retriever import Ranking, Retriever

Result = TypeVar("Result")


class Client:
    """One system of one server. Any number of threads may share it; use it in a `with` block, or `close` it.

    address: `HOST:PORT` or `grpc://`, `grpcs://`, `shm://` (shared memory of one host), `http://`, `https://`; or a
    transport, as `InProcessTransport(encoder)`. index: to search in, a directory (or an opened index), or "served".
    deadline: of a call that gives none of its own. Nothing is sent before the first call; the index is opened here.

    Calls raise InputError for what they are given and ServingError for what the server answers, the request named.
    """

    def __init__(
        self,
        address: str | Transport,
        *,
        system: str = "v6",
        index: "str | Path | Retriever | None" = None,
        deadline: Deadline | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.system, self.deadline = system, deadline or Deadline()
        self._connection = connection or Connection()
        self._served, self._index = index == search.SERVED, search.open_local(index)
        self._transport = open_transport(address, self._connection) if isinstance(address, str) else address
        self._described = Described()
        self._closed = threading.Event()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; requests on their way fail. May be called again."""
        if not self._closed.is_set():
            self._closed.set()
            self._transport.close()

    def encoder_digest(self, *, deadline: Deadline | None = None) -> str:
        """The bundle that the server encodes with."""
        return answers.digest_of_encoder(self._describe(ensemble_name(self.system), self._start(deadline)))

    def embed(self, source: Source | Sequence[Source], *, deadline: Deadline | None = None) -> Embeddings:
        """Embeddings of one radiograph or of several, in order: one request, or as few as a server takes.

        A source may be a file's path or bytes (JPEG, PNG, DICOM, which is decoded here), a radiograph, or what reads
        one. Where it has no boxes and the system looks at regions, the server's localizer proposes them; the answer
        says which boxes, how sure it is and what proposed them. RequestRefused where the server has no localizer.
        """
        return self._embed(map(as_file, as_list(source)), self._start(deadline))

    def findings(self, source: Source, *, deadline: Deadline | None = None) -> dict[str, float]:
        """Probability in 0..1 of each finding, by its name."""
        return answers.findings_of(self.embed(source, deadline=deadline))

    def search(
        self,
        source: Source,
        k: int = 10,
        *,
        patient_id: str | None = None,
        deadline: Deadline | None = None,
        **ranking: "Unpack[Ranking]",
    ) -> list[Hit]:
        """The k most similar radiographs of the index, best first, without the query and its patient.

        patient_id: of the query, where it is not in the index itself. ranking: filters and more, for an index on this
        machine (see `index.retriever.Ranking`), such as where=["view = PA"]. A served index is told the ids.
        OtherEncoder, before anything is encoded or searched, where the index is not of the server's encoder.
        """
        return self.search_each([source], k, patient_ids=[patient_id], deadline=deadline, **ranking)[0]

    def search_each(
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
        digest = answers.digest_of_encoder(self._describe(ensemble_name(self.system), countdown))
        self._check_searched(digest, ranking, countdown)
        return self._search(self._embed(map(as_file, sources), countdown), k, patients, countdown, ranking)

    def search_embeddings(
        self,
        queries: Embeddings,
        k: int = 10,
        *,
        patient_ids: Sequence[str | None] | None = None,
        deadline: Deadline | None = None,
        **ranking: "Unpack[Ranking]",
    ) -> list[list[Hit]]:
        """`search_each` of what `embed` has given, for who wants to know of their boxes or findings too."""
        patients, countdown = search.check_query(k, len(queries), patient_ids), self._start(deadline)
        search.check_index(self._index, served=self._served)
        self._check_searched(queries.encoder_digest, ranking, countdown)
        return self._search(queries, k, patients, countdown, ranking)

    def stream(
        self, sources: Iterable[Source], *, concurrency: int = 8, batch: int = 1, deadline: Deadline | None = None
    ) -> Generator[Embeddings, None, None]:
        """Embeddings of any number of radiographs, in order, `batch` in a request and `concurrency` requests at a time.

        In bounded memory: at most 2 * concurrency requests are pulled from `sources` and not yet consumed, and what
        reads a source is called in a thread when its turn comes. An error is raised in the place of its request and
        ends the stream; `answers` goes on. A consumer that may fail halfway closes it (`contextlib.closing`).
        """
        check_stream(concurrency, batch)
        groups = batches(sources, batch)
        return map_ahead(self._embedder(deadline), groups, workers=concurrency, ahead=2 * concurrency)

    def answers(
        self, sources: Iterable[Source], *, concurrency: int = 8, batch: int = 1, deadline: Deadline | None = None
    ) -> Generator[Answer, None, None]:
        """`stream` with an `Answer` for each source, so that one that is refused costs no other its embeddings.

        A request that is refused is sent again radiograph by radiograph. Errors that are none of this package's, as of
        a function that reads a source, end the stream.
        """
        check_stream(concurrency, batch)
        groups = batches(enumerate(sources), batch)
        work = self._answerer(deadline)
        with closing(map_ahead(work, groups, workers=concurrency, ahead=2 * concurrency)) as found:
            yield from chain.from_iterable(found)

    def _start(self, deadline: Deadline | None) -> Countdown:
        return (deadline or self.deadline).start()

    def _embedder(self, deadline: Deadline | None) -> Callable[[list[Source]], Embeddings]:
        return lambda sources: self.embed(sources, deadline=deadline)

    def _answerer(self, deadline: Deadline | None) -> Callable[[list[tuple[int, Source]]], list[Answer]]:
        def work(numbered: list[tuple[int, Source]]) -> list[Answer]:
            files, unread = answers.read_apart(numbered)
            return answers.in_order([*unread, *self._answer(files, deadline)])

        return work

    def _answer(self, files: list[tuple[int, RadiographFile]], deadline: Deadline | None) -> list[Answer]:
        try:
            return answers.answered(files, self._embed([file for _, file in files], self._start(deadline)))
        except ServingError as error:
            if answers.may_be_one_of_them(error, len(files)):
                return [answer for file in files for answer in self._answer([file], deadline)]
            return answers.failed(files, error)

    def _embed(self, files: Iterable[RadiographFile], countdown: Countdown) -> Embeddings:
        parts = [self._embed_request(request, countdown) for request in cut(files)]
        return (
            parts[0] if len(parts) == 1 else answers.join(parts, self._describe(ensemble_name(self.system), countdown))
        )

    def _embed_request(self, files: list[RadiographFile], countdown: Countdown) -> Embeddings:
        request, ids = answers.new_request(), [file.image_id for file in files]

        def once() -> Embeddings:
            model = self._encoding(files, countdown)
            call = answers.embed_call(model, files, request)
            return answers.read_embeddings(model, files, self._transport.infer(call, countdown.remaining_s()))

        return self._persist(once, countdown, request, ids)

    def _check_searched(self, digest: str, ranking: "Ranking", countdown: Countdown) -> None:
        """OtherEncoder where the index is of another encoder than queries of this digest."""
        if self._index is not None:
            self._index.check_encoder(digest)
            return
        search.check_served(ranking)
        search.check_same_encoder(digest, self._describe(index_name(self.system), countdown))

    def _search(
        self, queries: Embeddings, k: int, patients: list[str | None], countdown: Countdown, ranking: "Ranking"
    ) -> list[list[Hit]]:
        if self._index is not None:
            return self._index.search(queries, k, patient_ids=patients, **ranking)
        return self._search_served(queries, k, patients, countdown)

    def _search_served(
        self, queries: Embeddings, k: int, patients: Sequence[str | None], countdown: Countdown
    ) -> list[list[Hit]]:
        hits: list[list[Hit]] = []
        for part, patient_ids in search.parts(queries, patients):
            request, ids = answers.new_request(), part.image_ids

            def once(
                part: Embeddings = part, ids: Sequence[str | None] = patient_ids, name: str = request
            ) -> list[list[Hit]]:
                model = self._model(index_name(self.system), countdown)
                search.check_same_encoder(part.encoder_digest, model)
                call = search.search_call(model, part, k, ids, name)
                return search.read_hits(self._transport.infer(call, countdown.remaining_s()), len(part))

            hits += self._persist(once, countdown, request, ids)
        return hits

    def _encoding(self, files: list[RadiographFile], countdown: Countdown) -> ModelDescription:
        """The ensemble for files that all have boxes, or all lack them."""
        model = self._model(ensemble_name(self.system), countdown)
        if not located.needs_proposals(files, model):
            return model
        try:
            return self._model(located_name(self.system), countdown)
        except UnknownModel as error:
            raise located.no_localizer(self.system, error) from None

    def _describe(self, name: str, countdown: Countdown) -> ModelDescription:
        return self._persist(lambda: self._model(name, countdown), countdown)

    def _model(self, name: str, countdown: Countdown) -> ModelDescription:
        known = self._described.get(name)
        return known or self._described.put(self._transport.describe(name, countdown.connecting_s()))

    def _persist(
        self, once: Callable[[], Result], countdown: Countdown, request: str | None = None, ids: Sequence[str] = ()
    ) -> Result:
        """What `once` gives, tried again while the server is unavailable and the policy and the deadline allow it."""
        tries = Tries(self._connection.retry, countdown)
        try:
            while True:
                if self._closed.is_set():
                    raise InvalidSetting("this client is closed; open another one")
                try:
                    return once()
                except ServerUnavailable as error:
                    self._described.forget()
                    pause_s = tries.pause_after(error)
                self._closed.wait(pause_s)
        except ServingError as error:
            raise named(error, request, ids) from None
