"""What runs in a process of its own, whose memory is measured: it reads a task as JSON and writes the answer as JSON.

Started by `processes.ask`. Progress goes to standard error.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chextriev.index.bench.candidates import Candidate, single_p50_ms, timed
from chextriev.index.build import train_measured
from chextriev.index.faiss_files import read_vectors
from chextriev.index.spec import Goal, IndexSpec, choose_spec
from chextriev.index.vector_index import Scan, VectorIndex
from chextriev.machine import memory_bytes, peak_memory_bytes

MB = 1e6


def open_and_search(task: dict[str, Any]) -> dict[str, Any]:
    """Resident memory that an index file adds to a process which opens and searches it.

    task: file, n, width, spec (fields), scan (fields) and k. `process_mb` is all that the process holds then.
    """
    n, width = task["n"], task["width"]
    before = memory_bytes()
    with Path(task["file"]).open("rb") as stream:
        built = VectorIndex(IndexSpec(**task["spec"]), read_vectors(stream, (n, width)))
    queries = np.random.default_rng(0).standard_normal((64, width), np.float32)
    built.search(queries, task["k"], Scan(**task["scan"]))
    after = memory_bytes()
    return {"resident_mb": (after - before) / MB, "process_mb": after / MB}


def build_and_search(task: dict[str, Any]) -> dict[str, Any]:
    """What an index of a file of vectors takes that the choice of `auto` builds, and how it answers.

    task: file of [n + queries, D] float32, n, k and recall. Peak memory counts the pages of the file that the system
    keeps mapped.
    """
    rows, n, k = np.load(task["file"], mmap_mode="r"), task["n"], task["k"]
    goal = Goal(task["recall"], k)
    build_s, (built, facts) = timed(partial(train_measured, rows[:n], choose_spec(n, rows.shape[1], goal), goal))
    built_peak = peak_memory_bytes()
    found, queries = Candidate("auto", built, build_s), np.array(rows[n:])
    batch_s, _ = timed(partial(found.search, queries, k))
    return {
        "spec": facts["spec"],
        f"ann_recall@{k}": facts.get(f"ann_recall@{k}", 1.0),
        "build_s": build_s,
        "queries_per_s": len(queries) / batch_s,
        "single_p50_ms": single_p50_ms(found, queries, k),
        "build_peak_mb": built_peak / MB,
        "peak_mb": peak_memory_bytes() / MB,
    }


TASKS = {"open": open_and_search, "build": build_and_search}

if __name__ == "__main__":
    asked = json.load(sys.stdin)
    sys.stdout.write(json.dumps(TASKS[asked["task"]](asked)) + "\n")
