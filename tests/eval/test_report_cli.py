"""`chextriev eval report`, from evaluations on disk to the page and its twins."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chextriev.artifacts import Recipe, publishing, read_manifest, seal
from chextriev.cli import EXIT_REFUSED, main
from chextriev.eval.protocol import DEFAULT
from chextriev.eval.run import evaluate
from chextriev.eval.store import KIND, write_evaluation
from chextriev.study_table import KIND as STUDY_KIND
from chextriev.study_table import STUDY_FILE, write_study_parquet

BENCH = Path(__file__).parents[2] / "eval" / "results" / "bench-index.json"


@pytest.fixture(scope="module")
def folders(made_up, tmp_path_factory):
    """Evaluations of two systems and, for what does not compare, of other list lengths."""
    folder = tmp_path_factory.mktemp("evaluations")
    noise = np.random.default_rng(1).normal(size=made_up.vectors.shape).astype(np.float32)
    for name, embeddings, protocol in (
        ("strong", made_up, DEFAULT),
        ("weak", replace(made_up, vectors=noise), DEFAULT),
        ("short", made_up, replace(DEFAULT, ks=(3, 5))),
    ):
        write_evaluation(folder / name, evaluate(embeddings, protocol))
    return folder


@pytest.fixture(scope="module")
def table(pictures, tmp_path_factory):
    """The study table on disk."""
    target = tmp_path_factory.mktemp("table") / "study"
    with publishing(target, STUDY_KIND) as scratch:
        write_study_parquet(pictures, scratch / STUDY_FILE)
        facts = {"image_root": os.path.relpath(pictures.image_root, target), "synthetic": True}
        seal(scratch, STUDY_KIND, Recipe({}, {}), facts)
    return target


def report(*words):
    return main(["eval", "report", *map(str, words)])


def test_the_page_and_its_twins_are_written_and_told(folders, tmp_path, capsys):
    assert report(folders / "strong", folders / "weak", tmp_path / "r.html") == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'r.html'}: strong, weak; 0 cases; twins r.md and r.json" in said
    assert "no radiographs were named (--data), so it shows no cases" in said
    assert "no measurement of an index (--bench), so it shows no latency" in said
    twin = json.loads((tmp_path / "r.json").read_text())
    assert list(twin["systems"]) == ["strong", "weak"]
    assert twin["provenance"]["weak: evaluation"] == read_manifest(folders / "weak", KIND).digest
    assert "nearest cases" not in (tmp_path / "r.html").read_text()


def test_with_data_and_a_measured_index_there_are_cases_and_latency(folders, table, tmp_path, capsys):
    words = [
        folders / "strong",
        tmp_path / "r.html",
        "--data",
        table,
        "--bench",
        BENCH,
        "--title",
        "A <title>",
        "--json",
    ]
    assert report(*words, "--names", "v6", "--metric", "rr") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "files": [str(tmp_path / f"r.{ending}") for ending in ("html", "md", "json")],
        "systems": ["v6"],
        "cases": 6,
        "left_out": ["no occlusion study (--occlusion), so it shows none"],
    }
    page = (tmp_path / "r.html").read_text()
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert page.count("<article") == 6
    assert "Synthetic phantoms, not patients" in page
    assert 'aria-label="RR@5 of each finding.' in page
    assert json.loads((tmp_path / "r.json").read_text())["bench"] == json.loads(BENCH.read_text())


def test_what_cannot_be_reported_is_refused_in_words(folders, table, tmp_path, capsys):
    (tmp_path / "words").write_text("words")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bench.json").write_text("{}")
    strong, weak, out = folders / "strong", folders / "weak", tmp_path / "r.html"
    for words, expected in (
        ([strong, folders / "short", out], "InvalidSetting: row 'short' has another protocol or split than 'strong'"),
        ([strong, strong, out], "InvalidSetting: two rows are named 'strong'"),
        ([strong, weak, out, "--names", "one"], "InvalidSetting: --names one: 2 are needed"),
        ([strong, tmp_path / "r.txt"], "has to end in .html"),
        ([table, out], "NotAnArtifact"),
        ([strong, out, "--metric", "recall"], "InvalidSetting: no metric 'recall'"),
        ([strong, out, "--data", weak], "NotAnArtifact"),
        ([strong, out, "--bench", tmp_path / "none"], "MissingFile: there is no file"),
        ([strong, out, "--bench", tmp_path / "words"], "words is not JSON"),
        ([strong, out, "--bench", tmp_path / "list.json"], "holds no JSON object"),
        ([strong, out, "--bench", tmp_path / "bench.json"], "InvalidValue: not a measurement of an index"),
        ([strong, tmp_path / "bench.html", "--bench", tmp_path / "bench.json"], "would be written over"),
    ):
        assert report(*words) == EXIT_REFUSED
        assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "list.json", "words"]
