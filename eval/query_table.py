"""Every query's numbers as a Parquet table, one row for each query, finding that it has, and k.

Columns: query_id, patient_id, finding, k, n_candidates, n_relevant (hits among these, "R"), hits (found in the top k)
and one for each metric. Rows are in the order of queries, then findings, then k.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidValue
from chextriev.eval.chance import expected_scores
from chextriev.eval.metrics import METRICS, FindingScores
from chextriev.eval.scored import ScoredQueries
from chextriev.optional import require

PRECISION = tuple(METRICS).index("precision")
HOW = b"chextriev"
"""Key of the file's own metadata: findings and ks, of which a table without queries says nothing."""


def query_columns(scored: ScoredQueries) -> dict[str, npt.NDArray[Any]]:
    """The columns by name; InvalidValue where candidates were not counted."""
    if scored.n_candidates is None or scored.relevant is None:
        raise InvalidValue(f"{scored.name}: the candidates of the queries are not known; evaluate the lists again")
    n_ks = len(scored.ks)
    query = np.concatenate([score.positions for score in scored.measured])
    finding = np.repeat(np.arange(len(scored.findings)), [len(score.positions) for score in scored.measured])
    values = np.concatenate([score.values for score in scored.measured])  # [rows, metrics, ks]
    order = np.lexsort((finding, query))
    query, finding, values = query[order], finding[order], values[order]
    hits = np.rint(values[:, PRECISION] * np.asarray(scored.ks)).astype(np.int32)
    return {
        "query_id": np.repeat(scored.query_ids[query], n_ks),
        "patient_id": np.repeat(scored.patients[query], n_ks),
        "finding": np.repeat(np.array(scored.findings, object)[finding], n_ks),
        "k": np.tile(np.asarray(scored.ks, np.int32), len(query)),
        "n_candidates": np.repeat(scored.n_candidates[query], n_ks),
        "n_relevant": np.repeat(scored.relevant[query, finding], n_ks),
        "hits": hits.ravel(),
        **{name: values[:, row].ravel() for row, name in enumerate(METRICS)},
    }


def write_queries(scored: ScoredQueries, path: Path) -> None:
    """Write the table."""
    pyarrow, parquet = require("pyarrow", extra="eval"), require("pyarrow.parquet", extra="eval")
    text = {"name": scored.name, "findings": scored.findings, "ks": scored.ks}
    columns = {name: pyarrow.array(column, from_pandas=True) for name, column in query_columns(scored).items()}
    table = pyarrow.table(columns).replace_schema_metadata({HOW: json.dumps(text)})
    parquet.write_table(table, path)


def read_queries(path: Path) -> ScoredQueries:
    """The reverse; chance is computed again from the candidates. KeyError or ValueError where it is no such table."""
    table = require("pyarrow.parquet", extra="eval").read_table(path)
    about = json.loads((table.schema.metadata or {})[HOW])
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return _scored(columns, about)


def _scored(columns: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> ScoredQueries:
    ks, findings = tuple(about["ks"]), tuple(about["findings"])
    first = {name: column[:: len(ks)] for name, column in columns.items()}  # one row a query and finding
    ids, begins, query = np.unique(first["query_id"], return_index=True, return_inverse=True)
    order = np.argsort(begins)  # as they were written
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    query, begins = place[query], begins[order]
    column_of = {name: row for row, name in enumerate(findings)}
    finding = np.array([column_of[name] for name in first["finding"]], np.int64)
    relevant = np.zeros((len(ids), len(findings)), np.int64)
    relevant[query, finding] = first["n_relevant"]
    values = np.stack([columns[name].reshape(-1, len(ks)) for name in METRICS], axis=1)
    measured = [FindingScores(query[finding == row], values[finding == row]) for row in range(len(findings))]
    candidates = first["n_candidates"][begins].astype(np.int64)
    return ScoredQueries(
        name=about["name"],
        query_ids=ids[order],
        patients=first["patient_id"][begins],
        findings=findings,
        ks=ks,
        measured=tuple(measured),
        chance=tuple(expected_scores(measured, candidates, relevant, ks)),
        n_candidates=candidates,
        relevant=relevant,
    )
