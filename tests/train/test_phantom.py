"""Phantoms as they are written: the layout on disk, the scene graphs, the command."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.artifacts import open_artifact
from chextriev.cli import main
from chextriev.errors import InvalidSetting, OutputExists
from chextriev.radiograph import read_pixels
from chextriev.train.phantom.cases import SYNTHETIC, iterate_cases
from chextriev.train.phantom.dataset import KIND, PhantomSummary, write_phantoms
from chextriev.train.phantom.scene_graph import write_scene_graphs
from chextriev.train.prepare import prepare
from tests.train.data_sets import MimicData, PlainData
from tests.train.phantoms import PATIENTS, SEED, graphs_of, last_mentions, rows_of


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    out = tmp_path_factory.mktemp("phantom") / "set"
    return out, write_phantoms(out, patients=PATIENTS, seed=SEED)


def test_the_same_arguments_give_the_same_bytes(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", patients=PATIENTS, seed=SEED)
    first, again = (open_artifact(path, KIND) for path in (phantoms[0], tmp_path / "again"))
    assert first.files == again.files
    assert first.digest == again.digest


def test_files_lie_where_the_real_data_have_them(phantoms: tuple[Path, PhantomSummary]) -> None:
    out, summary = phantoms
    mimic = out / "mimic-cxr-jpg/2.0.0"
    split = rows_of(mimic / "mimic-cxr-2.0.0-split.csv.gz")
    metadata = {row["dicom_id"]: row for row in rows_of(mimic / "mimic-cxr-2.0.0-metadata.csv.gz")}
    assert list(split[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert len(split) == len(metadata) == summary.images == len(graphs_of(out))
    for row in split:
        subject, image_id = row["subject_id"], row["dicom_id"]
        path = mimic / f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{image_id}.jpg"
        pixels = read_pixels(path)
        assert [len(word) for word in image_id.split("-")] == [8] * 5
        assert pixels.shape == (int(metadata[image_id]["Rows"]), int(metadata[image_id]["Columns"]))
    assert {row["split"] for row in split} == {"train", "validate", "test"}


def test_imagenome_splits_have_an_unnamed_index_and_no_laterals(phantoms: tuple[Path, PhantomSummary]) -> None:
    folder = phantoms[0] / "chest-imagenome/1.0.0/silver_dataset/splits"
    for name in ("train", "valid", "test"):
        rows = rows_of(folder / f"{name}.csv")
        assert next(iter(rows[0])) == ""
        assert {row["ViewPosition"] for row in rows} <= {"AP", "PA"}
    assert (folder / "images_to_avoid.csv").read_text().startswith("subject_id,study_id,dicom_id")


def test_every_file_says_that_it_is_synthetic(phantoms: tuple[Path, PhantomSummary]) -> None:
    out, _ = phantoms
    for path in out.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert image.info["comment"].decode() == SYNTHETIC
            assert image.getexif()[0x010E] == SYNTHETIC
    assert all(graph["reason_for_exam"] == SYNTHETIC for graph in graphs_of(out).values())
    assert SYNTHETIC in (out / "README.txt").read_text()
    assert open_artifact(out, KIND).facts["synthetic"] == SYNTHETIC


def test_a_study_table_knows_phantoms_wherever_they_lie(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    assert prepare(phantoms[0], tmp_path / "study").synthetic
    shutil.copytree(phantoms[0], tmp_path / "parent/set")
    (tmp_path / "parent/set/manifest.json").unlink()
    assert prepare(tmp_path / "parent", tmp_path / "other").synthetic
    assert prepare(tmp_path / "parent", tmp_path / "other").synthetic  # reused
    real = MimicData(tmp_path / "real")
    assert not prepare(real.write(), tmp_path / "third").synthetic


def test_a_plain_table_of_phantoms_is_synthetic_too(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    data = PlainData(tmp_path / "data")
    data.drop("width", "height")
    assert not prepare(data.write(), tmp_path / "out").synthetic
    for row, drawn in zip(data.images, phantoms[0].rglob("*.jpg"), strict=False):
        shutil.copyfile(drawn, data.folder / row["file"])
    assert prepare(data.folder, tmp_path / "out").synthetic


def test_scene_graphs_say_what_was_drawn_and_where(phantoms: tuple[Path, PhantomSummary]) -> None:
    graphs = graphs_of(phantoms[0])
    overruled = 0
    for case in (case for group in iterate_cases(PATIENTS, SEED) for case in group if case.fault is None):
        graph = graphs[case.image_id]
        np.testing.assert_array_equal(last_mentions(graph), case.presentation.regions)
        boxes = {
            record["bbox_name"]: [record[f"original_{c}"] for c in ("x1", "y1", "x2", "y2")]
            for record in graph["objects"]
        }
        np.testing.assert_array_equal([boxes[name] for name in Region.labels()], case.layout.boxes())
        for record in graph["objects"][: len(Region)]:
            assert min(record["x1"], record["y1"]) >= 0
            assert max(record["x2"], record["y2"]) <= 224
        text = [{m.partition("|")[2] for p in record["attributes"] for m in p} for record in graph["attributes"]]
        overruled += sum(
            f"yes|{label}" in said and f"no|{label}" in said for said in text for label in Finding.labels()
        )
    assert overruled > 0


def test_the_summary_counts_faulty_images_apart(phantoms: tuple[Path, PhantomSummary]) -> None:
    _, summary = phantoms
    assert summary.faulty == {"lateral view": 1}
    assert sum(summary.splits.values()) == summary.images - 1
    assert "1 with a fault on purpose" in summary.sentence()


def test_scene_graphs_alone_have_real_size(tmp_path: Path) -> None:
    write_scene_graphs(tmp_path / "graphs.zip", 25, 0)
    with zipfile.ZipFile(tmp_path / "graphs.zip") as archive:
        sizes = [record.file_size for record in archive.infolist()]
    assert len(sizes) == 25
    assert 25_000 < np.mean(sizes) < 60_000


def test_too_few_patients_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="at least 10"):
        write_phantoms(tmp_path / "set", patients=9, seed=0)
    with pytest.raises(InvalidSetting, match="seed is -1"):
        write_phantoms(tmp_path / "set", patients=10, seed=-1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(OutputExists):
        write_phantoms(tmp_path / "mine", patients=10, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chextriev.train.phantom.dataset.write_member", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", patients=10, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "phantom", str(tmp_path / "set"), "--patients", "10", "--seed", "1"]) == 0
    assert "synthetic radiographs of 10 phantoms" in capsys.readouterr().out
    assert main(["data", "phantom", str(tmp_path / "other"), "--patients", "3"]) == 2
    assert "at least 10" in capsys.readouterr().err
