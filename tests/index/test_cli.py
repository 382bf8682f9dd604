"""The verb `index`, as a person and as a program use it."""

import json

import numpy as np
import pytest
from pyarrow import parquet

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


@pytest.fixture
def files(small, tmp_path):
    """Vectors of nobody in particular: 200 to build of and 5 to add."""
    np.save(tmp_path / "x.npy", small.vectors[:200])
    np.save(tmp_path / "y.npy", small.vectors[200:205])
    np.save(tmp_path / "y-ids.npy", np.arange(200, 205))
    return tmp_path


def run(capsys, *words):
    """The JSON that a command prints."""
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_index_grows_goes_back_and_is_published_elsewhere(files, capsys):
    index, other = files / "index", files / "other"
    assert run(capsys, "index", "build", files / "x.npy", index)["n"] == 200
    added = run(capsys, "index", "add", index, files / "y.npy", "--ids", files / "y-ids.npy")
    assert (added["holds"], added["added"]) == (205, 5)
    (first,) = run(capsys, "index", "search", index, files / "y.npy", "-k", "1")[:1]
    assert first["hits"][0]["id"] == 200
    assert run(capsys, "index", "remove", index, "200", "3")["holds"] == 203
    (first,) = run(capsys, "index", "search", index, files / "y.npy", "-k", "1")[:1]
    assert first["hits"][0]["id"] != 200
    compact = run(capsys, "index", "compact", index)
    assert (compact["n"], compact["added"], compact["removed"]) == (203, 0, 0)
    assert run(capsys, "index", "rollback", index)["generation"] == 3
    info = run(capsys, "index", "info", index)
    assert (info["holds"], info["removed"], info["metric"]) == (203, 2, "cosine")
    assert [each["current"] for each in info["generations"]] == [False, False, True, False]
    assert run(capsys, "index", "publish", index, "--generation", "4")["generation"] == 4
    assert run(capsys, "index", "publish", other, index)["generation"] == 1
    assert run(capsys, "index", "info", other)["digest"] == compact["digest"]
    assert run(capsys, "index", "gc", index)["removed"] == [1, 2]
    assert len(run(capsys, "index", "verify", index)["generations"]) == 2
    damaged = next((index / "generations").glob("000003-*")) / "index.faiss"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.unlink()  # the other generations have the same file under another name
    damaged.write_bytes(content)
    assert main(["index", "verify", str(index)]) == 2
    assert "differs from its manifest" in capsys.readouterr().err


def test_results_are_written_as_parquet(files, capsys):
    index, out = files / "index", files / "results.parquet"
    run(capsys, "index", "build", files / "x.npy", index)
    printed = run(capsys, "index", "search", index, files / "y.npy", "-k", "3", "--out", out)
    table = parquet.read_table(out)
    assert table.column_names == ["query", "rank", "id", "score"]
    assert table.column("id").to_pylist() == [hit["id"] for line in printed for hit in line["hits"]]
    assert table.column("rank").to_pylist() == [1, 2, 3] * 5
    assert main(["index", "search", str(index), str(files / "y.npy"), "--out", str(out)]) == 2
    assert "exists; choose another output" in capsys.readouterr().err


def test_fewer_than_asked_is_said(files, capsys):
    run(capsys, "index", "build", files / "x.npy", files / "index")
    assert main(["index", "search", str(files / "index"), str(files / "y.npy"), "-k", "201"]) == 0
    assert "5 of 5 queries have fewer than 201 results" in capsys.readouterr().out


def test_hash_codes_come_with_their_distance(files, capsys):
    run(capsys, "index", "build", files / "x.npy", files / "index", "--metric", "hamming")
    (line,) = run(capsys, "index", "search", files / "index", files / "y.npy", "-k", "2")[:1]
    hit = line["hits"][0]
    assert hit["score"] == pytest.approx(1 - 2 * hit["distance"] / 64)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "index", "y.npy", "--ids", "x-ids.npy"], "5 of 5 images are in the index already, the first: 0"),
        (["remove", "index", "7", "999"], "1 of 2 images to remove are not in the index, the first: 999"),
        (["remove", "index", "seven"], "image id 'seven'; the ids of this index are integers"),
        (["remove", "index"], "no image to remove was named"),
        (["remove", "index", "+-5"], "image id '+-5'; the ids of this index are integers"),
        (["remove", "index", "1_0"], "image id '1_0'"),
        (["build", "x.npy", "z", "--spec", "HNSW0"], "asks for none of something"),
        (["build", "x.npy", "z", "--spec", "IVF0,Flat"], "asks for none of something"),
        (["build", "x.npy", "z", "--backend", "milvus", "--uri", "m.db", "--recall", ".9"], "--recall is for an index"),
        (["add", "z", "y.npy"], "there is no z"),
        (["rollback", "index"], "no generation that was published before 1"),
        (["publish", "index"], "SOURCE, another index, or --generation N"),
        (["publish", "index", "--generation", "9"], "no generation 9; it has 1"),
        (["gc", "index", "--keep", "-1"], "keep = -1"),
        (["info", "x.npy"], "x.npy"),
        (["compact", "index", "--spec", "Nonsense"], "could not parse"),
        (["build", "x.npy", "z", "--recall", "1.5"], "recall"),
        (["build", "x.npy", "z", "--nprobe", "4"], "--nprobe goes with --spec"),
        (["build", "x.npy", "z", "--spec", "Flat", "--recall", ".9"], "choose a spec"),
        (["build", "x.npy", "z", "--metric", "hamming", "--spec", "Flat"], "does not go with metric 'hamming'"),
        (["search", "index", "y.npy", "--where", "colour = red"], "no column 'colour' in the index"),
        (["search", "index", "y.npy", "--uri", "http://127.0.0.1:1"], "give --backend milvus too"),
        (["search", "index", "y.npy", "--backend", "milvus"], "needs its address"),
        (["search", "index", "y.npy", "--device", "gpu"], "choose cpu, cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(files, monkeypatch, capsys, words, said):
    monkeypatch.chdir(files)
    run(capsys, "index", "build", "x.npy", "index")
    np.save("x-ids.npy", np.arange(5))
    before = run(capsys, "index", "info", "index")
    assert main(["index", *words]) == 2
    assert said in capsys.readouterr().err
    assert run(capsys, "index", "info", "index") == before
    assert not (files / "z").exists()


def test_the_same_commands_work_on_milvus(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    milvus = ("--backend", "milvus", "--uri", "m.db")
    assert run(capsys, "index", "build", "x.npy", "chest", *milvus)["n"] == 200
    assert run(capsys, "index", "add", "chest", "y.npy", "--ids", "y-ids.npy", *milvus)["n"] == 205
    assert run(capsys, "index", "remove", "chest", "201", "202", *milvus)["n"] == 203
    found = run(capsys, "index", "search", "chest", "y.npy", "-k", "1", *milvus)
    assert found[0]["hits"][0]["id"] == 200
    assert found[1]["hits"][0]["id"] != 201
    assert run(capsys, "index", "info", "chest", *milvus)["index_type"] == "FLAT"
