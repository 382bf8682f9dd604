"""The verb `index`, as a person and as a program use it."""

import json

import numpy as np
import pytest

from chextriev.cli import main


@pytest.fixture
def folders(small_dir, tmp_path):
    return str(small_dir), str(tmp_path / "index")


def test_build_says_spec_and_reason_and_reuses(folders, capsys):
    assert main(["index", "build", *folders]) == 0
    line = capsys.readouterr().out
    assert "300 vectors of width 64; exact search: 300 vectors are fewer than 20,000" in line
    assert line.count("\n") == 1
    assert main(["index", "build", *folders]) == 0
    assert "(unchanged, reused)" in capsys.readouterr().out
    assert main(["index", "build", *folders, "--spec", "IVF8,Flat", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["reused"], facts["n"]) == (False, 300)
    assert facts["ann_recall@10"] > 0.7


def test_search_prints_json_for_programs_and_lines_for_people(folders, small, tmp_path, capsys):
    main(["index", "build", *folders])
    np.save(tmp_path / "queries.npy", small.vectors[:4])
    capsys.readouterr()
    search = ["index", "search", folders[1], str(tmp_path / "queries.npy"), "-k", "3"]
    assert main([*search, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in found] == [0, 1, 2, 3]
    assert [entry["hits"][0]["id"] for entry in found] == ["i00000", "i00001", "i00002", "i00003"]
    assert all(len(entry["hits"]) == 3 and entry["hits"][0]["score"] > 0.999 for entry in found)
    assert main(search) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 13
    assert lines[1].split("\t")[:4] == ["0", "1", "1.0000", "i00000"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.npy", None, "there is no file"),
        ("text.npy", b"hello", "not a .npy file"),
        ("whole.npy", np.arange(64)[None], "float32 vectors are needed"),
        ("narrow.npy", np.ones((1, 8), np.float32), r"this index needs [number, 64]"),
    ],
)
def test_unusable_vectors_are_refused_in_words(folders, tmp_path, capsys, name, content, words):
    main(["index", "build", *folders])
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    assert main(["index", "search", folders[1], str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
