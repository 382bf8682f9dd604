"""`chextriev eval run`, from an embeddings artefact to tables."""

import json

import pytest

from chextriev.artifacts import Recipe, publishing, seal
from chextriev.cli import EXIT_REFUSED, main
from chextriev.embedding_set import KIND, write_embedding_files
from chextriev.eval.run import evaluate
from chextriev.eval.store import read_evaluation


@pytest.fixture
def embeddings(made_up, tmp_path):
    """The made-up embeddings on disk."""
    target = tmp_path / "embeddings"
    with publishing(target, KIND) as scratch:
        write_embedding_files(made_up, scratch)
        seal(scratch, KIND, Recipe({}, {"encoder": "e" * 64, "study table": "s" * 64}))
    return target


def test_run_prints_the_markdown_table_and_publishes(embeddings, made_up, tmp_path, capsys):
    assert main(["eval", "run", str(embeddings), str(tmp_path / "out"), "-k", "3,5"]) == 0
    printed = capsys.readouterr().out
    assert "| metric | measured | interval | chance |" in printed
    assert "## k = 5" in printed
    assert "## k = 10" not in printed
    stored = read_evaluation(tmp_path / "out")
    assert stored.overall.at_k[5] == evaluate(made_up).overall.at_k[5]


def test_run_prints_one_json_document(embeddings, tmp_path, capsys):
    assert main(["eval", "run", str(embeddings), str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said.pop("reused"), said.pop("tables")) == (False, [])
    assert said == read_evaluation(tmp_path / "out").as_dict()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-k", "3,x"], "InvalidSetting: -k 3,x"),
        (["-k", "0"], "InvalidSetting: protocol default: k = 0"),
        (["--split", "training"], "EmptySplit"),
        (["--protocol", "other"], "UnknownProtocol"),
    ],
)
def test_wrong_input_is_refused_in_words(embeddings, tmp_path, capsys, words, expected):
    assert main(["eval", "run", str(embeddings), str(tmp_path / "out"), *words]) == EXIT_REFUSED
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
