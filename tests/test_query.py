"""`chextriev query` of a file from an archive: without boxes, checked, and reported."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from chextriev.cli import main
from chextriev.embedding_set import read_embeddings
from chextriev.encoder import open_encoder
from chextriev.export.embed import embed_table
from chextriev.index.build import build_index
from chextriev.uid_key import UidKey
from tests.dicom_files import JPEG_LS, PLANTED, as_bytes, chest, data_set
from tests.export.tiny_bundle import TinyBundle

Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def index(regions_made: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("query")
    embed_table(open_encoder(regions_made.folder), regions_made.table, folder / "embeddings")
    build_index(read_embeddings(folder / "embeddings"), folder / "index")
    return folder / "index"


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    path = tmp_path / "image.dcm"
    path.write_bytes(as_bytes(data_set(SeriesInstanceUID="1.2.3.4.6"), JPEG_LS))
    return path


@pytest.fixture
def ask(regions: TinyBundle, index: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*words: object) -> dict[str, Any]:
        start = ["query", "--bundle", regions.folder, "--index", index, "--json", *words]
        assert main([str(word) for word in start]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_a_dicom_file_needs_no_boxes(ask: Ask, dicom: Path) -> None:
    found = ask(dicom, "-k", 5)
    assert len(found["hits"]) == 5
    assert "mean layout" in found["boxes_source"]
    assert "mean layout" in found["remark"]
    assert "look at the boxes" in found["remark"]
    assert np.shape(found["boxes"]) == (18, 4)
    assert PLANTED not in json.dumps(found)


def test_a_localizer_proposes_them(ask: Ask, dicom: Path, localizer: TinyBundle) -> None:
    found = ask(dicom, "--localizer", localizer.folder)
    assert found["boxes_source"].startswith("localizer ")
    assert np.shape(found["box_confidence"]) == (18,)
    assert found["boxes"] != ask(dicom)["boxes"]


def test_boxes_that_are_given_are_not_proposed(ask: Ask, dicom: Path, tmp_path: Path) -> None:
    from chextriev.anatomy import Region
    from tests.tiny import boxes

    rows = boxes().xyxy.tolist()
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({region.label: row for region, row in zip(Region, rows, strict=True)}))
    found = ask(dicom, "--boxes", path)
    assert found["boxes_source"] == "given"
    assert found["boxes"] == rows
    assert found["box_confidence"] is None


def test_a_key_gives_the_same_id_again(ask: Ask, dicom: Path, tmp_path: Path) -> None:
    UidKey.create(tmp_path / "key")
    first, second = (ask(dicom, "--uid-key", tmp_path / "key")["query"] for _ in range(2))
    assert first == second != ask(dicom)["query"]


def test_a_picture_has_the_id_that_import_gave_it(ask: Ask, tmp_path: Path) -> None:
    from chextriev.localizer import MeanLayout
    from chextriev.reading import ReadSettings
    from chextriev.train.import_radiographs import ImportSettings, import_radiographs

    (tmp_path / "files").mkdir()
    Image.fromarray(chest(8).astype(np.uint8)).save(tmp_path / "files" / "a.png")
    settings = ImportSettings(ReadSettings(key=UidKey.create(tmp_path / "key")))
    import_radiographs(tmp_path / "files", tmp_path / "imported", MeanLayout(), settings=settings)
    (imported,) = (tmp_path / "imported" / "images").iterdir()
    assert ask(tmp_path / "files" / "a.png", "--uid-key", tmp_path / "key")["query"] == imported.stem
    assert ask(tmp_path / "files" / "a.png")["query"] == "a"


def test_a_report_needs_a_dicom_file(
    regions: TinyBundle, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(chest(8).astype(np.uint8)).save(tmp_path / "a.png")
    words = ["query", str(tmp_path / "a.png"), "--bundle", str(regions.folder), "--index", str(index)]
    assert main([*words, "--report", str(tmp_path / "report.dcm")]) == 2
    assert "study of a DICOM file" in capsys.readouterr().err
    assert not (tmp_path / "report.dcm").exists()


def test_strict_refuses_what_is_no_chest(
    ask: Ask, regions: TinyBundle, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 280)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    found = ask(tmp_path / "noise.png")
    assert found["quality"]["reasons"]
    assert "may be unfit" in found["remark"]
    words = ["query", str(tmp_path / "noise.png"), "--bundle", str(regions.folder), "--index", str(index), "--strict"]
    assert main(words) == 2
    assert "UnfitRadiograph" in capsys.readouterr().err


def test_the_report_is_a_structured_report_of_the_patient(ask: Ask, dicom: Path, tmp_path: Path) -> None:
    found = ask(dicom, "-k", 3, "--report", tmp_path / "report.dcm")
    report = pydicom.dcmread(BytesIO((tmp_path / "report.dcm").read_bytes()))
    assert report.Modality == "SR"
    assert report.PatientName == PLANTED
    assert report.StudyInstanceUID == pydicom.dcmread(dicom, stop_before_pixels=True).StudyInstanceUID
    assert all(hit["id"] in str(report) for hit in found["hits"])
    assert "names the patient" in found["remark"]


@pytest.mark.parametrize("name", ["image.dcm", "other.txt", "folder"])
def test_a_report_overwrites_nothing(
    name: str, dicom: Path, regions_made: TinyBundle, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The name of the query given twice would cost the radiograph."""
    (tmp_path / "other.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    before = dicom.read_bytes()
    words = ["query", str(dicom), "--bundle", str(regions_made.folder), "--index", str(index)]
    assert main([*words, "--report", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert "a folder" in said if name == "folder" else "exists; a report overwrites nothing" in said
    assert dicom.read_bytes() == before
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "image.dcm", "other.txt"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either an IMAGE or --dicomweb"),
        (["x.dcm", "--dicomweb", "https://archive.example/dicom-web"], "give either an IMAGE or --dicomweb"),
        (["x.dcm", "--study", "1.2.3"], "give --dicomweb URL too"),
        (["x.dcm", "--store"], "give --dicomweb URL too"),
        (["--dicomweb", "https://archive.example/dicom-web"], "--dicomweb needs one of --study"),
        (["--dicomweb", "http://archive.example/dicom-web", "--study", "1.2.3"], "http sends patient data"),
        (["x.dcm", "--image-number", "0"], "counted from 1"),
        (["x.dcm", "--report", "/no/such/folder/report.dcm"], "there is no folder"),
        (["x.dcm", "--server", "127.0.0.1:1"], "give either --bundle"),
        (["x.dcm", "--boxes", "b.json", "--localizer", "mean-layout"], "give either --boxes or --localizer"),
        (["x.dcm", "--localizer-engine", "onnx-int8"], "UnreadableImage"),
        (["x.dcm", "--uid-key", "no-such-key"], "no-such-key"),
    ],
)
def test_options_that_contradict_one_another_are_refused(
    words: list[str], said: str, regions_made: TinyBundle, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["query", *words, "--bundle", str(regions_made.folder), "--index", str(index)]) == 2
    assert said in capsys.readouterr().err


def test_embed_refuses_an_engine_of_no_localizer(
    regions_made: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As query does: the boxes of the table would be used, and nothing would say so."""
    words = ["embed", str(regions_made.folder), str(regions_made.study), str(tmp_path / "out")]
    assert main([*words, "--localizer-engine", "onnx-int8"]) == 2
    assert "give it with --localizer BUNDLE" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
