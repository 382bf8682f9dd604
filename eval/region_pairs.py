"""The similarity of two radiographs, split exactly into the pairs of their regions.

An embedding is the mean of R region vectors (18, or 19 where the whole image is one of them), so with q_i of the query
and s_j of the case

    cos(q, s) = sum_ij q_i . s_j / (R^2 |q| |s|)

and each pair's term is its contribution: there is no approximation and nothing is left over. A term may be negative. It
grows with the lengths of both vectors as well as with the angle between them, so vectors scaled to length 1, as
`EmbeddingSet.region_vectors` are, give another split: use those of the encoder. Regions of a graph transformer have
seen each other, so a pair says where the similarity is expressed, not which pixels caused it: for that see
`chextriev.eval.occlusion`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.encoder import Encoder
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.eval.metrics import Values
from chextriev.radiograph import Radiograph

WHOLE_IMAGE = "whole image"


@dataclass(frozen=True)
class RegionPair:
    """What a region of the query and a region of the case contribute to their cosine; regions by name."""

    query: str
    case: str
    contribution: float


@dataclass(frozen=True, eq=False)
class RegionPairs:
    """All pairs of a query (rows) and a case (columns): contributions [R, R] float64, whose sum is their cosine.

    names: of the R vectors, in the order of `Region`, then "whole image" where it is one of them. others: with how
    many other cases this one is contrasted (see `above`); then the sum is by how much its cosine exceeds theirs.
    """

    names: tuple[str, ...]
    contributions: Values
    others: int = 0

    @property
    def similarity(self) -> float:
        """The cosine of the two embeddings, -1..1; of a contrast, what it exceeds the mean of the others by."""
        return float(self.contributions.sum())

    @property
    def of_query(self) -> Values:
        """[R] float64, what each region of the query contributes with all regions of the case."""
        total: Values = self.contributions.sum(axis=1)
        return total

    @property
    def of_case(self) -> Values:
        """[R] float64, what each region of the case contributes with all regions of the query."""
        total: Values = self.contributions.sum(axis=0)
        return total

    def above(self, others: Sequence["RegionPairs"]) -> "RegionPairs":
        """What sets this case apart: its contributions less the mean of those of other cases with the same query.

        Embeddings of one encoder have much in common (cosines of .98 and all pairs alike are no exception), which every
        case shares; the contrast is exact too, and it adds up to the cosine less the mean cosine of the others.
        """
        if not others or any(pairs.names != self.names for pairs in others):
            raise CountMismatch(
                f"a contrast needs at least one other case, each with the same {len(self.names)} regions"
            )
        mean = np.mean([pairs.contributions for pairs in others], axis=0)
        return RegionPairs(self.names, self.contributions - mean, others=len(others))

    def strongest(self, count: int = 6) -> tuple[RegionPair, ...]:
        """The pairs of the largest contributions, whatever their sign; ties go to the earlier region."""
        if count < 1:
            raise InvalidSetting(f"count = {count}; ask for at least 1 pair")
        order = np.argsort(-np.abs(self.contributions), axis=None, kind="stable")[:count]
        places = zip(*np.unravel_index(order, self.contributions.shape), strict=True)
        return tuple(RegionPair(self.names[i], self.names[j], float(self.contributions[i, j])) for i, j in places)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: the sum, the names and the contributions, a list for each region of the query."""
        return {
            "others": self.others,
            "similarity": self.similarity,
            "names": list(self.names),
            "contributions": self.contributions.tolist(),
        }


def split_similarity(query: npt.NDArray[np.floating[Any]], case: npt.NDArray[np.floating[Any]]) -> RegionPairs:
    """Split the cosine of two embeddings by their region vectors, each [18, D] or, with the whole image, [19, D].

    Raises CountMismatch for other shapes, InvalidValue where a vector is not finite or a mean is zero.

    >>> vectors = np.eye(18)
    >>> pairs = split_similarity(vectors, vectors)
    >>> round(pairs.similarity, 9), pairs.strongest(1)[0].query
    (1.0, 'right lung')
    """
    if query.shape != case.shape or query.ndim != 2 or len(query) not in (N_REGIONS, N_REGIONS + 1):
        raise CountMismatch(
            f"region vectors have shapes {list(query.shape)} and {list(case.shape)}; both are [{N_REGIONS}, width], or"
            f" [{N_REGIONS + 1}, width] with the whole image"
        )
    names = (*Region.labels(), *([WHOLE_IMAGE] if len(query) > N_REGIONS else []))
    return RegionPairs(names, _scaled(query, "query") @ _scaled(case, "case").T)


def split_cases(encoder: Encoder, query: Radiograph, cases: Iterable[Radiograph]) -> tuple[RegionPairs, ...]:
    """Split the similarity of a query to each of these cases, as an encoder sees them.

    InvalidSetting for an encoder of the whole image alone, which has no regions to split by.
    """
    vectors = encoder.encode([query, *cases]).region_vectors  # [1 + cases, R, D] float32
    if vectors is None:
        raise InvalidSetting(
            f"{encoder.bundle.card.system} sees the whole image and has no region vectors; a similarity is split with"
            " an encoder of regions, such as v6 or anaxnet"
        )
    return tuple(split_similarity(vectors[0], vector) for vector in vectors[1:])


def _scaled(vectors: npt.NDArray[np.floating[Any]], which: str) -> Values:
    """The vectors [R, D] float64 divided by the length of their sum, so that pairs need no further factor."""
    wide = np.asarray(vectors, np.float64)
    length = float(np.linalg.norm(wide.sum(axis=0)))
    if not np.isfinite(length) or length == 0:
        what = "have a mean of zero" if length == 0 else "hold values that are not finite"
        raise InvalidValue(f"the region vectors of the {which} {what}; such an embedding has no cosine")
    scaled: Values = wide / length
    return scaled
