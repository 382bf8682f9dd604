"""How deep an approximate index must look: the cheapest setting that finds what was asked, by its own measurement."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from chextriev.errors import CountMismatch
from chextriev.index.exact import Rows, Vectors
from chextriev.index.spec import Goal, IndexSpec, is_graph, n_lists, stage_bytes, stages
from chextriev.index.vector_index import Scan, VectorIndex

NPROBES = tuple(sorted({round(2 ** (step / 2)) for step in range(33)}))
"""1, 2, 3, 4, 6, 8, 11, 16, ... 65,536. A search that finds too few in its lists looks into all of them."""
RERANKS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)
EF_SEARCHES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
MARGIN = 0.004
"""Above the wanted recall, as these queries and those to come are samples: of 1,000, with standard errors near .002."""
RERANK_WEIGHT = 5
"""A byte re-ranked costs about five read from a list: its place in memory is random, and half precision is decoded.

Measured with `chextriev bench index` vectors: 0.5 against 0.11 ns in a single query, 0.30 against 0.06 in a batch.
"""

Setting = dict[str, Any]
Measurement = dict[str, Any]


def tune(
    built: VectorIndex, queries: Vectors, wanted: Rows, goal: Goal, *, own: Rows | None = None
) -> tuple[IndexSpec, list[Measurement]]:
    """The spec of this index with the cheapest nprobe, rerank or ef_search that reaches the goal, and all measured.

    queries: [Q, D] float32 that it was not trained on. wanted: [Q, goal.k] int64 (fewer columns where the index holds
    fewer), the nearest rows by exact search. own: [Q] int64, the row that is the query itself, which `wanted` leaves
    out. Each measurement holds the settings that were tried, `ann_recall` of `goal.k` results and `reached`; where
    none was reached, the spec is that of the highest recall. "Cheapest" is by bytes read, never by a clock: the same
    embeddings give the same answer on every machine. Raises CountMismatch.
    """
    if len(queries) != len(wanted):
        raise CountMismatch(f"{len(queries)} queries beside exact results of {len(wanted)}; give one line to each")
    tried: list[tuple[Setting, float]] = []

    def reaches(setting: Setting) -> bool:
        tried.append((setting, _recall(built, queries, wanted, setting, own)))
        return tried[-1][1] >= least_recall(goal)

    enough = _walk(built.spec, reaches)
    if enough:
        chosen = min(enough, key=lambda setting: scan_cost(built, setting, goal.k))
    else:
        chosen = max(tried, key=lambda each: each[1])[0]
    measured = [
        {**setting, "ann_recall": round(recall, 4), "reached": recall >= least_recall(goal)}
        for setting, recall in tried
    ]
    return replace(built.spec, **chosen), measured


def least_recall(goal: Goal) -> float:
    """What is asked of the held-out queries: the goal and a margin, which shrinks towards 1."""
    return goal.recall + min(MARGIN, (1 - goal.recall) / 4)


def scan_cost(built: VectorIndex, setting: Setting, k: int) -> int:
    """Bytes that one query reads under a setting, those read at random places weighted; for comparison only."""
    codes, *stored = stages(built.spec.factory)
    read = 0
    lists = n_lists(built.spec.factory)
    if lists:
        code_bytes = stage_bytes(codes, built.width)
        read += min(setting["nprobe"], lists) * len(built) * code_bytes // lists
    if stored:
        stored_bytes = stage_bytes(stored[0], built.width)
        read += RERANK_WEIGHT * setting["rerank"] * k * stored_bytes
    return int(read + setting.get("ef_search", 0) * 4 * built.width)


def overlap(found: Rows, wanted: Rows) -> float:
    """ann_recall: the mean share of each line of wanted [Q, k] that stands among the first k others of found [Q, >= k].

    A row -1 in found counts as nothing, and does not take a place.
    """
    order = np.argsort(found < 0, axis=1, kind="stable")
    first = np.take_along_axis(found, order, axis=1)[:, : wanted.shape[1]]
    return float((first[:, :, None] == wanted[:, None, :]).any(axis=1).mean())


def _recall(built: VectorIndex, queries: Vectors, wanted: Rows, setting: Setting, own: Rows | None) -> float:
    """A query that is in the index takes a place among the candidates, which is given back."""
    k = wanted.shape[1]
    if own is None:
        return overlap(built.search(queries, k, Scan(**setting))[1], wanted)
    if "rerank" in setting:
        setting = setting | {"rerank": (setting["rerank"] * k + 1) / (k + 1)}
    _, found = built.search(queries, k + 1, Scan(**setting))
    return overlap(np.where(found == own[:, None], -1, found), wanted)


def _walk(spec: IndexSpec, reaches: Callable[[Setting], bool]) -> list[Setting]:
    """All settings of two rising axes that just reach the goal, in as many steps as both axes have places together.

    Recall grows along both, so from the deepest re-ranking over the fewest lists the walk looks into more lists until
    it reaches the goal, then re-ranks less until it fails, and so on: down the stairs between what reaches and not.
    """
    lists, graph = n_lists(spec.factory), is_graph(spec.factory)
    outer: list[Setting] = [{}]
    if lists:
        outer = [{"nprobe": nprobe} for nprobe in (*(step for step in NPROBES if step < lists), lists)]
    elif graph:
        outer = [{"ef_search": ef_search} for ef_search in EF_SEARCHES]
    inner: list[Setting] = [{"rerank": rerank} for rerank in RERANKS] if len(stages(spec.factory)) > 1 else [{}]
    at, depth, found = 0, len(inner) - 1, []
    while at < len(outer) and depth >= 0:
        setting = outer[at] | inner[depth]
        if reaches(setting):
            found.append(setting)
            depth -= 1
        else:
            at += 1
    return found
