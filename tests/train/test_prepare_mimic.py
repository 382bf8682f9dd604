"""MIMIC-CXR-JPG with Chest ImaGenome into a study table: the rules, the quarantine, wrong layouts."""

import csv
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from chextriev.anatomy import Finding, Region
from chextriev.cli import main
from chextriev.errors import (
    BoxOutside,
    EmptySplit,
    InvalidSetting,
    InvalidValue,
    MissingColumn,
    MissingFile,
    MissingRow,
    NotFrontal,
    OutputExists,
    TruncatedArchive,
)
from chextriev.study_table import read_study_table
from chextriev.train import prepare as prepare_module
from chextriev.train.prepare import prepare
from chextriev.train.study_source import PrepareSettings
from tests.tiny import boxes
from tests.train.data_sets import MimicData, scene_graph, write_image, write_rows, write_zip


@pytest.fixture
def data(tmp_path: Path) -> MimicData:
    return MimicData(tmp_path / "data")


def quarantine(out: Path) -> list[tuple[str, str]]:
    with (out / "quarantine.csv").open(newline="") as stream:
        return [(row["image_id"], row["reason"]) for row in csv.DictReader(stream)]


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv"])
def test_a_mirror_becomes_a_table(data: MimicData, tmp_path: Path, suffix: str) -> None:
    phrases = [["anatomicalfinding|yes|lung opacity"]]
    data.graphs["aa1-bb"]["attributes"] = [{"bbox_name": "left lung", "attributes": phrases}]
    prepared = prepare(data.write(suffix=suffix), tmp_path / "out")
    table = read_study_table(tmp_path / "out")
    assert list(table.image_id) == ["aa0-bb", "aa1-bb", "aa2-bb", "aa3-bb"]
    assert list(table.split) == ["train", "train", "validate", "test"]
    assert (table.patient_id[2], table.study_id[2], table.view[2], table.sex[2], table.age[2]) == (
        ("1200", "50002", "PA", "F", 55)
    )
    assert table.path[2] == "files/p12/p1200/s50002/aa2-bb.jpg"
    assert table.radiograph(2).pixels.shape == (table.height[2], table.width[2])
    assert (table.boxes_xyxy == boxes().xyxy).all()
    assert table.image_findings.sum() == table.image_findings[1, Finding.LUNG_OPACITY] == 1
    assert table.region_findings[1, Region.LEFT_LUNG, Finding.LUNG_OPACITY] == 1
    assert prepared.summary["quarantined"] == {}
    assert str(prepared).startswith("study table: 4 radiographs kept (train 2, validate 1, test 1), 0 quarantined")


@pytest.mark.parametrize("nested", ["scene_graph", "scene_graph/scene_graph"])
def test_an_unzipped_folder_gives_the_same_table(data: MimicData, tmp_path: Path, nested: str) -> None:
    first = prepare(data.write(), tmp_path / "zip").manifest
    with zipfile.ZipFile(data.zip) as archive:
        archive.extractall((data.silver / nested).parent)
    data.zip.unlink()
    assert prepare(data.folder, tmp_path / "folder").manifest.digest == first.digest


def test_the_two_folders_may_be_named_apart(data: MimicData, tmp_path: Path) -> None:
    data.write()
    shutil.move(data.silver, tmp_path / "elsewhere")
    settings = PrepareSettings(mimic=data.mimic, imagenome=tmp_path / "elsewhere")
    assert prepare(tmp_path / "data", tmp_path / "out", settings=settings).summary["kept"] == 4


def _lateral(data: MimicData) -> None:
    data.metadata[0]["ViewPosition"] = "LL"


def _no_split_row(data: MimicData) -> None:
    data.graphs["ff-none"] = scene_graph("ff-none")


def _no_metadata_row(data: MimicData) -> None:
    del data.metadata[0]


def _no_size(data: MimicData) -> None:
    data.metadata[0]["Rows"] = ""


def _unreadable(data: MimicData) -> None:
    data.graphs["aa0-bb"] = "{"


def _missing_box(data: MimicData) -> None:
    del data.graphs["aa0-bb"]["objects"][4]


def _two_boxes(data: MimicData) -> None:
    data.graphs["aa0-bb"]["objects"].append(data.graphs["aa0-bb"]["objects"][4])


def _empty_box(data: MimicData) -> None:
    data.graphs["aa0-bb"]["objects"][4]["original_x2"] = -5


def _box_outside(data: MimicData) -> None:
    data.graphs["aa0-bb"]["objects"][4] |= {"original_x1": 500, "original_x2": 600}


def _twice(data: MimicData) -> None:
    data.graphs["copy"] = scene_graph("aa0-bb")


FAULTS: list[tuple[Callable[[MimicData], None], str, str]] = [
    (_lateral, "aa0-bb", "NotFrontal"),
    (_no_split_row, "ff-none", "MissingRow"),
    (_no_metadata_row, "aa0-bb", "MissingRow"),
    (_no_size, "aa0-bb", "InvalidValue"),
    (_unreadable, "aa0-bb", "UnreadableSceneGraph"),
    (_missing_box, "aa0-bb", "MissingRegion"),
    (_two_boxes, "aa0-bb", "DuplicateRegion"),
    (_empty_box, "aa0-bb", "EmptyBox"),
    (_box_outside, "aa0-bb", "BoxOutside"),
    (_twice, "aa0-bb", "DuplicateImage"),
]


@pytest.mark.parametrize(("spoil", "image_id", "reason"), FAULTS)
def test_a_fault_of_one_image_is_quarantined(
    data: MimicData, tmp_path: Path, spoil: Callable[[MimicData], None], image_id: str, reason: str
) -> None:
    spoil(data)
    prepared = prepare(data.write(), tmp_path / "out")
    assert quarantine(tmp_path / "out") == [(image_id, reason)]
    assert prepared.summary["quarantined"] == {reason: 1}
    assert prepared.summary["kept"] == len(data.graphs) - 1


@pytest.mark.parametrize(
    ("spoil", "error"), [(_lateral, NotFrontal), (_no_split_row, MissingRow), (_box_outside, BoxOutside)]
)
def test_strict_makes_the_first_fault_an_error(
    data: MimicData, tmp_path: Path, spoil: Callable[[MimicData], None], error: type[Exception]
) -> None:
    spoil(data)
    with pytest.raises(error, match=r"aa0-bb|ff-none"):
        prepare(data.write(), tmp_path / "out", settings=PrepareSettings(strict=True))
    assert not (tmp_path / "out").exists()


def test_a_blank_view_position_leaves_the_word_to_the_scene_graph(data: MimicData, tmp_path: Path) -> None:
    data.metadata[0]["ViewPosition"] = ""
    prepare(data.write(), tmp_path / "out")
    assert list(read_study_table(tmp_path / "out").view) == ["AP", "PA", "PA", "PA"]


def test_boxes_past_the_border_stay(data: MimicData, tmp_path: Path) -> None:
    data.graphs["aa0-bb"]["objects"][4] |= {"original_x1": -30, "original_y2": 5000}
    prepare(data.write(), tmp_path / "out")
    assert read_study_table(tmp_path / "out").boxes_xyxy[0, 4, [0, 3]].tolist() == [-30, 5000]


def test_images_to_avoid_are_avoided(data: MimicData, tmp_path: Path) -> None:
    data.write()
    (data.silver / "splits").mkdir()
    write_rows(data.silver / "splits/images_to_avoid.csv", [{"dicom_id": "aa1-bb"}])
    prepare(data.folder, tmp_path / "out")
    assert quarantine(tmp_path / "out") == [("aa1-bb", "AvoidedImage")]


def test_missing_and_empty_files_are_left_out_until_they_come(data: MimicData, tmp_path: Path) -> None:
    data.write()
    missing, empty = (data.image(row) for row in data.split[:2])
    missing.unlink()
    empty.write_bytes(b"")
    prepare(data.folder, tmp_path / "out")
    assert quarantine(tmp_path / "out") == [("aa0-bb", "MissingFile"), ("aa1-bb", "UnreadableImage")]
    unchecked = prepare(data.folder, tmp_path / "other", settings=PrepareSettings(check_files=False))
    assert unchecked.summary["kept"] == 4
    write_image(missing)
    assert prepare(data.folder, tmp_path / "out").summary["kept"] == 3


def test_a_truncated_zip_leaves_nothing(data: MimicData, tmp_path: Path) -> None:
    data.write()
    data.zip.write_bytes(data.zip.read_bytes()[:-40])
    with pytest.raises(TruncatedArchive, match=r"scene_graph\.zip"):
        prepare(data.folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_truncated_table_is_named(data: MimicData, tmp_path: Path) -> None:
    data.write()
    path = data.mimic / "mimic-cxr-2.0.0-split.csv.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TruncatedArchive, match=r"split\.csv\.gz"):
        prepare(data.folder, tmp_path / "out")


def test_everything_left_out_is_an_error_with_the_reasons(data: MimicData, tmp_path: Path) -> None:
    for row in data.metadata:
        row["ViewPosition"] = "LATERAL"
    with pytest.raises(EmptySplit, match="NotFrontal 4"):
        prepare(data.write(), tmp_path / "out")


def test_one_empty_split_is_stated(data: MimicData, tmp_path: Path) -> None:
    del data.graphs["aa2-bb"]
    prepared = prepare(data.write(), tmp_path / "out")
    assert "split validate is empty" in prepared.summary["remarks"]


def test_a_patient_in_two_splits_is_an_error(data: MimicData, tmp_path: Path) -> None:
    data.split[3]["subject_id"] = data.split[0]["subject_id"]
    with pytest.raises(InvalidValue, match="patient 1000 has images in train and in test"):
        prepare(data.write(), tmp_path / "out")


@pytest.mark.parametrize(("key", "value"), [("split", "valid"), ("subject_id", "../1"), ("study_id", "")])
def test_a_wrong_cell_names_file_line_and_column(data: MimicData, tmp_path: Path, key: str, value: str) -> None:
    data.split[2][key] = value
    with pytest.raises(InvalidValue, match=rf"mimic-cxr-2\.0\.0-split\.csv\.gz, line 4: {key} is"):
        prepare(data.write(), tmp_path / "out")


def test_a_missing_column_names_the_file(data: MimicData, tmp_path: Path) -> None:
    for row in data.metadata:
        del row["Rows"]
    with pytest.raises(MissingColumn, match=r"metadata\.csv\.gz has no column Rows"):
        prepare(data.write(), tmp_path / "out")


def test_half_a_layout_says_what_is_missing(data: MimicData, tmp_path: Path) -> None:
    data.write()
    (data.mimic / "mimic-cxr-2.0.0-metadata.csv.gz").unlink()
    with pytest.raises(MissingFile, match="metadata"):
        prepare(data.folder, tmp_path / "out")
    data.zip.unlink()
    with pytest.raises(MissingFile, match="--imagenome"):
        prepare(data.folder, tmp_path / "out")


def test_two_copies_of_a_data_set_must_be_told_apart(data: MimicData, tmp_path: Path) -> None:
    data.write()
    shutil.copytree(data.silver, data.folder / "copy" / "silver_dataset")
    with pytest.raises(InvalidSetting, match=r"is there twice.*--imagenome"):
        prepare(data.folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_neither_layout_says_what_was_looked_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFile, match=r"images\.csv|is not a folder"):
        prepare(tmp_path / name, tmp_path / "out")


def test_the_same_work_is_reused_and_says_so(
    data: MimicData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "prepare", str(data.write()), str(tmp_path / "out")]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("study table: 4 radiographs")
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("unchanged, reused: 4 radiographs")
    assert main([*words, "--force"]) == 0
    assert capsys.readouterr().out.startswith("study table: 4 radiographs")
    data.graphs["aa0-bb"]["age_decile"] = "20-30"
    write_zip(data.zip, data.graphs)
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("study table: 4 radiographs")


def test_a_data_set_that_moved_is_read_again(data: MimicData, tmp_path: Path) -> None:
    prepare(data.write(), tmp_path / "out")
    data.folder.rename(tmp_path / "moved")
    assert not prepare(tmp_path / "moved", tmp_path / "out").reused
    assert read_study_table(tmp_path / "out").radiograph(0).image_id == "aa0-bb"


def test_an_image_replaced_under_its_name_makes_another_table(data: MimicData, tmp_path: Path) -> None:
    first = prepare(data.write(), tmp_path / "out").manifest
    image = data.image(data.split[1])
    image.write_bytes(image.read_bytes() + b"\0")
    second = prepare(data.folder, tmp_path / "out")
    assert not second.reused
    assert second.manifest.files == first.files
    assert second.manifest.digest != first.digest
    assert prepare(data.folder, tmp_path / "out").reused


def test_an_image_that_went_is_left_out_of_the_next_table(data: MimicData, tmp_path: Path) -> None:
    prepare(data.write(), tmp_path / "out")
    data.image(data.split[1]).unlink()
    assert prepare(data.folder, tmp_path / "out").summary["quarantined"] == {"MissingFile": 1}


def test_a_copied_data_set_keeps_its_digest(data: MimicData, tmp_path: Path) -> None:
    first = prepare(data.write(), tmp_path / "out").manifest
    shutil.copytree(data.folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for image in (tmp_path / "copy").rglob("*.jpg"):
        os.utime(image, (0, 0))
    assert prepare(tmp_path / "copy", tmp_path / "other").manifest.digest == first.digest


def test_changed_images_are_not_noticed_where_none_is_looked_at_and_that_is_said(
    data: MimicData, tmp_path: Path
) -> None:
    unchecked = PrepareSettings(check_files=False)
    prepared = prepare(data.write(), tmp_path / "out", settings=unchecked)
    assert "images" not in prepared.manifest.recipe.parents
    assert "images which change later are not noticed" in "; ".join(prepared.summary["remarks"])
    data.image(data.split[1]).write_bytes(b"other")
    assert prepare(data.folder, tmp_path / "out", settings=unchecked).reused


def test_an_interrupt_leaves_nothing(data: MimicData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_module, "write_study_parquet", interrupt)
    assert main(["data", "prepare", str(data.write()), str(tmp_path / "out")]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_output_of_somebody_else_is_refused(data: MimicData, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("")
    with pytest.raises(OutputExists):
        prepare(data.write(), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["thesis.txt"]
