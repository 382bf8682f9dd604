"""What an index is made of: a Faiss factory string and how deep to look, checked, and chosen by size if not given."""

import math
import re
from dataclasses import dataclass

from chextriev.errors import InvalidSetting

COSINE, HAMMING = "cosine", "hamming"
METRICS = (COSINE, HAMMING)
EXACT = "Flat"
EXACT_HASH = "BFlat"
EXACT_BELOW = 20_000  # vectors: up to here exact search is as fast as anything, and needs no training
RERANK = 10
MIN_NPROBE = 32
EF_SEARCH = 64
_FACTORY = re.compile(r"[A-Za-z0-9_,()x.+-]{1,200}")
_HASH_FACTORY = re.compile(r"BFlat|BIVF\d+")
_CHANGES_LENGTHS = re.compile(r"(PCA|ITQ|RR|L2norm|Pad)")


@dataclass(frozen=True)
class IndexSpec:
    """How to build and to search an index.

    factory: a Faiss factory string, e.g. "Flat" or "IVF512,PQ64x4fs,Refine(SQfp16)". metric: "cosine", or "hamming"
    between the signs of vectors, with "BFlat" or "BIVF256" for a factory. nprobe: inverted lists looked into per query
    (IVF). rerank: candidates per result that a Refine stage scores again. ef_search: candidates kept while walking a
    graph (HNSW). auto: chosen by `choose_spec`. For PQ with 8 bits write "PQ16x8np": without "np" Faiss also sorts the
    codes for a search mode that is not used here, which takes fifty times as long.
    """

    factory: str
    metric: str = "cosine"
    nprobe: int = MIN_NPROBE
    rerank: int = RERANK
    auto: bool = False
    ef_search: int = EF_SEARCH

    def __post_init__(self) -> None:
        if not _FACTORY.fullmatch(self.factory):
            raise InvalidSetting(
                f"index spec {self.factory!r} is not a Faiss factory string; write for example "
                f"{EXACT!r} or 'IVF512,PQ64x4fs,Refine(SQfp16)'"
            )
        if _CHANGES_LENGTHS.match(self.factory) and not re.search(r"Refine|RFlat", self.factory):
            raise InvalidSetting(
                f"index spec {self.factory!r} searches transformed vectors, whose scores are no cosines; add ',RFlat'"
                " or ',Refine(SQfp16)' so that the candidates are scored again"
            )
        if self.metric not in METRICS:
            raise InvalidSetting(f"index metric {self.metric!r}; choose one of {', '.join(METRICS)}")
        if (self.metric == HAMMING) != bool(_HASH_FACTORY.fullmatch(self.factory)):
            raise InvalidSetting(
                f"index spec {self.factory!r} does not go with metric {self.metric!r}; hash codes take 'BFlat' or"
                " 'BIVF256' and metric 'hamming', all others 'cosine'"
            )
        for name in ("nprobe", "rerank", "ef_search"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise InvalidSetting(f"index {name} = {getattr(self, name)}; give a number from 1 to 1,000,000")

    @property
    def is_exact(self) -> bool:
        """Whether it compares with every vector."""
        return self.factory in (EXACT, EXACT_HASH)

    def explain(self, n: int, width: int) -> str:
        """What this spec does to n vectors of this width and why it was taken, for a person."""
        kind = "exact search" if self.is_exact else f"{self.factory} (nprobe {self.nprobe}, rerank {self.rerank})"
        if not self.auto:
            return f"{kind}, as asked"
        if n < EXACT_BELOW:
            return f"{kind}: {n:,} vectors are fewer than {EXACT_BELOW:,}, where nothing beats it"
        if self.is_exact:
            return f"{kind}: a width of {width} does not divide into the short parts that product quantisation needs"
        return f"{kind}: {n:,} vectors are {EXACT_BELOW:,} or more"


def choose_spec(n: int, width: int) -> IndexSpec:
    """Exact below 20,000 vectors, else inverted lists with 4-bit product codes and re-ranking in half precision.

    About 2 sqrt(n) lists of which one in eight (at least 32) are searched, and a code for every 4 dimensions.
    `chextriev bench index` measures `ann_recall@10` and speed of this choice. Product codes alone lose too much.
    """
    parts = _code_parts(width)
    if n < EXACT_BELOW or parts is None:
        return IndexSpec(EXACT, auto=True)
    nlist = 2 ** round(math.log2(2 * math.sqrt(n)))
    return IndexSpec(f"IVF{nlist},PQ{parts}x4fs,Refine(SQfp16)", nprobe=max(MIN_NPROBE, nlist // 8), auto=True)


def _code_parts(width: int) -> int | None:
    """The number of equal parts, each of 2 to 8 dimensions and as near to 4 as can be, that the width divides into."""
    sizes = [size for size in (4, 3, 5, 2, 6, 7, 8) if width % size == 0]
    return width // sizes[0] if sizes else None
