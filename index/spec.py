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
HALF = "SQfp16"
STORAGE = (HALF, "SQ8", "SQ4")
_BITS = {EXACT: 32, "SQfp16": 16, "SQbf16": 16, "SQ8": 8, "SQ6": 6, "SQ4": 4, EXACT_HASH: 1}
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
        if re.search(r"(IVF|HNSW|PQ|PCA)0+(?!\d)", self.factory):
            raise InvalidSetting(f"index spec {self.factory!r} asks for none of something; give numbers from 1 on")
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
        few = n < EXACT_BELOW
        size = f"{n:,} vectors are {f'fewer than {EXACT_BELOW:,}' if few else f'{EXACT_BELOW:,} or more'}"
        if self.is_exact:
            return f"{kind}: {size}, where nothing beats it" if few else f"{kind}: every neighbour was asked for"
        whole = HALF in self.factory and not few
        words = [size, *([] if whole else ["the memory allowed holds no longer codes"])]
        if not few and "PQ" not in self.factory:
            words.append(f"a width of {width} does not divide into the short parts that product quantisation needs")
        return f"{kind}: {'; '.join(words)}"


@dataclass(frozen=True)
class Goal:
    """What an index that is chosen here must reach.

    recall: wanted `ann_recall@k`, the share of the k nearest by exact search that it finds. memory_bytes: resident
    memory that it may take; as much as it needs if None.
    """

    recall: float = 0.98
    k: int = 10
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InvalidSetting(f"index goal: recall = {self.recall}; give a share above 0, to 1")
        if not 1 <= self.k <= 1_000_000:
            raise InvalidSetting(f"index goal: k = {self.k}; give a number of results from 1 to 1,000,000")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise InvalidSetting(f"index goal: memory_bytes = {self.memory_bytes}; give 1 or more, or leave it out")


ANY_GOAL = Goal()


def choose_spec(n: int, width: int, goal: Goal = ANY_GOAL) -> IndexSpec:
    """Exact below 20,000 vectors, else inverted lists with 4-bit product codes and re-ranking in half precision.

    About sqrt(n) lists, of which `tune` measures how many the goal takes: with more of them, finding the nearest lists
    takes longer than reading these. A code for every 4 dimensions; product codes alone lose too much. Where the memory
    is too small for this, vectors are kept in fewer bits. A recall of 1 takes exact search. Not chosen: graphs (HNSW),
    which need more memory than the vectors alone, minutes to build, differ from one build to the next, and are slower
    at equal recall in `chextriev bench index`. Raises InvalidSetting if nothing fits the memory.
    """
    candidates = [IndexSpec(each, nprobe=_first_nprobe(each), auto=True) for each in _candidates(n, width, goal)]
    for spec in candidates:
        if goal.memory_bytes is None or resident_bytes(spec, n, width) <= goal.memory_bytes:
            return spec
    least = min(candidates, key=lambda spec: resident_bytes(spec, n, width))
    raise InvalidSetting(
        f"index goal: memory_bytes = {goal.memory_bytes:,}, but {n:,} vectors of width {width} take at least "
        f"{resident_bytes(least, n, width):,} ({least.factory}) for a recall of {goal.recall:g}; allow that much, ask "
        "for a lower recall, or split the vectors"
    )


def _candidates(n: int, width: int, goal: Goal) -> list[str]:
    """Factory strings, the best first, each with fewer bytes per vector than the one before."""
    if goal.recall == 1:
        return [EXACT]
    if n < EXACT_BELOW:
        return [EXACT, *STORAGE]
    nlist, parts = 2 ** round(math.log2(math.sqrt(n))), _code_parts(width)
    if parts is None:
        return [f"IVF{nlist},{storage}" for storage in STORAGE]
    return [f"IVF{nlist},PQ{parts}x4fs,Refine({storage})" for storage in STORAGE]


def _first_nprobe(factory: str) -> int:
    return max(MIN_NPROBE, n_lists(factory) // 8)


def resident_bytes(spec: IndexSpec, n: int, width: int) -> int:
    """Bytes that n vectors take in memory, with the centroids of the lists and of the codes."""
    centroids = n_lists(spec.factory) + (16 if "PQ" in spec.factory else 0)
    return n * bytes_per_vector(spec, width) + 4 * width * centroids


def bytes_per_vector(spec: IndexSpec, width: int) -> int:
    """Bytes that one more vector of this width takes in memory, by the parts of its factory string.

    Flat 4 a dimension; SQfp16 2; SQ8 1; SQ6 3/4; SQ4 1/2; PQ<M>x<bits> M x bits / 8; an inverted list 8 more, for the
    row; HNSW<M> 8 M + 16 more, for links, offset and level; a Refine stage its own on top; hash codes 1/8. OPQ and
    PCA may change the width of what follows. Raises InvalidSetting for other types.
    """
    codes, *stored = stages(spec.factory)
    return stage_bytes(codes, width) + sum(stage_bytes(each, width) for each in stored)


def stages(factory: str) -> list[str]:
    """The codes that are searched, and, if it re-ranks, how the vectors for that are stored."""
    found = re.fullmatch(r"(.+?),R(?:efine\((.+)\)|(Flat))", factory)
    return [factory] if found is None else [found[1], found[2] or found[3]]


def n_lists(factory: str) -> int:
    """Number of inverted lists; 0 without."""
    found = re.search(r"(?:^|,)B?IVF(\d+)", factory)
    return int(found[1]) if found else 0


def is_graph(factory: str) -> bool:
    """Whether vectors are found by walking a graph."""
    return not n_lists(factory) and re.search(r"(?:^|,)HNSW\d+", factory) is not None


def stage_bytes(stage: str, width: int) -> int:
    """Bytes of one vector in one of the `stages`, as `bytes_per_vector` states them."""
    total = 0
    for part in re.split(r"[,_](?=[A-Z])", stage):
        if found := re.fullmatch(r"(?:OPQ\d+|PCA[A-Z]*|RR|Pad|ITQ)_?(\d*)", part):
            width = int(found[1] or width)
        elif re.fullmatch(r"B?IVF\d+", part):
            total += 8
        elif found := re.fullmatch(r"HNSW(\d+)", part):
            total += 8 * int(found[1]) + 16
            total += 4 * width if stage.endswith(part) else 0
        elif part in _BITS:
            total += math.ceil(width * _BITS[part] / 8)
        elif found := re.fullmatch(r"PQ(\d+)(?:x(\d+))?(?:fs|fsr|np)?", part):
            total += math.ceil(int(found[1]) * int(found[2] or 8) / 8)
        elif part != "L2norm":
            raise InvalidSetting(
                f"index spec part {part!r}: how many bytes it takes is not known here; known are "
                f"{', '.join(_BITS)}, PQ, IVF, HNSW, OPQ, PCA, RR, Pad, ITQ and L2norm"
            )
    return total


def _code_parts(width: int) -> int | None:
    """The number of equal parts, each of 2 to 8 dimensions and as near to 4 as can be, that the width divides into."""
    sizes = [size for size in (4, 3, 5, 2, 6, 7, 8) if width % size == 0]
    return width // sizes[0] if sizes else None
