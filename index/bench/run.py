"""Everything that `chextriev bench index` measures, in one run."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chextriev.embedding_set import read_embeddings
from chextriev.errors import EmptySplit
from chextriev.index.bench.candidates import (
    CODES,
    EXACT_NAME,
    SLOW_S,
    Candidate,
    candidates,
    fastest,
    measure_curve,
    single_p50_ms,
)
from chextriev.index.bench.processes import ask
from chextriev.index.bench.settings import IndexBenchSettings
from chextriev.index.bench.table import table_lines
from chextriev.index.bench.targets import targets
from chextriev.index.bench.vectors import Mixture, clustered_vectors, write_clustered
from chextriev.index.exact import Vectors, exact_search, unit_rows
from chextriev.index.vector_index import Scan, faiss
from chextriev.machine import describe_machine, median_ratio, time_in_turn

FAISS_FLAT = "faiss flat"
MB = 1e6
SETTINGS = ("nprobe", "rerank", "ef_search")
NOTES = (
    "queries/s: all queries in one call, candidates in turn, medians; ratios: of neighbouring turns, to Faiss's own"
    " search of a Flat index without anything of ours. single p50: one query a call, medians of as many turns."
    " resident: what opening the file and searching adds to a fresh process. Each candidate stands at the setting that"
    " is fastest at the asked recall, found by trying many on these very queries; auto at the one that it chose itself,"
    " on others. load_average: of the last minute of a case; what exceeds `threads` is work of others, which disturbs"
)


def bench_index(settings: IndexBenchSettings) -> dict[str, Any]:
    """Measure; JSON-able, with a table of lines."""
    cases = [
        {**_named(mixture), **_measure(*_split(clustered_vectors(mixture), mixture.n), settings)}
        for mixture in settings.mixtures
    ]
    if settings.vectors is not None:
        cases.append(_measure_real(settings.vectors, settings))
    content: dict[str, Any] = {
        "settings": {**asdict(settings), "vectors": "given" if settings.vectors else None},
        "machine": describe_machine(),
        "faiss_version": faiss.__version__,
        "threads": faiss.omp_get_max_threads(),
        "cases": cases,
        "large": _measure_large(settings) if settings.large else None,
        "notes": NOTES,
    }
    content["targets"] = targets(content)
    return {**content, "table": table_lines(content)}


def _named(mixture: Mixture) -> dict[str, Any]:
    return {"vectors": f"made up, spread {mixture.spread:g}", "spread": mixture.spread}


def _split(vectors: Vectors, n: int) -> tuple[Vectors, Vectors]:
    return vectors[:n], vectors[n:]


def _measure_real(folder: Path, settings: IndexBenchSettings) -> dict[str, Any]:
    """At most a tenth of the embeddings, drawn at random, are queries and not in the index."""
    vectors = read_embeddings(folder).vectors
    if len(vectors) <= 10 * settings.k:
        raise EmptySplit(f"{folder} holds {len(vectors)} embeddings; more than {10 * settings.k} are needed")
    order = np.random.default_rng(settings.seed).permutation(len(vectors))
    count = min(settings.queries, len(vectors) // 10)
    queries, gallery = (unit_rows(vectors[np.sort(rows)], "vector") for rows in (order[:count], order[count:]))
    return {"vectors": "embeddings", "spread": None, **_measure(gallery, queries, settings)}


def _measure(vectors: Vectors, queries: Vectors, settings: IndexBenchSettings) -> dict[str, Any]:
    """All candidates on the same vectors: the curve of each, then its best setting in turns with the others."""
    _, wanted = exact_search(queries, vectors, settings.k)
    chosen: dict[str, Candidate] = {}
    measured: dict[str, dict[str, Any]] = {}
    for candidate in candidates(vectors, settings):
        curve = measure_curve(candidate, queries, wanted)
        best = fastest(curve, settings.recall, settings.k)
        scan = Scan(**{name: best[name] for name in SETTINGS if name in best})
        chosen[candidate.name] = Candidate(candidate.name, candidate.built, candidate.build_s, scan)
        measured[candidate.name] = {
            "factory": candidate.built.spec.factory,
            **_depth(chosen[candidate.name]),
            "build_s": candidate.build_s,
            f"ann_recall@{settings.k}": best[f"ann_recall@{settings.k}"],
            "reaches": best[f"ann_recall@{settings.k}"] >= settings.recall,
            **_memory(chosen[candidate.name], settings.k),
            "curve": curve,
            **({"tuning": candidate.facts["tuning"]} if "tuning" in candidate.facts else {}),
        }
    timing = _time(chosen, measured, queries, settings)
    merged = {name: {**timing[name], **measured[name]} for name in measured}
    float32_mb = vectors.nbytes / MB
    return {
        "n": len(vectors),
        "width": vectors.shape[1],
        "queries": len(queries),
        "float32_mb": float32_mb,
        "load_average": os.getloadavg()[0],
        FAISS_FLAT: timing[FAISS_FLAT],
        "candidates": merged,
    }


def _depth(candidate: Candidate) -> dict[str, int]:
    """How deep it looks, where its type has such a setting."""
    spec, scan = candidate.built.spec, candidate.scan
    if scan.nprobe is not None or scan.ef_search is not None:
        return {name: value for name in SETTINGS if (value := getattr(scan, name)) is not None}
    return {name: getattr(spec, name) for name in ("nprobe", "rerank")} if "IVF" in spec.factory else {}


def _time(
    chosen: Mapping[str, Candidate],
    measured: Mapping[str, Mapping[str, Any]],
    queries: Vectors,
    settings: IndexBenchSettings,
) -> dict[str, dict[str, Any]]:
    """Queries/s of each candidate and of Faiss's Flat search, in turns, and their ratios to the latter; single p50."""
    flat, k = chosen[EXACT_NAME].built.faiss_index, settings.k
    batches = {FAISS_FLAT: queries}
    for name in chosen:
        slow = name == CODES and len(queries) / measured[name]["curve"][0]["queries_per_s"] > SLOW_S
        batches[name] = queries[: max(1, len(queries) // 10)] if slow else queries
    works = {name: partial(candidate.search, batches[name], k) for name, candidate in chosen.items()}
    seconds = time_in_turn({FAISS_FLAT: partial(flat.search, queries, k), **works}, repeats=settings.repeats)
    each = {name: [turn / len(batches[name]) for turn in turns] for name, turns in seconds.items()}
    singles: dict[str, list[float]] = {name: [] for name in chosen}
    for _, (name, candidate) in product(range(settings.repeats), chosen.items()):
        singles[name].append(single_p50_ms(candidate, queries, k))
    return {
        name: {
            "queries_per_s": 1 / median(turns),
            "ratio_to_flat": median_ratio(each[FAISS_FLAT], turns),
            **({"single_p50_ms": median(singles[name])} if name in singles else {}),
        }
        for name, turns in each.items()
    }


def _memory(candidate: Candidate, k: int) -> dict[str, float]:
    """Of its file, and of a process that opens and searches it."""
    built = candidate.built
    with TemporaryDirectory() as folder:
        file = Path(folder) / "index.faiss"
        built.save(file)
        scan = {name: getattr(candidate.scan, name) for name in SETTINGS}
        task = {"task": "open", "file": str(file), "n": len(built), "width": built.width, "k": k}
        answer = ask({**task, "spec": asdict(built.spec), "scan": scan})
        share = answer["resident_mb"] * MB / (4 * len(built) * built.width)
        return {"file_mb": file.stat().st_size / MB, **answer, "resident_share_of_float32": share}


def _measure_large(settings: IndexBenchSettings) -> dict[str, Any]:
    """An index of a file of vectors, built and searched in a process of its own."""
    mixture = settings.mixture(settings.large, settings.spreads[0])
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"
        write_clustered(mixture, file)
        task = {"task": "build", "file": str(file), "n": mixture.n, "k": settings.k, "recall": settings.recall}
        float32_mb = 4 * mixture.n * mixture.width / MB
        return {**_named(mixture), "n": mixture.n, "width": mixture.width, "float32_mb": float32_mb, **ask(task)}
