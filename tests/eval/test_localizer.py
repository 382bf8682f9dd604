"""Boxes against boxes: means by hand, intervals by patient, mean layouts beside them, and what confidence reaches."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from chextriev.anatomy import Region
from chextriev.box_overlap import box_overlap
from chextriev.cli import main
from chextriev.errors import EmptySplit, InvalidSetting
from chextriev.eval.bootstrap import mean_intervals
from chextriev.eval.localizer import BUILT_IN, TRAIN_LAYOUT, LocalizerEvaluation, LocalizerSettings, evaluate_localizer
from chextriev.eval.localizer_picture import COLOURS, draw_located
from chextriev.eval.localizer_text import render_localizer
from chextriev.eval.protocol import IntervalSpec
from chextriev.localizer import Located, MeanLayout
from chextriev.located_table import LocatedTable
from chextriev.radiograph import RegionBoxes
from chextriev.study_table import StudyTable
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import write_tiny_table

UNTIMED = LocalizerSettings(timed=0)


class Shrinking:
    """Proposes the boxes of a table, each a share of its width, and expects just the IoU that this gives.

    Images come in the order of the table.
    """

    digest, source = "shrinking", "shrunken boxes"

    def __init__(self, table: StudyTable, shares: npt.NDArray[np.float64]) -> None:
        self._table, self._shares, self._row = table, shares, 0

    def locate(self, images: list[npt.NDArray[np.uint8]]) -> Located:
        boxes = self._table.boxes_xyxy[self._row].copy()
        share = self._shares[self._row]
        boxes[:, 2] = boxes[:, 0] + share * (boxes[:, 2] - boxes[:, 0])
        self._row += 1
        return Located((RegionBoxes(boxes),), np.full((1, 18), share, np.float32), self.source)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """Eight radiographs of four patients to test, eight to train."""
    return write_tiny_table(tmp_path_factory.mktemp("data") / "tiny", per_split=(8, 0, 8))


@pytest.fixture(scope="module")
def shrunken(table: StudyTable) -> tuple[LocalizerEvaluation, LocatedTable]:
    """The boxes of the first four radiographs have an IoU of .8, those of the others .4."""
    test = table.of_split("test")
    return evaluate_localizer(Shrinking(test, np.repeat([0.8, 0.4], 4)), table, UNTIMED)


def test_means_of_each_region_and_of_all(shrunken: tuple[LocalizerEvaluation, LocatedTable]) -> None:
    evaluation, located = shrunken
    found = evaluation.localizer
    for overlap in (*found.per_region.values(), found.lungs, found.macro):
        assert overlap.mean == pytest.approx(0.6, abs=1e-6)
        assert 0.4 <= overlap.interval[0] < 0.6 < overlap.interval[1] <= 0.8 + 1e-6
    assert list(found.per_region) == list(Region.labels())
    assert (evaluation.n_radiographs, evaluation.n_patients, evaluation.n_unreadable) == (8, 4, 0)
    np.testing.assert_allclose(box_overlap(located.boxes_xyxy, located.table.boxes_xyxy)[0], 0.8, atol=1e-6)
    assert evaluation.speed == {}


def test_confidence_that_says_what_it_reaches_has_no_gap(shrunken: tuple[LocalizerEvaluation, LocatedTable]) -> None:
    evaluation, _ = shrunken
    assert evaluation.gap == pytest.approx(0, abs=1e-6)
    assert evaluation.rank_correlation == pytest.approx(1)
    assert [(each.low, each.high, each.n) for each in evaluation.calibration] == [(0.0, 0.5, 72), (0.8, 0.9, 72)]


def test_a_layout_that_knows_no_image_is_its_own_baseline(table: StudyTable) -> None:
    evaluation, located = evaluate_localizer(MeanLayout(), table, UNTIMED)
    assert list(evaluation.baselines) == [TRAIN_LAYOUT, BUILT_IN]
    assert evaluation.baselines[BUILT_IN] == evaluation.localizer
    # The boxes of the tiny table are three layouts, a pixel apart in turn.
    assert evaluation.baselines[TRAIN_LAYOUT].macro.mean > 0.9
    assert len(located.table) == 8
    only_test = table.take(np.flatnonzero(table.split == "test"))
    assert list(evaluate_localizer(MeanLayout(), only_test, UNTIMED)[0].baselines) == [BUILT_IN]
    assert evaluate_localizer(MeanLayout(), table, LocalizerSettings("all", timed=0))[0].n_radiographs == 16
    with pytest.raises(EmptySplit, match="no radiograph in split 'validate'"):
        evaluate_localizer(MeanLayout(), table, LocalizerSettings("validate"))
    with pytest.raises(InvalidSetting, match="-1 timed radiographs; 0 or more"):
        LocalizerSettings(timed=-1)


def test_intervals_draw_patients_and_not_radiographs() -> None:
    """Forty radiographs of two patients say no more than two would."""
    values = np.repeat([0.0, 1.0], 20)[:, None]
    by_patient = mean_intervals(values, np.repeat(["a", "b"], 20), IntervalSpec())
    by_radiograph = mean_intervals(values, np.arange(40), IntervalSpec())
    np.testing.assert_array_equal(by_patient[:, 0], [0, 1])
    assert 0.3 < by_radiograph[0, 0] < by_radiograph[1, 0] < 0.7
    uneven = mean_intervals(np.array([[1.0], [1], [1], [0]]), np.array([7, 7, 7, 3]), IntervalSpec(level=0.01))
    assert uneven[0, 0] == pytest.approx(0.75)  # drawn once each, a patient counts with all of their radiographs


def test_a_picture_shows_the_worst_first_and_names_nobody(
    shrunken: tuple[LocalizerEvaluation, LocatedTable],
) -> None:
    _, located = shrunken
    picture = draw_located(located, count=3)
    assert picture.count("data:image/jpeg;base64,") == 3
    assert picture.index("mean IoU 0.40") < picture.index("mean IoU 0.80")
    assert picture.count("<title>") == 3 * 18
    assert all(f">{name}</text>" in picture for name in COLOURS)
    assert not any(name in picture for name in (*located.table.image_id, *located.table.patient_id))
    with pytest.raises(InvalidSetting, match="a picture of 0 radiographs"):
        draw_located(located, count=0)


def test_the_table_puts_the_layouts_beside_every_number(
    shrunken: tuple[LocalizerEvaluation, LocatedTable],
) -> None:
    text = render_localizer(shrunken[0])
    assert "8 radiographs of 4 patients; unreadable: 0." in text
    (lungs,) = [line for line in text.splitlines() if line.startswith("| **both lungs** | 0.600 | 0.")]
    assert len(lungs.split("|")) == 7


def test_from_a_bundle_to_numbers_and_a_picture(
    localizer: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "localizer", str(localizer.folder), str(localizer.study), str(tmp_path / "out"), "--timed", "2"]
    words += ["--picture", str(tmp_path / "boxes.svg"), "--split", "validate"]
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    stored = json.loads((tmp_path / "out" / "localizer.json").read_text())
    assert {key: content[key] for key in stored} == stored
    assert stored["n_radiographs"] == 14
    assert stored["speed"]["median_ms"] > 0
    assert "From decoded pixels to boxes" in (tmp_path / "out" / "localizer.md").read_text()
    assert (tmp_path / "boxes.svg").read_text().count("data:image/jpeg") == 14
    assert main(words) == 0
    assert "which holds radiographs" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    assert main([*words[:4], str(tmp_path / "other")]) == 2
    assert "is not a localizer evaluation" in capsys.readouterr().err


@pytest.mark.parametrize("picture", ["no-such-folder/boxes.svg", "."])
def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    picture: str, localizer: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "localizer", str(localizer.folder), str(localizer.study), str(tmp_path / "out")]
    assert main([*words, "--picture", str(tmp_path / picture)]) == 2
    said = capsys.readouterr().err
    assert "InvalidSetting" in said
    assert "tmp-" not in said
    assert not any(tmp_path.iterdir())
