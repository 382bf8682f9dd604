"""Files of an archive become a table that `data prepare` takes, without boxes and without identifiers."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import N_REGIONS
from chextriev.cli import main
from chextriev.errors import EmptySplit, InvalidSetting, OutputExists, UnfitRadiograph
from chextriev.localizer import MeanLayout
from chextriev.reading import ReadSettings
from chextriev.study_table import read_study_table
from chextriev.train.import_radiographs import ImportSettings, import_radiographs
from chextriev.train.prepare import prepare
from chextriev.uid_key import UidKey
from tests.dicom_files import PLANTED, as_bytes, chest, data_set

KEYED = ImportSettings(ReadSettings(key=UidKey(bytes(32))))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two DICOM images of one patient, a photograph's worth of nothing, a text, and a picture in a folder."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    for number in (1, 2):
        pixels = chest() + np.uint16(number)
        content = as_bytes(data_set(pixels, SOPInstanceUID=f"1.2.3.{number}", ViewPosition=["AP", "PA"][number - 1]))
        (folder / f"{number}.dcm").write_bytes(content)
    Image.fromarray(chest(8).astype(np.uint8)).save(folder / "deep" / f"{PLANTED}.png")
    (folder / "notes.txt").write_text(PLANTED)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_files_become_a_study_table(files: Path, tmp_path: Path) -> None:
    manifest = import_radiographs(files, tmp_path / "imported", MeanLayout(), settings=KEYED)
    assert manifest.facts["radiographs"] == 3
    assert manifest.facts["quarantined"] == {"UnreadableImage": 1}
    assert "mean layout" in manifest.facts["boxes_source"]
    table = read_study_table(prepare(tmp_path / "imported", tmp_path / "table").directory)
    assert len(table) == 3
    assert sorted(view or "" for view in table.view) == ["", "AP", "PA"]
    assert sorted(table.age.tolist()) == [-1, 60, 60]
    assert len(set(table.patient_id)) == 2
    assert (table.image_findings == -1).all()
    radiograph = table.radiograph(0)
    assert radiograph.pixels.shape == (96, 80)
    assert np.allclose(radiograph.boxes.xyxy, MeanLayout().locate([radiograph.pixels]).boxes[0].xyxy)


def test_the_same_key_gives_the_same_ids_and_another_key_others(files: Path, tmp_path: Path) -> None:
    for name, byte in (("first", 0), ("second", 0), ("other", 1)):
        settings = ImportSettings(ReadSettings(key=UidKey(bytes([byte]) * 32)))
        import_radiographs(files, tmp_path / name, MeanLayout(), settings=settings)
    ids = {name: {row["image_id"] for row in rows(tmp_path / name / "images.csv")} for name in ("first", "other")}
    assert (tmp_path / "first" / "images.csv").read_bytes() == (tmp_path / "second" / "images.csv").read_bytes()
    assert not ids["first"] & ids["other"]


def test_no_identifier_and_no_name_of_a_file_is_written(files: Path, tmp_path: Path) -> None:
    import_radiographs(files, tmp_path / "imported", MeanLayout(), settings=KEYED)
    written = [path for path in (tmp_path / "imported").rglob("*") if path.is_file()]
    assert len(written) == 8
    for path in written:
        assert PLANTED not in str(path)
        assert not any(text.encode() in path.read_bytes() for text in (PLANTED, "Planted-0815", "1.2.3", "19500203"))


def test_names_of_pictures_are_kept_if_asked_for(files: Path, tmp_path: Path) -> None:
    settings = ImportSettings(KEYED.reading, keep_names=True)
    import_radiographs(files, tmp_path / "imported", MeanLayout(), settings=settings)
    assert f"deep_{PLANTED}" in {row["image_id"] for row in rows(tmp_path / "imported" / "images.csv")}


def test_an_archive_is_read_like_a_folder_and_an_image_once(files: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "files.zip", "w") as archive:
        for name in ("1.dcm", "2.dcm"):
            archive.write(files / name, name)
        archive.write(files / "1.dcm", "again.dcm")
    manifest = import_radiographs(tmp_path / "files.zip", tmp_path / "imported", MeanLayout(), settings=KEYED)
    assert manifest.facts["radiographs"] == 2
    assert manifest.facts["quarantined"] == {"DuplicateImage": 1}
    assert len(rows(tmp_path / "imported" / "regions.csv")) == 2 * N_REGIONS


def test_what_is_unfit_is_marked_or_with_strict_left_out(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (300, 280)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "files" / "noise.png")
    manifest = import_radiographs(tmp_path / "files", tmp_path / "marked", MeanLayout(), settings=KEYED)
    assert manifest.facts["unfit"] == 1
    (marked,) = rows(tmp_path / "marked" / "proposals.csv")
    assert "not a frontal chest radiograph" in marked["reasons"]
    with pytest.raises(EmptySplit, match=UnfitRadiograph.__name__):
        strict = ImportSettings(KEYED.reading, strict=True)
        import_radiographs(tmp_path / "files", tmp_path / "strict", MeanLayout(), settings=strict)
    assert not (tmp_path / "strict").exists()


def test_pictures_of_one_name_are_two_and_of_the_same_pixels_one(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    pixels = chest(8).astype(np.uint8)
    for name, shown in (("a.png", pixels), ("a.jpg", pixels[::-1]), ("b.png", pixels)):
        Image.fromarray(shown).save(tmp_path / "files" / name)
    manifest = import_radiographs(tmp_path / "files", tmp_path / "imported", MeanLayout(), settings=KEYED)
    assert manifest.facts["radiographs"] == 2
    assert manifest.facts["quarantined"] == {"DuplicateImage": 1}


def test_the_output_does_not_lie_in_the_source(files: Path) -> None:
    with pytest.raises(InvalidSetting, match="name a folder elsewhere"):
        import_radiographs(files, files / "out", MeanLayout(), settings=KEYED)
    assert not (files / "out").exists()


def test_something_else_is_not_overwritten(files: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists):
        import_radiographs(files, tmp_path / "mine", MeanLayout(), settings=KEYED)


def test_the_command_makes_a_key_and_says_what_comes_next(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, out = tmp_path / "uid.key", tmp_path / "imported"
    assert main(["data", "import", str(files), str(out), "--uid-key", str(key), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["radiographs"] == 3
    assert key.stat().st_mode & 0o777 == 0o600
    first = (out / "images.csv").read_bytes()
    assert main(["data", "import", str(files), str(out), "--uid-key", str(key)]) == 0
    assert "chextriev data prepare" in capsys.readouterr().out
    assert (out / "images.csv").read_bytes() == first
