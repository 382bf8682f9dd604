"""Every query's numbers as text tables, one file for each k, for those who read them with the eye or a spreadsheet."""

import csv
import io
from pathlib import Path

import numpy as np

from chextriev.artifacts import write_text
from chextriev.eval.evaluation import Evaluation
from chextriev.eval.query_table import query_columns

SHOWN = ("ap_over_hits", "precision", "rr")


def write_tables(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write `at-K.tsv` for each k: a line for each query and finding that it has; the files.

    Columns, separated by tabs: query, finding, relevant (R), hits, AP over hits, precision, RR, then K ids, best first,
    and their K scores; both end early where a list does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns, written = query_columns(evaluation.scored), []
    rows = {name: row for row, name in enumerate(evaluation.lists.query_ids)}
    for k in evaluation.protocol.ks:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        ranks = range(1, k + 1)
        found = (*(f"id {rank}" for rank in ranks), *(f"score {rank}" for rank in ranks))
        writer.writerow(["query", "finding", "relevant", "hits", *(f"{name}@{k}" for name in SHOWN), *found])
        for place in np.flatnonzero(columns["k"] == k):
            query = columns["query_id"][place]
            counts = (columns[name][place] for name in ("finding", "n_relevant", "hits"))
            values = (f"{columns[name][place]:.6f}" for name in SHOWN)
            writer.writerow([query, *counts, *values, *_found(evaluation, rows[query], k)])
        path = folder / f"at-{k}.tsv"
        write_text(path, text.getvalue())
        written.append(path)
    return written


def _found(evaluation: Evaluation, row: int, k: int) -> list[str]:
    ids, scores = evaluation.lists.neighbour_ids[row, :k], evaluation.lists.scores[row, :k]
    there = [name is not None for name in ids]
    numbers = [f"{score:.6f}" if known else "" for score, known in zip(scores, there, strict=True)]
    return [*("" if name is None else name for name in ids), *numbers]
