"""Evaluations on disk: an artefact of kind "evaluation".

`evaluation.json` (all numbers), `evaluation.md` (the same for people), `neighbours.parquet` (query_id, rank from 1,
neighbour_id and score; both null where a list has ended), `queries.parquet` (every query's numbers, see
`chextriev.eval.query_table`) and a manifest whose parents are the embeddings and encoder.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from chextriev.artifacts import Manifest, Recipe, find_current, open_artifact, publishing, seal
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import DamagedArtifact
from chextriev.eval.evaluation import Evaluation, RankedLists, Scoring
from chextriev.eval.evaluation_text import render_evaluation
from chextriev.eval.protocol import DEFAULT, Protocol
from chextriev.eval.query_table import read_queries, write_queries
from chextriev.eval.relevance import Relevance
from chextriev.eval.run import evaluate, parents_of
from chextriev.eval.scored import ScoredQueries
from chextriev.eval.strata import Strata
from chextriev.eval.view_baseline import ViewBaseline
from chextriev.optional import require

KIND = "evaluation"
METHOD = 4
"""Part of every evaluation's recipe; raise it when the same embeddings begin to give other numbers."""

JSON_FILE = "evaluation.json"
MARKDOWN_FILE = "evaluation.md"
NEIGHBOURS_FILE = "neighbours.parquet"
QUERIES_FILE = "queries.parquet"


def recipe_of(protocol: Protocol, *, split: str, parents: Mapping[str, str], name: str = "") -> Recipe:
    """What an evaluation is made of; parents: digests of its embeddings, of their encoder, and of other labels."""
    settings = {"protocol": protocol.as_dict(), "split": split, "name": name, "method": METHOD}
    return Recipe(settings, dict(parents))


def write_evaluation(out: str | Path, evaluation: Evaluation) -> Manifest:
    """Publish an evaluation at `out`, whole or not at all."""
    recipe = recipe_of(
        evaluation.protocol, split=evaluation.split, parents=evaluation.parents, name=evaluation.scored.name
    )
    with publishing(Path(out), KIND) as scratch:
        text = json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        (scratch / JSON_FILE).write_text(text + "\n")
        (scratch / MARKDOWN_FILE).write_text(render_evaluation(evaluation))
        _write_lists(evaluation.lists, scratch / NEIGHBOURS_FILE)
        write_queries(evaluation.scored, scratch / QUERIES_FILE)
        return seal(scratch, KIND, recipe)


def evaluate_or_reuse(
    embeddings: EmbeddingSet,
    directory: str | Path,
    protocol: Protocol = DEFAULT,
    *,
    split: str = "test",
    relevance: Relevance | None = None,
    name: str = "",
) -> tuple[Evaluation, bool]:
    """The evaluation of a split of these embeddings at `directory`, made unless it is there; and whether it was."""
    recipe = recipe_of(protocol, split=split, parents=parents_of(embeddings, relevance), name=name)
    if find_current(Path(directory), KIND, recipe) is not None:
        return read_evaluation(directory), True
    evaluation = evaluate(embeddings, protocol, split=split, relevance=relevance, name=name)
    write_evaluation(directory, evaluation)
    return evaluation, False


def read_evaluation(directory: str | Path) -> Evaluation:
    """Open an evaluation, its files verified."""
    directory = Path(directory)
    manifest = open_artifact(directory, KIND)
    try:
        content = json.loads((directory / JSON_FILE).read_text())
        lists, scored = _read_lists(directory / NEIGHBOURS_FILE), read_queries(directory / QUERIES_FILE)
        return _evaluation(content, lists, scored, manifest.recipe.parents)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedArtifact(f"{directory} is not an evaluation of this release ({error}); evaluate again") from error


def _evaluation(
    content: Mapping[str, Any], lists: RankedLists, scored: ScoredQueries, parents: Mapping[str, str]
) -> Evaluation:
    """The reverse of `Evaluation.as_dict`."""
    return Evaluation(
        protocol=Protocol.from_dict(content["settings"]),
        split=content["split"],
        overall=Scoring.from_dict(content),
        views={view: Scoring.from_dict(scoring) for view, scoring in content["view"].items()},
        lists=lists,
        scored=scored,
        parents=parents,
        views_withheld=content["view_withheld"],
        strata=content["strata"] and Strata.from_dict(content["strata"]),
        view_baseline=content["view_baseline"] and ViewBaseline.from_dict(content["view_baseline"]),
    )


def read_scores(directory: str | Path) -> ScoredQueries:
    """Every query's numbers of an evaluation, its files verified; named as its folder where it has no name."""
    evaluation = read_evaluation(directory)
    return replace(evaluation.scored, name=evaluation.scored.name or Path(directory).resolve().name)


def _write_lists(lists: RankedLists, path: Path) -> None:
    pyarrow, parquet = require("pyarrow", extra="eval"), require("pyarrow.parquet", extra="eval")
    count, k = lists.scores.shape
    scores = np.where(np.isfinite(lists.scores), lists.scores, np.nan)
    columns = {
        "query_id": pyarrow.array(np.repeat(lists.query_ids, k), pyarrow.string()),
        "rank": np.tile(np.arange(1, k + 1, dtype=np.int16), count),
        "neighbour_id": pyarrow.array(lists.neighbour_ids.ravel(), pyarrow.string()),
        "score": pyarrow.array(scores.ravel(), pyarrow.float32(), from_pandas=True),
    }
    parquet.write_table(pyarrow.table(columns), path)


def _read_lists(path: Path) -> RankedLists:
    table = require("pyarrow.parquet", extra="eval").read_table(path)
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    k = int(columns["rank"].max())
    scores = columns["score"].astype(np.float32).reshape(-1, k)
    return RankedLists(
        query_ids=columns["query_id"].reshape(-1, k)[:, 0],
        neighbour_ids=columns["neighbour_id"].reshape(-1, k),
        scores=np.where(np.isnan(scores), -np.inf, scores).astype(np.float32),
    )
