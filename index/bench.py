"""How fast and how true approximate search is against exact search, both by Faiss, in one run on made-up vectors."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting
from chextriev.index.build import overlap
from chextriev.index.exact import exact_search, unit_rows
from chextriev.index.spec import EXACT, IndexSpec, choose_spec
from chextriev.index.vector_index import VectorIndex, faiss, train_index
from chextriev.machine import describe_machine

SINGLE_QUERIES = 200


@dataclass(frozen=True)
class IndexBenchSettings:
    """n vectors of this width around `centres` centres, and as many queries held out of them.

    spread: standard deviation within a centre, in units of that between centres. spec: chosen by size if None.
    """

    n: int = 50_000
    width: int = 256
    queries: int = 1_000
    k: int = 10
    centres: int = 2_048
    spread: float = 0.6
    repeats: int = 5
    seed: int = 0
    spec: IndexSpec | None = None

    def __post_init__(self) -> None:
        for name in ("n", "width", "queries", "k", "centres", "repeats"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"bench index: {name} = {getattr(self, name)}; give 1 or more")
        if not 0 < self.spread < np.inf:
            raise InvalidSetting(f"bench index: spread = {self.spread}; give a positive number")


def clustered_vectors(settings: IndexBenchSettings) -> npt.NDArray[np.float32]:
    """Unit vectors [n + queries, width] float32 of a mixture of equal Gaussians, the queries last."""
    rng, count = np.random.default_rng(settings.seed), settings.n + settings.queries
    centres = rng.standard_normal((settings.centres, settings.width), np.float32)
    vectors = rng.standard_normal((count, settings.width), np.float32)
    vectors *= np.float32(settings.spread)
    vectors += centres[rng.integers(0, settings.centres, count)]
    return unit_rows(vectors, "vector")


def bench_index(settings: IndexBenchSettings) -> dict[str, Any]:
    """Measure; every value is JSON-able.

    Batch throughput (queries/s) of exact and approximate search at equal k, medians of alternating repeats, and their
    ratio, the median of the ratios of neighbours; `ann_recall@k` against exact search in numpy; seconds of training
    and adding; the median milliseconds of a single query.
    """
    made = clustered_vectors(settings)
    vectors, queries = made[: settings.n], made[settings.n :]
    spec = settings.spec or choose_spec(settings.n, settings.width)
    exact = train_index(vectors, IndexSpec(EXACT))
    build_s, approximate = _timed(partial(train_index, vectors, spec))
    exact_s, approximate_s = _alternating(exact, approximate, queries, settings)
    _, wanted = exact_search(queries, vectors, settings.k)
    _, found = approximate.search(queries, settings.k)
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "spec": asdict(spec),
        "spec_in_words": spec.explain(settings.n, settings.width),
        "faiss_version": faiss.__version__,
        "threads": faiss.omp_get_max_threads(),
        "build_s": build_s,
        "exact_queries_per_s": settings.queries / float(np.median(exact_s)),
        "approximate_queries_per_s": settings.queries / float(np.median(approximate_s)),
        "throughput_ratio": float(np.median(exact_s / approximate_s)),
        f"ann_recall@{settings.k}": overlap(found, wanted),
        "exact_single_p50_ms": _single_p50_ms(exact, queries, settings.k),
        "approximate_single_p50_ms": _single_p50_ms(approximate, queries, settings.k),
    }


def _alternating(
    exact: VectorIndex, approximate: VectorIndex, queries: npt.NDArray[np.float32], settings: IndexBenchSettings
) -> npt.NDArray[np.float64]:
    """Seconds [2, repeats] of a batch, exact and approximate in turn, so that a busy machine slows both."""
    indexes = (exact, approximate)
    for index in indexes:
        index.search(queries, settings.k)
    seconds = [
        [_timed(partial(index.search, queries, settings.k))[0] for index in indexes] for _ in range(settings.repeats)
    ]
    return np.array(seconds).T


def _single_p50_ms(index: VectorIndex, queries: npt.NDArray[np.float32], k: int) -> float:
    singles = [queries[row : row + 1] for row in range(min(SINGLE_QUERIES, len(queries)))]
    return 1000 * float(np.median([_timed(partial(index.search, query, k))[0] for query in singles]))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall clock, and what the work returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
