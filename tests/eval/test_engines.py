"""`chextriev eval engines`: real engines side by side, resumable, and honest about what cannot run."""

import fcntl
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest

from chextriev.artifacts import open_artifact, read_manifest, seal
from chextriev.bundle import CARD_FILE, EngineRecord, open_bundle
from chextriev.bundle import KIND as BUNDLE
from chextriev.cli import EXIT_REFUSED, main
from chextriev.embedding_set import read_embeddings
from chextriev.errors import DamagedArtifact, EmptySplit, InvalidSetting, InvalidValue, OutputExists
from chextriev.eval import engine_speed, engines
from chextriev.eval.engine_speed import SpeedSettings
from chextriev.eval.engines import EnginesSettings, compare_engines
from chextriev.eval.store import read_evaluation
from chextriev.study_table import StudyTable
from chextriev.systems import find_system
from chextriev.train.ath import ATH_BACKBONE
from tests.export.tiny_bundle import ATH_SEED, make_bundle, random_backbone
from tests.tiny import write_tiny_table

TEST_ROWS = 12
QUICK = SpeedSettings(latency_radiographs=2, processes=1, process_radiographs=2)
ALONE = EnginesSettings(engines=("torch-fp32",), speed=QUICK, shard_rows=4)
"""The reference by itself, a few seconds."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return write_tiny_table(tmp_path_factory.mktemp("tiny"), per_split=(2, 0, TEST_ROWS))


@pytest.fixture(scope="module")
def bundle(table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ATH with random weights, in PyTorch and ONNX Runtime, and an engine that is for another GPU."""
    backbone = random_backbone(ATH_BACKBONE.name, ATH_SEED)
    folder = make_bundle(tmp_path_factory.mktemp("ath"), table, find_system("ath"), backbone).folder
    opened = open_bundle(folder)
    elsewhere = EngineRecord(dict(opened.engine("onnx-fp32").files))
    (folder / CARD_FILE).write_text(opened.card.with_engine("tensorrt-fp16", elsewhere).to_json())
    reseal(folder)
    return folder


def reseal(folder: Path) -> None:
    """Vouch for a bundle as it is now."""
    before = read_manifest(folder, BUNDLE)
    seal(folder, BUNDLE, before.recipe, before.facts)


@pytest.fixture(scope="module")
def compared(bundle: Path, table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run of the command, and what it printed."""
    out, printed = tmp_path_factory.mktemp("compared") / "out", StringIO()
    with redirect_stdout(printed):
        assert main(command(bundle, table, out)) == 0
    return out, printed.getvalue()


def command(bundle: Path, table: StudyTable, out: Path, *more: str) -> list[str]:
    words = ["eval", "engines", str(bundle), str(table.image_root / "study"), str(out)]
    return [*words, "--timed", "3", "--processes", "1", *more]


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_json_says_everything(compared: tuple[Path, str], bundle: Path) -> None:
    out, _ = compared
    content = strict((out / "engines.json").read_text())
    assert list(content["engines"]) == ["torch-fp32", "onnx-fp32"]
    assert list(content["left_out"]) == ["tensorrt-fp16"]
    assert (content["data"]["radiographs"], content["data"]["embedded"]) == (TEST_ROWS, TEST_ROWS)
    assert content["bundle"]["card"] == open_bundle(bundle).manifest.files[CARD_FILE]["sha256"]
    assert {"torch", "onnxruntime", "chextriev", "pillow"} <= set(content["versions"])
    torch, onnx_ = content["engines"].values()
    assert (torch["verdict"], onnx_["verdict"]) == ("reference", "not measured")
    assert torch["against_reference"] is None
    assert onnx_["against_reference"]["cosine"] > 1 - 1e-4
    assert onnx_["against_reference"]["rank_correlation"] > 0.999
    assert {"change", "interval"} <= set(onnx_["against_reference"]["ap@5"])
    for row in (torch, onnx_):
        assert row["files_bytes"] == sum((bundle / name).stat().st_size for name in row["files"])
        assert 0 < row["at_5"]["ap_over_hits"]["chance"] < 1
        assert row["speed"]["p95_ms"] >= row["speed"]["p50_ms"] > 0
        assert row["streamed"]["radiographs_per_s"] > 0
        assert 20e6 < row["speed"]["peak_memory_bytes"] < 4e9
        assert row["speed"]["cold_start_s"] > 0
        assert row["speed"]["latency_radiographs"] == 3


def test_each_engine_leaves_embeddings_and_an_evaluation(compared: tuple[Path, str], table: StudyTable) -> None:
    out, _ = compared
    content = json.loads((out / "engines.json").read_text())
    for name, row in content["engines"].items():
        embeddings = read_embeddings(out / name / "embeddings")
        assert embeddings.image_id.tolist() == table.of_split("test").image_id.tolist()
        evaluation = read_evaluation(out / name / "evaluation")
        assert evaluation.parents["embeddings"] == embeddings.digest
        assert row["at_5"]["precision"]["measured"] == evaluation.overall.at_k[5].measured.macro.precision
        assert not (out / name / "shards").exists()
    open_artifact(out, engines.KIND)


def test_the_table_has_a_row_an_engine_and_the_reason_of_what_cannot_run(compared: tuple[Path, str]) -> None:
    out, printed = compared
    text = (out / "engines.md").read_text()
    assert printed.startswith(text)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert {len(row) for row in rows} == {12}
    assert [row[0] for row in rows[2:]] == ["torch-fp32", "onnx-fp32", "chance", "tensorrt-fp16"]
    assert re.search(r"- tensorrt-fp16 has no result here: \S+ \S+", text)


def test_the_picture_is_a_document_of_its_own(compared: tuple[Path, str]) -> None:
    out, _ = compared
    text = (out / "quality-against-speed.svg").read_text()
    assert names_in(text) == {"torch-fp32", "onnx-fp32"}
    assert "chance 0." in text
    assert "href" not in text
    assert "url(" not in text


def names_in(svg: str) -> set[str]:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return {str(label.text) for label in found if label.get("class") == "name"}


def test_a_finished_run_is_reused(
    compared: tuple[Path, str], bundle: Path, table: StudyTable, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = compared
    before = (out / "engines.json").read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/*/manifest.json")}
    assert len(stamps) == 6
    assert main(command(bundle, table, out)) == 0
    assert "unchanged, reused: torch-fp32, onnx-fp32" in capsys.readouterr().out
    assert main(command(bundle, table, out, "--json")) == 0
    assert strict(capsys.readouterr().out)["reused"] == ["torch-fp32", "onnx-fp32"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (out / "engines.json").read_bytes() == before


def test_an_engine_with_another_file_is_measured_anew(
    compared: tuple[Path, str], bundle: Path, table: StudyTable, tmp_path: Path
) -> None:
    out, other = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (compared[0], bundle))
    engine = other / "onnx-fp32" / "encoder.onnx"
    model = onnx.load(engine)
    model.doc_string = "the same numbers from another file"
    onnx.save(model, engine)
    reseal(other)
    speed = SpeedSettings(latency_radiographs=3, processes=1)
    found = compare_engines(other, table, out, EnginesSettings(speed=speed))
    assert found.reused == ["torch-fp32"]
    stated = json.loads((out / "engines.json").read_text())["engines"]["onnx-fp32"]["files"]["onnx-fp32/encoder.onnx"]
    assert stated["size"] == engine.stat().st_size
    assert compare_engines(other, table, out, EnginesSettings(speed=speed)).reused == ["torch-fp32", "onnx-fp32"]


def test_an_engine_that_overflows_is_left_out_in_words(
    compared: tuple[Path, str], bundle: Path, table: StudyTable, tmp_path: Path
) -> None:
    out, other = (Path(shutil.copytree(path, tmp_path / path.name)) for path in (compared[0], bundle))
    engine = other / "onnx-fp32" / "region_backbone.onnx"
    model = onnx.load(engine)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full_like(values, np.nan), tensor.name))
    onnx.save(model, engine)
    reseal(other)
    found = compare_engines(other, table, out, EnginesSettings(speed=SpeedSettings(3, processes=1)))
    assert [result.name for result in found.results] == ["torch-fp32"]
    assert "not finite" in found.left_out["onnx-fp32"]


KILLED = """
import os, signal, sys
from pathlib import Path
from chextriev.eval import engine_embeddings
from chextriev.eval.engines import compare_engines
from chextriev.study_table import read_study_table
from tests.eval.test_engines import ALONE

sealed, sealing = [], engine_embeddings.seal
def die_within_the_second_shard(directory, *rest):
    if sealed:
        os.kill(os.getpid(), signal.SIGKILL)
    sealed.append(directory)
    return sealing(directory, *rest)
engine_embeddings.seal = die_within_the_second_shard
compare_engines(sys.argv[1], read_study_table(sys.argv[2]), sys.argv[3], ALONE)
"""


def test_a_killed_run_goes_on_after_its_last_whole_shard(
    compared: tuple[Path, str], bundle: Path, table: StudyTable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [sys.executable, "-c", KILLED, str(bundle), str(table.image_root / "study"), str(out)]
    killed = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shards = out / "torch-fp32" / "shards"
    assert [path.name for path in shards.glob("[0-9]*")] == ["00000"]
    assert list(shards.glob(".00001.tmp-*"))
    assert not (out / "torch-fp32" / "embeddings").exists()
    assert not (out / "engines.json").exists()

    compare_engines(bundle, table, out, ALONE)
    assert not shards.exists()
    assert not list(out.rglob("*.tmp-*"))
    assert read_manifest(out / "torch-fp32" / "embeddings", "embeddings").facts["resumed"] == ALONE.shard_rows
    resumed, whole = (read_embeddings(folder / "torch-fp32" / "embeddings") for folder in (out, compared[0]))
    assert resumed.image_id.tolist() == whole.image_id.tolist()
    np.testing.assert_allclose(resumed.vectors, whole.vectors, atol=1e-5)


@pytest.fixture
def own(tmp_path: Path) -> StudyTable:
    """Radiographs that a test may spoil: rows 0 and 1 are of the train split."""
    return write_tiny_table(tmp_path / "own", per_split=(2, 0, TEST_ROWS))


def test_unreadable_radiographs_are_listed_and_tried_again(bundle: Path, own: StudyTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spoilt = {row: own.image_path(row).read_bytes() for row in (2, 7, TEST_ROWS + 1)}
    for row, content in spoilt.items():
        own.image_path(row).write_bytes(content[:300])
    first = compare_engines(bundle, own, out, ALONE)
    assert first.as_dict()["data"]["quarantined"] == 3
    lines = (out / "quarantine.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines] == [
        ["row", "image_id", "reason"],
        *([str(row - 2), f"image-{row:03d}", "UnreadableImage"] for row in spoilt),
    ]
    assert str(tmp_path) not in "".join(lines)
    assert "3 more cannot be read" in (out / "engines.md").read_text()
    kept = [f"image-{row:03d}" for row in range(2, TEST_ROWS + 2) if row not in spoilt]
    assert read_embeddings(out / "torch-fp32" / "embeddings").image_id.tolist() == kept
    assert compare_engines(bundle, own, out, ALONE).reused == ["torch-fp32"]

    own.image_path(7).write_bytes(spoilt[7])
    mended = compare_engines(bundle, own, out, ALONE)
    assert mended.as_dict()["data"]["quarantined"] == 2
    assert "image-007" in read_embeddings(out / "torch-fp32" / "embeddings").image_id


def test_a_split_without_any_readable_image_is_refused(bundle: Path, own: StudyTable, tmp_path: Path) -> None:
    away = replace(own, image_root=tmp_path / "elsewhere")
    with pytest.raises(EmptySplit, match="all images of the split are unreadable"):
        compare_engines(bundle, away, tmp_path / "out", ALONE)


def test_fresh_processes_that_fail_are_told_of(
    bundle: Path, own: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_speed.sys, "executable", "/bin/false")
    found = compare_engines(bundle, own, tmp_path / "out", ALONE)
    speed = found.reference.speed
    assert (speed.cold_start_s, speed.peak_memory_bytes) == (None, None)
    assert speed.remarks == ("a fresh process ended with status 1",)
    assert "- torch-fp32: a fresh process ended with status 1" in (tmp_path / "out" / "engines.md").read_text()
    strict((tmp_path / "out" / "engines.json").read_text())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--engines", "abacus"], "UnknownEngine: no engine 'abacus' in"),
        (["--split", "validate"], "EmptySplit: the study table has no radiograph in split 'validate'"),
        (["--split", "holdout"], "InvalidSetting: no split 'holdout'"),
        (["--device", "tpu"], "InvalidSetting: eval engines: device 'tpu'; choose one of cpu, cuda"),
        (["--processes", "0"], "InvalidSetting: eval engines: processes is 0"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    bundle: Path,
    table: StudyTable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    expected: str,
) -> None:
    assert main(command(bundle, table, tmp_path / "out", *more)) == EXIT_REFUSED
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_compared_is_refused(bundle: Path, table: StudyTable, tmp_path: Path) -> None:
    healthy = replace(table, image_findings=np.zeros_like(table.image_findings))
    with pytest.raises(InvalidValue, match="no radiograph of split 'test' is known to have a finding"):
        compare_engines(bundle, healthy, tmp_path / "out", ALONE)
    with pytest.raises(InvalidSetting, match="shard_rows is 0"):
        EnginesSettings(shard_rows=0)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists, match="holds no engine comparison"):
        compare_engines(bundle, table, tmp_path, ALONE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_engine_is_no_engine_that_cannot_run(bundle: Path, table: StudyTable, tmp_path: Path) -> None:
    other = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    weights = other / "torch-fp32" / "encoder.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedArtifact, match=r"encoder\.pt differs from its manifest"):
        compare_engines(other, table, tmp_path / "out", ALONE)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A folder that another run is writing to."""
    out = tmp_path / "out"
    out.mkdir()
    with (out / engines.LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield out


def test_one_run_at_a_time_writes_to_a_folder(bundle: Path, table: StudyTable, busy: Path) -> None:
    with pytest.raises(OutputExists, match="another run is writing to"):
        compare_engines(bundle, table, busy, ALONE)
    assert [path.name for path in busy.iterdir()] == [engines.LOCK_FILE]
