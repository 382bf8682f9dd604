"""The study table: what it refuses, how it is split and read, and that nothing changes on the way through Parquet."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from chextriev.errors import (
    CountMismatch,
    DamagedArtifact,
    DuplicateImage,
    EmptySplit,
    InvalidSetting,
    InvalidValue,
    NotAnArtifact,
)
from chextriev.study_table import STUDY_FILE, StudyTable, read_study_table, write_study_parquet
from tests.tiny import HEIGHT, WIDTH, make_tiny_table, write_tiny_table


@pytest.fixture
def table() -> StudyTable:
    return make_tiny_table(["train", "train", "validate", "validate", "train"])


def test_every_column_survives_the_disk(tmp_path: Path) -> None:
    written = make_tiny_table(["train"] * 3 + ["validate"] * 2 + ["test"])
    read = write_tiny_table(tmp_path, per_split=(3, 2, 1))
    for column in fields(StudyTable):
        if column.name not in ("image_root", "digest"):
            one, other = getattr(written, column.name), getattr(read, column.name)
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(one, other)
    assert read.image_root == tmp_path.resolve()
    assert len(read.digest) == 64


@pytest.mark.parametrize("column", ["view", "sex"])
def test_a_column_unknown_throughout_survives_the_disk(tmp_path: Path, column: str) -> None:
    import pyarrow.parquet

    table = make_tiny_table(["train"] * 3)
    table = replace(table, **{column: np.full(3, None, dtype=object)})
    write_study_parquet(table, tmp_path / "x.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "x.parquet").column(column).to_numpy().tolist() == [None] * 3


def test_a_split_keeps_its_rows_in_order(table: StudyTable) -> None:
    assert list(table.of_split("train").image_id) == ["image-000", "image-001", "image-004"]
    assert table.of_split("validate").boxes_xyxy.shape == (2, 18, 4)


def test_an_empty_split_names_what_there_is(table: StudyTable) -> None:
    with pytest.raises(EmptySplit, match=r"no radiograph in split 'test' .*train 3, validate 2, test 0"):
        table.of_split("test")
    with pytest.raises(InvalidSetting, match="no split 'dev'; choose one of train, validate, test"):
        table.of_split("dev")


def test_a_row_is_found_by_its_image(table: StudyTable) -> None:
    assert table.row_of("image-003") == 3
    with pytest.raises(InvalidValue, match="no image 'image-999'"):
        table.row_of("image-999")


def test_a_radiograph_is_read_from_the_table(tmp_path: Path) -> None:
    table = write_tiny_table(tmp_path)
    first, second = table.radiograph(0), table.radiograph(1)
    assert first.pixels.shape == (HEIGHT, WIDTH)
    assert (first.image_id, first.patient_id, first.view) == ("image-000", "patient-train-0", "AP")
    assert (first.age, second.age) == (None, 41)
    assert first.boxes.xyxy.tolist() == table.boxes(0).xyxy.tolist()


@pytest.mark.parametrize(
    ("column", "value", "error", "words"),
    [
        ("image_id", "image-000", DuplicateImage, "stands twice"),
        ("split", "dev", InvalidValue, "column split holds 'dev'; allowed are train, validate, test"),
        ("view", "LL", InvalidValue, "column view holds 'LL'"),
        ("sex", "x", InvalidValue, "column sex holds 'x'"),
        ("region_findings", 2, InvalidValue, "region_findings holds values outside"),
        ("image_findings", -2, InvalidValue, "image_findings holds values outside"),
    ],
)
def test_a_wrong_value_is_refused(
    table: StudyTable, column: str, value: object, error: type[Exception], words: str
) -> None:
    changed = getattr(table, column).copy()
    changed[1] = value
    with pytest.raises(error, match=words):
        replace(table, **{column: changed})


def test_columns_of_another_length_are_refused(table: StudyTable) -> None:
    with pytest.raises(CountMismatch, match=r"column boxes_xyxy has shape \[4, 18, 4\]; \[5, 18, 4\] is needed"):
        replace(table, boxes_xyxy=table.boxes_xyxy[:4])


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAnArtifact, match=r"manifest\.json"):
        read_study_table(tmp_path)


def test_an_altered_table_is_refused(tmp_path: Path) -> None:
    write_tiny_table(tmp_path)
    path = tmp_path / "study" / STUDY_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match=r"study\.parquet"):
        read_study_table(tmp_path / "study")
