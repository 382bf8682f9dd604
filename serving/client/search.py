"""Similar cases from an index that lies beside the client, or one that the server holds."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, InvalidSetting, OtherEncoder, ServerFailed
from chextriev.hits import Hit
from chextriev.serving.client.answers import digest_of_encoder
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.wire import HITS, IMAGE_IDS, MAX_BATCH, MAX_HITS, PATIENT_IDS, VECTORS, K

if TYPE_CHECKING:
    from chextriev.index.retriever import Ranking, Retriever

SERVED = "served"
"""In place of an index directory: the model `index_<system>` of the same server."""

Ids = Sequence[str | None]


def open_local(index: "str | Path | Retriever | None") -> "Retriever | None":
    """An index directory, opened; None for a served one or none. MissingDependency names the extra `index`."""
    if index is None or index == SERVED:
        return None
    if not isinstance(index, str | Path):
        return index
    from chextriev.index.search import open_index

    return open_index(index)


def check_query(k: int, count: int, patient_ids: Ids | None) -> list[str | None]:
    """The patients of the queries, None where unknown; InvalidSetting or CountMismatch for what cannot be asked."""
    if not 1 <= k <= MAX_HITS:
        raise InvalidSetting(f"k = {k}; ask for 1 to {MAX_HITS:,} results")
    patients: list[str | None] = [None] * count if patient_ids is None else list(patient_ids)
    if len(patients) != count:
        raise CountMismatch(f"{len(patients)} patient_ids beside {count} queries; give one to each, None where unknown")
    return patients


def check_served(ranking: "Ranking") -> None:
    """InvalidSetting for what a served index is not asked."""
    if ranking:
        raise InvalidSetting(
            f"a served index takes no {', '.join(sorted(ranking))}; open the client with index=DIRECTORY, the index on"
            " this machine, or leave that out"
        )


def check_index(index: "Retriever | None", *, served: bool) -> None:
    """InvalidSetting for a search without an index."""
    if index is None and not served:
        raise InvalidSetting(
            "this client has no index to search; open it with index=DIRECTORY, or"
            f" index={SERVED!r} if the server has one"
        )


def check_same_encoder(queries: str, index: ModelDescription) -> None:
    """OtherEncoder where a served index holds vectors of another encoder than that of the queries, by its digest."""
    held = digest_of_encoder(index)
    if queries != held:
        raise OtherEncoder(
            f"the queries are of encoder {queries[:12]}, {index.name} holds vectors of encoder {held[:12]}; export the"
            " repository again with an index of this encoder"
        )


def parts(queries: Embeddings, patients: Ids) -> Iterator[tuple[Embeddings, Ids]]:
    """Queries and their patients, as many at a time as a server takes."""
    for start in range(0, len(queries), MAX_BATCH):
        chosen = slice(start, start + MAX_BATCH)
        part = Embeddings(
            queries.image_ids[chosen], queries.vectors[chosen], queries.finding_logits[chosen], queries.encoder_digest
        )
        yield part, patients[chosen]


def search_call(model: ModelDescription, queries: Embeddings, k: int, patients: Ids, request: str) -> Call:
    """The request for similar cases. Unlike an embedding's it names images and patients, which are left out."""
    inputs: Tensors = {
        VECTORS: np.ascontiguousarray(queries.vectors, np.float32),
        K: np.full((len(queries), 1), k, np.int32),
        IMAGE_IDS: _text(queries.image_ids),
        PATIENT_IDS: _text(patients),
    }
    return Call(model, inputs, request)


def read_hits(answer: Tensors, count: int) -> list[list[Hit]]:
    """Hits by query; ServerFailed where the answer is none."""
    try:
        return [_hits(json.loads(bytes(line))) for line in answer[HITS].reshape(count)]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ServerFailed(f"the index's answer is not {count} lists of hits; is it of this release?") from None


def _hits(line: Any) -> list[Hit]:
    if not isinstance(line, list):
        raise TypeError
    return [Hit(**{**fields, "findings": tuple(fields["findings"])}) for fields in line]


def _text(ids: Ids) -> npt.NDArray[np.object_]:
    """[B, 1] of UTF-8, empty where unknown."""
    tensor = np.empty((len(ids), 1), np.object_)
    tensor[:, 0] = [(name or "").encode() for name in ids]
    return tensor
