"""images.csv and regions.csv into a study table: what is unknown stays unknown, and wrong tables are named."""

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Finding, Region
from chextriev.errors import (
    CountMismatch,
    InvalidSetting,
    InvalidValue,
    MissingColumn,
    MissingFile,
    UnknownFinding,
    UnknownRegion,
)
from chextriev.study_table import read_study_table
from chextriev.train.plain_splits import hashed_split
from chextriev.train.prepare import Prepared, prepare
from chextriev.train.study_source import PrepareSettings, any_over_regions
from tests.tiny import boxes
from tests.train.data_sets import PlainData, write_image

REAL = os.environ.get("CHEXTRIEV_REAL_DATA")


@pytest.fixture
def data(tmp_path: Path) -> PlainData:
    return PlainData(tmp_path / "data")


def run(data: PlainData, **settings: bool) -> Prepared:
    return prepare(data.write(), data.folder.parent / "out", settings=PrepareSettings(**settings))


def remarks(prepared: Prepared) -> str:
    return "; ".join(prepared.summary["remarks"])


def test_two_csv_files_become_a_table(data: PlainData) -> None:
    data.images.reverse()
    prepared = run(data)
    table = read_study_table(prepared.directory)
    assert list(table.image_id) == ["im-0", "im-1", "im-2", "im-3"]
    assert list(table.split) == ["train", "train", "validate", "test"]
    assert (table.patient_id[1], table.study_id[1], table.view[1], table.sex[1], table.age[1]) == (
        ("pt-1", "st-1", "AP", "M", -1)
    )
    assert (table.sex[2], table.age[2]) == (None, 61)
    assert (table.boxes_xyxy == boxes().xyxy).all()
    assert (table.region_findings == -1).all()
    assert (table.image_findings == 0).all()
    assert table.radiograph(3).patient_id == "pt-3"
    assert prepared.summary["remarks"] == []


def test_unknown_is_neither_present_nor_absent(data: PlainData) -> None:
    for row in data.images:
        row[Finding.PNEUMONIA.label] = ""
    for row in data.regions:
        row[Finding.PNEUMONIA.label] = ""
    for region in Region:
        data.region(0, region)[Finding.PNEUMONIA.label] = "0"
    data.region(1, Region.LEFT_LUNG)[Finding.PNEUMONIA.label] = "1"
    data.region(2, Region.LEFT_LUNG)[Finding.PNEUMONIA.label] = "0"
    table = read_study_table(run(data).directory)
    assert table.image_findings[:, Finding.PNEUMONIA].tolist() == [0, 1, -1, -1]


def test_the_image_table_stands_against_its_regions(data: PlainData) -> None:
    for row in data.regions:
        row[Finding.PNEUMONIA.label] = "1"
    prepared = run(data)
    assert (read_study_table(prepared.directory).image_findings == 0).all()
    assert "4 findings are absent by images.csv and present in a region" in remarks(prepared)


def test_any_over_regions_asks_those_that_can_carry() -> None:
    silent = np.full((1, N_REGIONS, N_FINDINGS), -1, np.int8)
    assert any_over_regions(silent).tolist() == [[-1] * N_FINDINGS]
    lungs = silent.copy()
    lungs[:, [*range(Region.MEDIASTINUM), Region.CARDIAC_SILHOUETTE]] = 0
    assert any_over_regions(lungs).tolist() == [[0] * N_FINDINGS]
    heart = silent.copy()
    heart[:, Region.CARDIAC_SILHOUETTE] = 0
    assert np.flatnonzero(any_over_regions(heart)[0] == 0).tolist() == [Finding.ENLARGED_CARDIAC_SILHOUETTE]


def test_columns_that_mean_nothing_are_listed(data: PlainData) -> None:
    for row in data.images:
        row["rsna_class"] = "Normal"
    assert "columns of images.csv that mean nothing here: rsna_class" in remarks(run(data))


def test_optional_columns_may_be_absent(data: PlainData) -> None:
    data.drop("width", "height", "patient_id", "study_id", "view", "sex", "age", "split")
    prepared = run(data)
    table = read_study_table(prepared.directory)
    assert list(table.patient_id) == list(table.study_id) == list(table.image_id)
    assert set(table.view) == {None}
    assert set(table.sex) == {None}
    assert set(table.age) == {-1}
    assert list(table.split) == [hashed_split(name) for name in table.image_id]
    for words in ("a patient of its own", "a study of its own", "70/10/20", "4 images state no view"):
        assert words in remarks(prepared)


def _blank_box(data: PlainData) -> None:
    data.region(0, Region.TRACHEA).update(x1="", y1="", x2="", y2="")


def _half_a_box(data: PlainData) -> None:
    data.region(0, Region.TRACHEA)["x1"] = ""


def _two_boxes(data: PlainData) -> None:
    data.region(0, Region.TRACHEA)["region"] = Region.LEFT_LUNG.label


def _empty_box(data: PlainData) -> None:
    data.region(0, Region.TRACHEA)["x2"] = 0


def _box_outside(data: PlainData) -> None:
    data.region(0, Region.TRACHEA).update(y1=120, y2=130)


def _lateral(data: PlainData) -> None:
    data.images[0]["view"] = "lateral"


def _wrong_size(data: PlainData) -> None:
    data.images[0]["width"] = 2048


def _blank_split(data: PlainData) -> None:
    data.images[0]["split"] = ""


def _twice(data: PlainData) -> None:
    data.images.append(data.images[0])


FAULTS: list[tuple[Callable[[PlainData], None], str]] = [
    (_blank_box, "MissingRegion"),
    (_half_a_box, "InvalidBox"),
    (_two_boxes, "DuplicateRegion"),
    (_empty_box, "EmptyBox"),
    (_box_outside, "BoxOutside"),
    (_lateral, "NotFrontal"),
    (_wrong_size, "InvalidValue"),
    (_blank_split, "MissingRow"),
    (_twice, "DuplicateImage"),
]


@pytest.mark.parametrize(("spoil", "reason"), FAULTS)
def test_a_fault_of_one_image_is_quarantined(data: PlainData, spoil: Callable[[PlainData], None], reason: str) -> None:
    spoil(data)
    prepared = run(data)
    with (prepared.directory / "quarantine.csv").open(newline="") as stream:
        assert [(row["image_id"], row["reason"]) for row in csv.DictReader(stream)] == [("im-0", reason)]
    assert prepared.summary["kept"] == len(data.images) - 1


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "MissingFile"), (b"", "UnreadableImage"), (b"x", "UnreadableImage")]
)
def test_a_file_that_is_no_image_is_quarantined(data: PlainData, content: bytes | None, reason: str) -> None:
    data.write()
    path = data.folder / "images/im-2.jpg"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    out = data.folder.parent / "out"
    assert prepare(data.folder, out).summary["quarantined"] == {reason: 1}
    assert prepare(data.folder, out, settings=PrepareSettings(check_files=False)).summary["kept"] == 4
    write_image(path)
    assert prepare(data.folder, out).summary["kept"] == 4


def test_an_image_replaced_under_its_name_makes_another_table(data: PlainData) -> None:
    first = run(data).manifest
    path, out = data.folder / "images/im-2.jpg", data.folder.parent / "out"
    path.write_bytes(path.read_bytes() + b"\0")
    second = prepare(data.folder, out)
    assert second.manifest.digest != first.digest
    assert prepare(data.folder, out).reused


def test_without_a_look_at_the_files_sizes_must_be_stated(data: PlainData) -> None:
    data.drop("height")
    with pytest.raises(MissingColumn, match="width and height are needed"):
        run(data, check_files=False)


def image_cell(key: str, value: str) -> Callable[[PlainData], None]:
    return lambda data: data.images[1].update({key: value})


def region_cell(key: str, value: str) -> Callable[[PlainData], None]:
    return lambda data: data.regions[1].update({key: value})


def renamed(old: str, new: str) -> Callable[[PlainData], None]:
    def spoil(data: PlainData) -> None:
        for row in data.images:
            row[new] = row.pop(old)

    return spoil


def _one_row_less(data: PlainData) -> None:
    del data.regions[20]


def _rows_of_nobody(data: PlainData) -> None:
    del data.images[0]


def _no_findings(data: PlainData) -> None:
    data.drop(*Finding.labels())


def _two_splits(data: PlainData) -> None:
    data.images[3]["patient_id"] = "pt-0"


STRUCTURE: list[tuple[Callable[[PlainData], None], type[Exception], str]] = [
    (image_cell("age", "old"), InvalidValue, r"images\.csv, line 3: age is 'old'"),
    (image_cell("age", "414"), InvalidValue, r"line 3: age is '414'; a number from 0 to 120"),
    (image_cell("sex", "X"), InvalidValue, r"line 3: sex is 'X'"),
    (image_cell("split", "dev"), InvalidValue, r"line 3: split is 'dev'"),
    (image_cell("width", "0"), InvalidValue, r"line 3: width is '0'"),
    (image_cell("patient_id", ""), InvalidValue, r"line 3: patient_id is ''"),
    (image_cell("pneumonia", "maybe"), InvalidValue, r"line 3: pneumonia is 'maybe'"),
    (image_cell("file", "../secret.jpg"), InvalidValue, r"line 3: file is '\.\./secret\.jpg'"),
    (image_cell("file", "/etc/hosts"), InvalidValue, r"line 3: file is '/etc/hosts'"),
    (region_cell("x1", "left"), InvalidValue, r"regions\.csv, line 3: x1 is 'left'"),
    (region_cell("x2", "1e39"), InvalidValue, r"regions\.csv, line 3: x2 is '1e39'; a number from -1e\+06"),
    (region_cell("region", "spleen"), UnknownRegion, r"no region 'spleen' in .*regions\.csv, line 3"),
    (renamed("pneumonia", "Pneumonia"), UnknownFinding, r"no finding 'Pneumonia' in .*images\.csv, header"),
    (renamed("lung opacity", "lung_opacity"), UnknownFinding, "lung_opacity"),
    (renamed("file", "path"), MissingColumn, r"images\.csv has no column file"),
    (_no_findings, MissingColumn, "no column of a finding"),
    (_one_row_less, CountMismatch, r"regions\.csv: image im-1 has 17 rows; 18 are needed"),
    (_rows_of_nobody, CountMismatch, r"regions\.csv, line 2: image 'im-0' is not in"),
    (_two_splits, InvalidValue, "patient pt-0 has images in train and in test"),
]


@pytest.mark.parametrize(("spoil", "error", "words"), STRUCTURE)
def test_a_fault_of_the_table_names_file_and_field(
    data: PlainData, spoil: Callable[[PlainData], None], error: type[Exception], words: str
) -> None:
    spoil(data)
    with pytest.raises(error, match=words):
        run(data)
    assert not (data.folder.parent / "out").exists()


def test_a_duplicated_column_is_an_error(data: PlainData) -> None:
    data.write()
    path = data.folder / "images.csv"
    path.write_text(path.read_text().replace("sex,age", "age,age", 1))
    with pytest.raises(InvalidValue, match="column 'age' stands twice"):
        prepare(data.folder, data.folder.parent / "out")


@pytest.mark.parametrize("content", ["", "image_id,file\nonly-one-cell\n", "image_id,file\n\xff"])
def test_a_file_that_is_no_table_is_named(data: PlainData, content: str) -> None:
    data.write()
    (data.folder / "images.csv").write_text(content, encoding="latin-1")
    with pytest.raises((InvalidValue, MissingColumn), match=r"images\.csv"):
        prepare(data.folder, data.folder.parent / "out")


def test_one_file_of_the_two_is_not_enough(data: PlainData) -> None:
    data.write()
    (data.folder / "regions.csv").unlink()
    with pytest.raises(MissingFile, match=r"has no regions\.csv"):
        prepare(data.folder, data.folder.parent / "out")


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="workers is 0"):
        PrepareSettings(workers=0)


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="CHEXTRIEV_REAL_DATA is not set")
def test_the_real_radiographs_are_all_kept(tmp_path: Path) -> None:
    summary = prepare(REAL or "", tmp_path / "out").summary
    assert summary["kept"] == 357
    assert summary["quarantined"] == {}
    assert summary["splits"] == {"train": 213, "validate": 71, "test": 73}
    assert [summary["positives"][finding.label] for finding in Finding] == [309, 55, 70, 8, 56, 10, 20, 0, 304]
    table = read_study_table(tmp_path / "out")
    assert len(set(table.patient_id)) == 288
    assert table.radiograph(0).pixels.shape == (512, 512)
