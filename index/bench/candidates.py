"""The types of index that compete, each at the setting that is fastest at the asked recall by its own clock."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from chextriev.index.bench.settings import IndexBenchSettings
from chextriev.index.build import train_measured
from chextriev.index.exact import Rows, Vectors
from chextriev.index.spec import EXACT, EXACT_BELOW, IndexSpec, choose_spec, is_graph, n_lists, stages
from chextriev.index.tune import overlap
from chextriev.index.vector_index import Scan, VectorIndex, train_index
from chextriev.progress import track

EXACT_NAME, AUTO = "exact", "auto"
CODES, LISTS, GRAPH = "sq8", "ivf-pq + re-rank", "hnsw"
NPROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
RERANKS = (2, 4, 6, 8, 10, 12, 16, 24, 32, 48)
EF_SEARCHES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
FEW_LISTS = 16
LISTS_FROM = 39 * FEW_LISTS  # vectors: Faiss wants 39 or more to a list
SINGLE_QUERIES = 200
LEAST_GAIN = 0.0005  # of recall, from one depth to the next
SLOW_S = 5.0
"""A batch that takes longer is timed once for its recall; SQ8 then takes turns with a tenth of the queries."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An index, how long it took to build, and how it is searched. facts: what `auto` measured itself."""

    name: str
    built: VectorIndex
    build_s: float
    scan: Scan = field(default_factory=Scan)
    facts: dict[str, Any] = field(default_factory=dict)

    def search(self, queries: Vectors, k: int) -> Rows:
        """[Q, k] rows."""
        return self.built.search(queries, k, self.scan)[1]


def candidates(vectors: Vectors, settings: IndexBenchSettings) -> Iterator[Candidate]:
    """Each type that can be made of these vectors, built when asked for; the choice of `auto` last."""
    n, width = vectors.shape
    factories = {EXACT_NAME: EXACT, CODES: "SQ8"}
    if n >= LISTS_FROM:
        factories[LISTS] = _lists_factory(n, width)
    if n <= settings.graph_up_to:
        factories[GRAPH] = "HNSW32"
    for name, factory in factories.items():
        build_s, built = timed(partial(train_index, vectors, IndexSpec(factory)))
        yield Candidate(name, built, build_s)
    chosen = choose_spec(n, width, settings.goal)
    build_s, (part, facts) = timed(partial(train_measured, vectors, chosen, settings.goal))
    yield Candidate(AUTO, part, build_s, facts=facts)


def _lists_factory(n: int, width: int) -> str:
    """What is chosen of a large number; of a small one, the same with few lists."""
    factory = choose_spec(max(n, EXACT_BELOW), width).factory
    return factory if n >= EXACT_BELOW else re.sub(r"IVF\d+", f"IVF{FEW_LISTS}", factory)


def measure_curve(candidate: Candidate, queries: Vectors, wanted: Rows) -> list[dict[str, Any]]:
    """Recall, queries/s and single p50 of each setting of one index; `auto` and exact search have one.

    It ends where looking further finds nothing more.
    """
    name, curve, best = f"ann_recall@{wanted.shape[1]}", [], -1.0
    for row in track(_settings(candidate), candidate.name, unit="depth"):
        measured = [_measure_setting(candidate, setting, queries, wanted) for setting in row]
        curve += measured
        most = max(float(each[name]) for each in measured)
        if most < best + LEAST_GAIN:
            break
        best = most
    return curve


def _measure_setting(candidate: Candidate, setting: dict[str, Any], queries: Vectors, wanted: Rows) -> dict[str, Any]:
    k = wanted.shape[1]
    tried = Candidate(candidate.name, candidate.built, 0.0, Scan(**setting))
    seconds, found = timed(partial(tried.search, queries, k))
    if seconds < SLOW_S:
        seconds = min(seconds, *(timed(partial(tried.search, queries, k))[0] for _ in range(2)))
    return {
        **setting,
        f"ann_recall@{k}": round(overlap(found, wanted), 4),
        "queries_per_s": len(queries) / seconds,
        "single_p50_ms": single_p50_ms(tried, queries, k, count=40),
    }


def _settings(candidate: Candidate) -> list[list[dict[str, Any]]]:
    """Rows of settings, each row looking further than the one before."""
    factory = candidate.built.spec.factory
    if candidate.name == AUTO:
        return [[{}]]
    if is_graph(factory):
        return [[{"ef_search": ef_search}] for ef_search in EF_SEARCHES]
    lists, reranks = n_lists(factory), RERANKS if len(stages(factory)) > 1 else ()
    deeper: list[dict[str, Any]] = [{"rerank": rerank} for rerank in reranks] or [{}]
    return [[{"nprobe": nprobe} | each for each in deeper] for nprobe in NPROBES if nprobe <= lists] or [deeper]


def fastest(curve: list[dict[str, Any]], recall: float, k: int) -> dict[str, Any]:
    """The fastest setting that reaches a recall, or the one of the highest recall if none does."""
    name = f"ann_recall@{k}"
    reached = [each for each in curve if each[name] >= recall]
    if reached:
        return max(reached, key=lambda each: float(each["queries_per_s"]))
    return max(curve, key=lambda each: float(each[name]))


def single_p50_ms(candidate: Candidate, queries: Vectors, k: int, *, count: int = SINGLE_QUERIES) -> float:
    """Median milliseconds of one query at a time; of fewer where these take longer than a second."""
    seconds: list[float] = []
    for row in range(min(count, len(queries))):
        seconds.append(timed(partial(candidate.search, queries[row : row + 1], k))[0])
        if sum(seconds) > 1:
            break
    return 1000 * median(seconds)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of wall clock, and what the work returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result
