"""The quality check: what it refuses, what it does not, and what it says."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage
from PIL import Image

from chextriev.cli import main
from chextriev.errors import InvalidSetting, MissingFile, UnfitRadiograph, UnreadableImage
from chextriev.eval.quality_copies import Copy, copies, located_in
from chextriev.eval.quality_study import pictures_in, study_quality
from chextriev.eval.quality_text import render_quality
from chextriev.localizer import MeanLayout
from chextriev.quality import check_quality, require_fit
from chextriev.quality_model import QualityModel, read_quality_model, shipped_model
from chextriev.quality_view import inverted, look, mirrored, turned, view_of
from chextriev.radiograph import Radiograph
from chextriev.study_table import StudyTable, read_study_table
from chextriev.train.phantom.dataset import write_phantoms
from chextriev.train.prepare import prepare
from tests.made_once import made_once

PHOTOGRAPHS = Path(str(skimage.__file__)).parent / "data"
COPIES = {copy.name: copy for copy in copies()}
ALLOWED_FALSE_ALARMS = 0.05
REAL_FALSE_ALARMS = 3 / 73


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """Phantoms of another seed than the parameters were fitted to."""

    def make(folder: Path) -> None:
        write_phantoms(folder / "phantoms", patients=40, seed=77)
        prepare(folder / "phantoms", folder / "study")

    return read_study_table(made_once(tmp_path_factory, "quality-phantoms", make) / "study")


@pytest.fixture(scope="session")
def test_split(table: StudyTable) -> list[Radiograph]:
    part = table.of_split("test")
    return [part.radiograph(row) for row in range(len(part))]


def share_refused(copy: Copy, radiographs: list[Radiograph]) -> float:
    return float(np.mean([not check_quality(copy.make(each)[0]).fit for each in radiographs]))


@pytest.mark.parametrize("name", [name for name, copy in COPIES.items() if copy.expected is None])
def test_sound_images_pass(name: str, test_split: list[Radiograph]) -> None:
    assert share_refused(COPIES[name], test_split) <= ALLOWED_FALSE_ALARMS


@pytest.mark.parametrize(
    "name", [name for name, copy in COPIES.items() if copy.expected in ("inverted", "turned", "stretched", "blank")]
)
def test_faults_are_named(name: str, test_split: list[Radiograph]) -> None:
    copy = COPIES[name]
    for radiograph in test_split:
        quality = check_quality(copy.make(radiograph)[0])
        assert quality.score < 0.5
        assert copy.expected in [reason.kind for reason in quality.reasons]


@pytest.mark.parametrize(
    ("quarters", "sentence"),
    [
        (1, "turned by 90 degrees clockwise; turn it by 270 degrees clockwise"),
        (2, "turned by 180 degrees; turn it by 180 degrees"),
        (3, "turned by 270 degrees clockwise; turn it by 90 degrees clockwise"),
    ],
)
def test_it_says_which_way_it_is_turned(quarters: int, sentence: str, test_split: list[Radiograph]) -> None:
    pixels = np.rot90(test_split[0].pixels, -quarters)
    assert [reason.text for reason in check_quality(pixels).reasons] == [sentence]
    assert check_quality(np.rot90(pixels, quarters)).fit


def test_both_faults_are_named(test_split: list[Radiograph]) -> None:
    quality = check_quality(255 - np.rot90(test_split[0].pixels, -1))
    assert {reason.kind for reason in quality.reasons} == {"inverted", "turned"}


@pytest.mark.parametrize("border", ["left", "top", "right"])
def test_a_third_of_the_lungs_is_missing(border: str, test_split: list[Radiograph]) -> None:
    assert share_refused(COPIES[f"cut {border}, 30% of the lungs"], test_split) > 0.9


def test_boxes_that_end_at_the_border_speak_for_a_cut(test_split: list[Radiograph]) -> None:
    found = {False: 0, True: 0}
    for radiograph in test_split:
        pixels, part = COPIES["cut right, 10% of the lungs"].make(radiograph)
        assert part is not None
        found[True] += not check_quality(pixels, located=located_in(radiograph, part)).fit
        found[False] += not check_quality(pixels, located=MeanLayout().locate([pixels])).fit
        assert check_quality(pixels, located=MeanLayout().locate([pixels])) == check_quality(pixels)
    assert found[True] > found[False]


def test_photographs_are_refused() -> None:
    judged = {name: check_quality(pixels) for name, pixels in pictures_in(PHOTOGRAPHS) if ".npy" not in name}
    assert len(judged) >= 20
    assert [name for name, quality in judged.items() if quality.fit] == []


def test_noise_and_nothing_are_refused() -> None:
    rng = np.random.default_rng(3)
    assert check_quality(rng.integers(0, 256, (300, 200), dtype=np.uint8)).reasons[0].kind == "not a chest"
    assert check_quality(np.full((50, 50), 7, np.uint8)).reasons[0].kind == "blank"
    assert check_quality(np.zeros((1, 1), np.uint8)).reasons[0].kind == "blank"


@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (2, 2), (5, 7)])
def test_any_size_is_judged(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert not check_quality(pixels).fit


def test_strictness_names_the_image_and_the_fault(test_split: list[Radiograph]) -> None:
    pixels = test_split[0].pixels
    assert require_fit(pixels, where="image a").score > 0.5
    with pytest.raises(UnfitRadiograph, match=r"^image a: inverted: air is bright; invert the grey levels$"):
        require_fit(255 - pixels, where="image a")


@pytest.mark.parametrize("pixels", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)])
def test_other_arrays_are_refused(pixels: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(UnreadableImage, match="uint8 is needed"):
        check_quality(pixels)


def test_a_view_turns_with_its_picture(test_split: list[Radiograph]) -> None:
    """The eight ways are judged from one view: moving its numbers must be the same as moving the pixels."""
    pixels = test_split[0].pixels[:400, :400]
    frame, grey = look(pixels)
    seen = view_of(grey, frame).directions

    def directions(changed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        frame, grey = look(np.ascontiguousarray(changed))
        return view_of(grey, frame).directions

    for quarters in range(4):
        assert np.abs(directions(np.rot90(pixels, -quarters)) - turned(seen, quarters)).max() < 0.1
    assert np.abs(directions(pixels[:, ::-1]) - mirrored(seen)).max() < 0.1
    assert np.abs(directions(255 - pixels) - inverted(seen)).mean() < 0.02
    assert np.abs(seen - inverted(seen)).mean() > 0.05


def test_parameters_come_back_from_their_file(tmp_path: Path) -> None:
    shipped_model().write(tmp_path / "quality.json")
    again = read_quality_model(tmp_path / "quality.json")
    assert again.as_dict() == shipped_model().as_dict()
    assert "213" in again.source


@pytest.mark.parametrize(
    ("content", "error"), [("[]", InvalidSetting), ("{", InvalidSetting), ('{"a": 1}', InvalidSetting)]
)
def test_other_files_are_no_parameters(content: str, error: type[Exception], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(error, match=r"quality model|JSON"):
        read_quality_model(tmp_path / "other.json")
    with pytest.raises(MissingFile, match="train quality"):
        read_quality_model(tmp_path / "missing.json")
    with pytest.raises(InvalidSetting, match="chest"):
        QualityModel.from_dict({**shipped_model().as_dict(), "chest": [1.0]})


def test_the_study_counts(table: StudyTable, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)).save(tmp_path / "noise.png")
    part = table.of_split("validate").take(np.arange(2))
    study = study_quality(part, split="validate", others=[tmp_path])
    assert [row.name for row in study.rows] == list(COPIES)
    assert study.others[0].refused == study.others[0].n == 1
    rows = {row.name: row for row in study.rows}
    assert (rows["inverted"].refused, rows["inverted"].named, rows["inverted"].n) == (1.0, 1.0, 2)
    assert "| inverted | inverted | 100.0 % | 100.0 % |" in render_quality(study)
    with pytest.raises(InvalidSetting, match="not a folder"):
        study_quality(part, split="validate", others=[tmp_path / "nowhere"])


def test_pictures_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.PNG")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.PNG").read_bytes()[:4000])
    np.save(tmp_path / "stack.npy", noise[np.newaxis] / 255)
    (tmp_path / "stack.npy").rename(tmp_path / "stack.NPY")
    for name in ("empty.jpg", "empty.DCM", "empty.dcm"):
        (tmp_path / name).touch()
    (tmp_path / "text.gif").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.dcm")
    assert [name for name, _ in pictures_in(tmp_path)] == ["good.PNG", "stack.NPY 0"]


@pytest.mark.parametrize(("verb", "option"), [("eval", "--plot"), ("train", "--out")])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    verb: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--source", "x"] if verb == "train" else []
    assert main([verb, "quality", str(tmp_path / "table"), option, str(tmp_path / "no" / "file"), *more]) == 2
    assert f"for {option}; make it first" in capsys.readouterr().err


@pytest.mark.real
def test_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    """What docs/quality.md says of the test split, with two images to spare."""
    table = read_study_table(prepare(real_data, tmp_path / "study").directory).of_split("test")
    radiographs = [table.radiograph(row) for row in range(len(table))]
    assert share_refused(COPIES["as it is"], radiographs) <= REAL_FALSE_ALARMS + 2 / len(radiographs)
    for name in ("inverted", "turned by 90", "turned by 180", "turned by 270"):
        assert share_refused(COPIES[name], radiographs) == 1
    assert share_refused(COPIES["cut left, 30% of the lungs"], radiographs) > 0.8
