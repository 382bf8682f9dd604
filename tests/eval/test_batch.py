"""`chextriev eval run` of bundles and of anybody's vectors, and its text tables."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from chextriev.anatomy import Finding
from chextriev.cli import EXIT_REFUSED, main
from chextriev.errors import InvalidSetting
from chextriev.eval.batch import Batch
from chextriev.eval.store import read_evaluation
from chextriev.study_table import StudyTable, read_study_table
from chextriev.systems import find_system
from chextriev.train.ath import ATH_BACKBONE
from tests.export.tiny_bundle import ATH_SEED, make_bundle, random_backbone
from tests.tiny import write_tiny_table

ROWS = 24


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_table(folder, per_split=(2, 0, ROWS))
    return folder / "study"


@pytest.fixture(scope="module")
def bundle(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = random_backbone(ATH_BACKBONE.name, ATH_SEED)
    table = read_study_table(study)
    return make_bundle(tmp_path_factory.mktemp("ath"), table, find_system("ath"), backbone).folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    capsys.readouterr()
    assert main(["eval", "run", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_bundle_is_embedded_once_and_evaluated_by_any_protocol(bundle, study, tmp_path, capsys):
    work = tmp_path / "work"
    first = run(capsys, bundle, tmp_path / "one", "--data", study, "--work", work, "--name", "ath")
    made = (work / "embeddings" / "manifest.json").stat().st_mtime_ns
    second = run(capsys, bundle, tmp_path / "two", "--data", study, "--work", work, "--protocol", "reference")
    assert (work / "embeddings" / "manifest.json").stat().st_mtime_ns == made
    assert [path.name for path in work.iterdir() if not path.name.startswith(".")] == ["embeddings"]
    assert (first["name"], first["protocol"], second["protocol"]) == ("ath", "default", "reference")
    assert first["evaluated"]["embeddings"] == second["evaluated"]["embeddings"]
    assert "side of findings" in first["strata"]["strata"]  # the study table knows the regions
    assert not first["reused"]
    assert run(capsys, bundle, tmp_path / "one", "--data", study, "--work", work, "--name", "ath")["reused"]


def test_findings_with_a_side_are_seventeen(bundle, study, tmp_path, capsys):
    found = run(capsys, bundle, tmp_path / "out", "--data", study, "--findings", "17", "-k", "3")
    assert len(found["k"]["3"]["per_finding"]) == 17
    assert found["evaluated"]["labels"] == read_study_table(study).digest


def test_the_text_tables_say_what_the_evaluation_says(bundle, study, tmp_path, capsys):
    said = run(capsys, bundle, tmp_path / "out", "--data", study, "-k", "2,5", "--tables")
    evaluation = read_evaluation(tmp_path / "out")
    assert said["tables"] == [str(tmp_path / "out.tables" / f"at-{k}.tsv") for k in (2, 5)]
    with Path(said["tables"][1]).open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == sum(len(scores.positions) for scores in evaluation.scored.measured)
    row = rows[7]
    place = evaluation.lists.query_ids.tolist().index(row["query"])
    assert [row[f"id {rank}"] for rank in range(1, 6)] == evaluation.lists.neighbour_ids[place, :5].tolist()
    scores = [float(row[f"score {rank}"]) for rank in range(1, 6)]
    assert scores == pytest.approx(evaluation.lists.scores[place, :5], abs=1e-6)
    table = read_study_table(study)
    has_it = {
        name: table.image_findings[at, Finding.from_label(row["finding"])] for at, name in enumerate(table.image_id)
    }
    assert int(row["hits"]) == sum(has_it[row[f"id {rank}"]] == 1 for rank in range(1, 6))
    assert float(row["precision@5"]) == int(row["hits"]) / 5


@pytest.fixture
def files(made_up, tmp_path) -> Path:
    np.save(tmp_path / "x.npy", made_up.vectors)
    columns = {"patient_id": made_up.patient_id}
    columns |= {finding.label: made_up.findings[:, finding] for finding in Finding}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    return tmp_path


def test_anybodys_vectors_are_evaluated_as_embeddings_are(files, made_up, tmp_path, capsys):
    from chextriev.eval.run import evaluate

    found = run(capsys, files / "x.npy", tmp_path / "out", "--metadata", files / "x.parquet")
    wanted = evaluate(made_up).as_dict()
    assert (found["split"], found["n_queries"], found["view"]) == ("all", wanted["n_queries"], {})
    assert found["k"] == wanted["k"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{bundle}", "{out}"], "name their study table with --data"),
        (["{bundle}", "{out}", "--data", "{study}", "--engine", "onnx-fp64"], "no engine 'onnx-fp64'"),
        (["{files}/x.npy", "{out}"], "no patient_id"),
        (["{files}/x.npy", "{out}", "--metadata", "{files}/x.parquet", "--findings", "17"], "name it with --data"),
        (["{files}/x.npy", "{out}", "--metadata", "{files}/x.parquet", "--split", "test"], "choose split 'all'"),
        (["{files}/nothing", "{out}"], "there is no"),
        (["tcp://localhost:1", "{out}", "--data", "{study}"], "tcp"),
    ],
)
def test_wrong_targets_are_refused_in_words(bundle, study, files, capsys, words, said):
    places = {"bundle": bundle, "study": study, "files": files, "out": files / "out"}
    assert main(["eval", "run", *(word.format(**places) for word in words)]) == EXIT_REFUSED
    assert said in capsys.readouterr().err
    assert not (files / "out").exists()


def test_a_folder_of_something_else_is_not_written_to(bundle, study, tmp_path, capsys):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("mine")
    words = ["eval", "run", bundle, tmp_path / "out", "--data", study, "--work", tmp_path / "work"]
    assert main([*map(str, words)]) == EXIT_REFUSED
    assert "holds no embeddings of an evaluation" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["notes.txt"]


def test_a_batch_needs_a_shard(pictures: StudyTable, tmp_path):
    with pytest.raises(InvalidSetting, match="shards of 0 radiographs"):
        Batch(pictures, tmp_path, shard_rows=0)
