"""An index in Milvus, the vector database: the Retriever of an index on this machine, over one machine or many.

`docs/scaling.md` says when to move there and what differs.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Unpack

import numpy.typing as npt

from chextriev.embedding_set import EmbeddingSet
from chextriev.encoder import Embeddings
from chextriev.errors import (
    ChextrievError,
    CountMismatch,
    DuplicateImage,
    InvalidSetting,
    InvalidValue,
    OtherEncoder,
    OutputExists,
    UnknownCollection,
    UnknownColumn,
)
from chextriev.hits import Hit, ImageId
from chextriev.index.build import check_ids
from chextriev.index.milvus_filter import one_of
from chextriev.index.milvus_rows import check_values, insert, plain_id
from chextriev.index.milvus_schema import (
    CARD,
    ID,
    INTEGER,
    METRIC,
    VECTOR,
    Card,
    card_of,
    collection_schema,
    default_spec,
    index_parameters,
    read_card,
)
from chextriev.index.milvus_search import IDS_AT_ONCE, Collection, search_collection
from chextriev.index.milvus_server import FLUSH_S, TIMEOUT_S, Connection, connect
from chextriev.index.retriever import SearchOptions, as_held, check_same_encoder, read_request
from chextriev.index.spec import IndexSpec

CONSISTENCY = ("Strong", "Bounded", "Session", "Eventually")
_BUILDING = "__building_"


@dataclass(frozen=True, eq=False)
class MilvusIndex:
    """An opened collection; `open_collection` makes it. Safe to search from several threads; close it when done.

    Use it in the process that opened it: a child made by fork opens its own.
    """

    collection: Collection

    def __enter__(self) -> "MilvusIndex":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self.collection.query("", ["count(*)"])[0]["count(*)"])

    @property
    def encoder_digest(self) -> str:
        """The bundle whose vectors this collection holds, "" where nobody said."""
        return self.collection.card.encoder

    def check_encoder(self, digest: str) -> None:
        """Raise OtherEncoder unless `digest` is of the encoder that this collection was built with."""
        check_same_encoder(digest, self.encoder_digest)

    def holds(self, image_id: ImageId | None, patient_id: str | None = None) -> bool:
        """Whether it has this image, or any of this patient."""
        (image,) = as_held([image_id], integers=self.collection.card.ids == INTEGER)
        if image is not None and any(self.collection.held([image])):
            return True
        where = one_of("patient_id", [patient_id or ""])
        return bool(patient_id) and self.collection.query(where, ["count(*)"])[0]["count(*)"] > 0

    def search(
        self, queries: Embeddings | npt.NDArray[Any], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """The k most similar radiographs for each query, by score, then by id; fewer where fewer remain.

        As `Index.search`, but: k is at most 16,384; `regions` and `candidates` are refused; `exact` is refused where
        Milvus compares codes or walks a graph; a hit has no row. Raises ServerUnavailable, DeadlineExpired.
        """
        return search_collection(self.collection, read_request(self, queries, k, options))

    def add(self, embeddings: EmbeddingSet) -> int:
        """Add radiographs, all of them or, if one is refused, none; how many there were.

        A column that they lack is unknown throughout. Raises OtherEncoder, CountMismatch for vectors of another width,
        DuplicateImage, UnknownColumn, InvalidValue. One writer at a time: Milvus itself accepts an id twice.
        """
        check_ids(embeddings)
        self._check_addition(embeddings)
        return insert(self.collection.connection, self.collection.name, self.collection.card, embeddings)

    def remove(self, image_ids: Iterable[ImageId]) -> int:
        """Have it not find these radiographs any more; how many there were.

        InvalidValue names the first that it does not hold, and then none is removed.
        """
        asked = list(dict.fromkeys(plain_id(each) for each in image_ids))
        held = {row[ID] for row in self.collection.held(asked)}
        unknown = [each for each in asked if each not in held]
        if unknown or not asked:
            first = f"{unknown[0]!r:.80}" if unknown else "none"
            raise InvalidValue(
                f"{len(unknown)} of {len(asked)} images to remove are not in the collection, the first: {first};"
                " nothing was removed: give ids that it holds"
            )
        for start in range(0, len(asked), IDS_AT_ONCE):
            where = one_of(ID, asked[start : start + IDS_AT_ONCE])
            self.collection.connection.call("delete", self.collection.name, filter=where)
        return len(asked)

    def info(self) -> dict[str, Any]:
        """What it is, JSON-able: address, name, n, width, encoder, the spec and Milvus's index type, the columns."""
        connection, card = self.collection.connection, self.collection.card
        kind, built = index_parameters(card.spec, card.width, card.device)
        return {
            "address": connection.address,
            "collection": self.collection.name,
            "server": connection.call("get_server_version"),
            "n": len(self),
            "width": card.width,
            "encoder": card.encoder,
            "spec": card.spec.factory,
            "index_type": kind,
            "index_parameters": built,
            "consistency": self.collection.consistency,
            "columns": {name: column.kind for name, column in card.columns.items()},
        }

    def close(self) -> None:
        """Give the connection back."""
        self.collection.connection.close()

    def _check_addition(self, new: EmbeddingSet) -> None:
        card = self.collection.card
        if new.encoder_digest != card.encoder:
            raise OtherEncoder(
                f"the radiographs are of encoder {new.encoder_digest[:12] or '(unknown)'}, the collection holds vectors"
                f" of encoder {card.encoder[:12] or '(unknown)'}; embed them with that one"
            )
        if new.vectors.shape[1] != card.width:
            raise CountMismatch(
                f"vectors of width {new.vectors.shape[1]} cannot join a collection of width {card.width}; embed them"
                " with the encoder of the collection"
            )
        unknown = [name for name in new.metadata if name not in card.columns]
        if unknown:
            raise UnknownColumn(unknown[0], sorted(card.columns), where="the collection")
        check_values(new, card)
        twice = [row[ID] for row in self.collection.held(new.image_id.tolist())]
        if twice:
            raise DuplicateImage(
                f"{len(twice)} of {len(new)} images are in the collection already, one of them: {twice[0]!r:.80};"
                " nothing was added: leave them out, or remove them first"
            )


def build_collection(
    embeddings: EmbeddingSet,
    uri: str,
    name: str,
    spec: IndexSpec | None = None,
    *,
    device: str = "cpu",
    token: str | None = None,
) -> dict[str, Any]:
    """Make a collection of these embeddings and what `MilvusIndex.info` says of it.

    It appears under its name when all of it is there; OutputExists where the name is taken. spec: `default_spec` of the
    number and width if None. device: "cuda" has the server index and search on its GPU (IVF-PQ). Raises InvalidSetting
    for a spec that Milvus, or the embedded milvus-lite, does not have.
    """
    check_ids(embeddings)
    _check_name(name)
    chosen = spec or default_spec(*embeddings.vectors.shape, lite=uri.endswith(".db"))
    card = card_of(embeddings, chosen, device)
    kind, parameters = index_parameters(chosen, card.width, device)
    check_values(embeddings, card)
    connection = connect(uri, token=token, create=True)
    try:
        _check_lite(connection, kind)
        if connection.call("has_collection", name):
            raise OutputExists(f"{connection.address} has a collection {name!r}; drop it, or choose another name")
        scratch = f"{name[:200]}{_BUILDING}{token_hex(4)}"
        try:
            _fill(connection, scratch, card, embeddings, (kind, parameters))
            connection.call("rename_collection", scratch, name)
        except BaseException:
            with suppress(ChextrievError):  # the server may be gone; what went wrong first is what is said
                connection.call("drop_collection", scratch)
            raise
        with MilvusIndex(_opened(connection, name, CONSISTENCY[0])) as made:
            return made.info()
    finally:
        connection.close()


def open_collection(
    uri: str, name: str, *, token: str | None = None, timeout_s: float = TIMEOUT_S, consistency: str = "Strong"
) -> MilvusIndex:
    """Open a collection that `build_collection` made.

    uri: "http://host:19530", or the path of milvus-lite's file "*.db". token: "user:password" or an API key.
    timeout_s: of each call. consistency: "Strong" sees every write that was answered; "Bounded" may miss those of the
    last seconds and waits less. Raises UnknownCollection, NotAnArtifact for somebody else's, ServerUnavailable.
    """
    if consistency not in CONSISTENCY:
        raise InvalidSetting(f"consistency {consistency!r}; choose one of {', '.join(CONSISTENCY)}")
    _check_name(name)
    connection = connect(uri, token=token, timeout_s=timeout_s)
    try:
        return MilvusIndex(_opened(connection, name, consistency))
    except BaseException:
        connection.close()
        raise


def drop_collection(uri: str, name: str, *, token: str | None = None) -> None:
    """Delete a collection that `build_collection` made, or began and did not finish, with all that it holds."""
    with open_collection(uri, name, token=token) as held:
        held.collection.connection.call("drop_collection", name)


def _opened(connection: Connection, name: str, consistency: str) -> Collection:
    held = sorted(connection.call("list_collections"))
    if name not in held:
        raise UnknownCollection(name, held or ["(it holds none)"], where=connection.address)
    properties = connection.call("describe_collection", name).get("properties", {})
    card = read_card(properties, f"{connection.address} collection {name!r}")
    connection.call("load_collection", name)
    return Collection(connection, name, card, consistency)


def _fill(
    connection: Connection, name: str, card: Card, embeddings: EmbeddingSet, index: tuple[str, dict[str, Any]]
) -> None:
    """Make a collection, insert everything, then index it: quicker than to index while it grows."""
    connection.call(
        "create_collection",
        name,
        schema=collection_schema(card),
        properties={CARD: card.to_json()},
        consistency_level=CONSISTENCY[0],
    )
    insert(connection, name, card, embeddings)
    connection.call("flush", name, timeout_s=FLUSH_S)
    parameters = connection.client.prepare_index_params()
    parameters.add_index(VECTOR, index_type=index[0], index_name=VECTOR, metric_type=METRIC, params=index[1])
    connection.call("create_index", name, parameters, sync=False)
    connection.wait("index", lambda: _indexed(connection, name, len(embeddings)), len(embeddings))
    connection.call("load_collection", name, timeout_s=FLUSH_S)


def _indexed(connection: Connection, name: str, total: int) -> int:
    state = connection.call("describe_index", name, VECTOR)
    return total if state["state"] == "Finished" else min(total - 1, int(state["indexed_rows"]))


def _check_lite(connection: Connection, kind: str) -> None:
    if connection.file is not None and kind not in ("FLAT", "IVF_FLAT", "HNSW"):
        raise InvalidSetting(
            f"milvus-lite has no {kind}; give 'Flat', 'IVF1024,Flat' or 'HNSW32' for it, or the address of a server"
        )


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z_]\w{0,254}", name, flags=re.ASCII):
        raise InvalidSetting(f"collection name {name!r:.80}; it takes letters, digits and _, and begins with no digit")
