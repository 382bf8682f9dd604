"""What every index answers, whether it lies on this machine or in a database: the same call and the same hits."""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Region
from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue, OtherEncoder
from chextriev.hits import Hit, ImageId
from chextriev.index.filters import Filter, Where, read_filters

Ids = Sequence[ImageId | None]
_INTEGER = re.compile("[+-]?[0-9]{1,19}")


class Ranking(TypedDict, total=False):
    """What to find, and how.

    where: conditions on the radiographs to find, such as ["view = PA", "age >= 40", "finding = pneumonia"], all of
    which must be met (see `filters`). nprobe: inverted lists to look into, in place of the index's own. exact: compare
    with every vector, whatever the index is made for. regions: rank by these regions only, with these weights; the
    queries are `Embeddings` with region vectors. candidates: with regions, rank only so many of the nearest by
    embedding (re-ranking) instead of all.
    """

    where: str | Where
    nprobe: int | None
    exact: bool
    regions: Mapping[str, float] | None
    candidates: int | None


class SearchOptions(Ranking, total=False):
    """What may be said with a search.

    image_ids, patient_ids: of the queries [Q], None where unknown; these images and patients are left out of the
    results. A patient not given is looked up by the image id.
    """

    image_ids: Ids | None
    patient_ids: Ids | None


_OPTIONS = SearchOptions.__optional_keys__


@dataclass(frozen=True, eq=False)
class Request:
    """A checked search: vectors [Q, D] of any length but zero, and the options; `read_request` makes it.

    region_vectors: [Q, 18, D] float32 where regions are asked for. regions: weight by region.
    """

    vectors: npt.NDArray[Any]
    k: int
    image_ids: Ids
    patient_ids: Ids
    filters: tuple[Filter, ...] = ()
    nprobe: int | None = None
    exact: bool = False
    regions: Mapping[Region, float] | None = None
    candidates: int | None = None
    region_vectors: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        for name, ids in (("image_ids", self.image_ids), ("patient_ids", self.patient_ids)):
            if len(ids) != len(self.vectors):
                raise CountMismatch(
                    f"{len(ids)} {name} beside {len(self.vectors)} queries; give one to each, None where unknown"
                )

    def __len__(self) -> int:
        return len(self.vectors)


class Retriever(Protocol):
    """An index of the vectors of one encoder. Safe to search from several threads at once."""

    @property
    def encoder_digest(self) -> str:
        """The bundle whose vectors it holds, "" where that is not known."""

    def __len__(self) -> int:
        """The number of radiographs that can be found."""

    def check_encoder(self, digest: str) -> None:
        """Raise OtherEncoder unless `digest` is of the encoder whose vectors it holds."""

    def holds(self, image_id: ImageId | None, patient_id: str | None = None) -> bool:
        """Whether it has this image, or any of this patient."""

    def search(
        self, queries: Embeddings | npt.NDArray[Any], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """The k most similar radiographs for each query, by score, then by id; fewer where fewer remain.

        queries: what an encoder returned (its digest is compared, its image ids are used), or vectors [Q, D].
        """


def read_request(
    retriever: Retriever, queries: Embeddings | npt.NDArray[Any], k: int, options: SearchOptions
) -> Request:
    """The options checked. Raises InvalidSetting, CountMismatch, UnknownRegion, OtherEncoder."""
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        allowed = ", ".join(sorted(_OPTIONS))
        raise InvalidSetting(f"search has no option {unknown[0]!r}; choose from {allowed}")
    k, image_ids, region_vectors = _whole("k", k), options.get("image_ids"), None
    if isinstance(queries, Embeddings):
        retriever.check_encoder(queries.encoder_digest)
        image_ids = queries.image_ids if image_ids is None else image_ids
        region_vectors = queries.region_vectors
        queries = queries.vectors
    queries = _vectors(queries)
    nobody: Ids = [None] * len(queries)
    patient_ids = options.get("patient_ids")
    nprobe, candidates = options.get("nprobe"), options.get("candidates")
    return Request(
        queries,
        k,
        nobody if image_ids is None else image_ids,
        nobody if patient_ids is None else patient_ids,
        filters=read_filters(options.get("where") or ()),
        nprobe=None if nprobe is None else _whole("nprobe", nprobe),
        exact=options.get("exact", False),
        regions=_weights(options.get("regions"), region_vectors),
        candidates=None if candidates is None else _whole("candidates", candidates),
        region_vectors=region_vectors,
    )


def as_held(ids: Iterable[Any], *, integers: bool) -> list[ImageId | None]:
    """Ids in the type that an index has them in, text or integers; None where none of that type is meant."""
    if not integers:
        return [None if each is None else str(each) for each in ids]
    return [int(each) if each is not None and _INTEGER.fullmatch(str(each)) else None for each in ids]


def _whole(name: str, value: Any) -> int:
    """A whole number that Faiss and Milvus can count with."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidSetting(f"{name} = {value!r:.80}; give a whole number, 1 or more") from None
    if not 1 <= number < 2**31:
        raise InvalidSetting(f"{name} = {number:.3g}; give 1 or more, and less than 2,147,483,648")
    return number


def _vectors(queries: Any) -> npt.NDArray[Any]:
    vectors = np.asarray(queries)
    if vectors.dtype.kind not in "fiub":
        raise InvalidValue(f"queries hold {vectors.dtype}; vectors [number, width] of float32 are needed")
    return vectors


def check_same_encoder(queries: str, held: str) -> None:
    """Raise OtherEncoder unless both digests are of one encoder, and known."""
    if not held:
        raise OtherEncoder(
            f"the queries are of encoder {queries[:12]}; the index was built from vectors whose encoder nobody named:"
            " build it again with the digest of their encoder"
        )
    if queries != held:
        raise OtherEncoder(
            f"the queries are of encoder {queries[:12]}, the index holds vectors of encoder {held[:12]}; encode the"
            " queries with that one, or build the index again"
        )


def _weights(
    regions: Mapping[str, float] | None, region_vectors: npt.NDArray[np.float32] | None
) -> dict[Region, float] | None:
    if regions is None:
        return None
    if not isinstance(regions, Mapping):
        raise InvalidSetting(f"regions = {regions!r:.80}; give a weight by region, such as {{'left lung': 1}}")
    if region_vectors is None:
        raise InvalidSetting("regions need queries with region vectors: give what an encoder of regions returned")
    weights = {Region.from_label(name): weight for name, weight in regions.items()}
    if not weights or not all(_is_weight(weight) for weight in weights.values()):
        raise InvalidSetting(f"regions = {dict(regions)}; give at least one region, each with a positive weight")
    return {region: float(weight) for region, weight in weights.items()}


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and 0 < float(value) < float("inf")
