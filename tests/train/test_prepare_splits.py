"""The split of a plain table: from files beside it, or from a hash of the patient."""

from collections import Counter
from pathlib import Path

import pytest

from chextriev.errors import InvalidValue, MissingFile
from chextriev.study_table import read_study_table
from chextriev.train.plain_splits import hashed_split
from chextriev.train.prepare import prepare
from tests.train.data_sets import PlainData, write_rows


@pytest.fixture
def data(tmp_path: Path) -> PlainData:
    return PlainData(tmp_path / "data")


def test_the_hashed_split_has_its_shares() -> None:
    shares = Counter(hashed_split(f"patient {number}") for number in range(10_000))
    assert [round(shares[name] / 10_000, 1) for name in ("train", "validate", "test")] == [0.7, 0.1, 0.2]


def write_splits(data: PlainData, names: dict[str, list[str]]) -> None:
    (data.folder / "splits").mkdir(parents=True)
    for name, images in names.items():
        rows = [{"": row, "subject_id": f"s-{i}", "study_id": "9", "dicom_id": i} for row, i in enumerate(images)]
        write_rows(data.folder / "splits" / f"{name}.csv", rows)


def test_split_files_stand_in_for_columns(data: PlainData) -> None:
    data.drop("split", "study_id", "patient_id")
    write_splits(data, {"train": ["im-3", "im-2"], "valid": ["im-1"], "test": ["gone"]})
    prepared = prepare(data.write(), data.folder.parent / "out")
    table = read_study_table(prepared.directory)
    assert list(table.split) == ["validate", "train", "train"]
    assert table.patient_id[0] == "s-im-1"
    assert set(table.study_id) == {"9"}
    assert prepared.summary["quarantined"] == {"MissingRow": 1}


def test_an_image_in_two_split_files_is_an_error(data: PlainData) -> None:
    data.drop("split")
    write_splits(data, {"train": ["im-0", "im-1"], "valid": ["im-2"], "test": ["im-3", "im-0"]})
    with pytest.raises(InvalidValue, match=r"test\.csv: image im-0 stands in train\.csv too"):
        prepare(data.write(), data.folder.parent / "out")


def test_half_the_split_files_are_an_error(data: PlainData) -> None:
    data.drop("split")
    write_splits(data, {"train": ["im-0"]})
    with pytest.raises(MissingFile, match=r"valid\.csv does not exist"):
        prepare(data.write(), data.folder.parent / "out")
