"""A localizer's bundle proposes valid boxes on any engine; what embeds refuses it, and it refuses what embeds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chextriev import open_bundle, open_encoder
from chextriev.box_overlap import box_overlap
from chextriev.bundle import DEFAULT, REFERENCE
from chextriev.cli import main
from chextriev.errors import CountMismatch, EmptySplit, InvalidSetting
from chextriev.localizer import EngineLocalizer, MeanLayout, open_localizer
from chextriev.located_table import locate_table, predicted_table
from chextriev.study_table import StudyTable
from chextriev.valid_boxes import MEAN_LAYOUT, MEAN_LAYOUT_OVERLAP
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import write_tiny_table


def test_overlap_by_hand() -> None:
    ours = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1]], np.float32)
    theirs = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [1, 1, 1, 1]], np.float32)
    np.testing.assert_allclose(box_overlap(ours, theirs), [1, 1 / 3, 0, 0])


def test_engines_propose_the_same_valid_boxes(localizer: TinyBundle) -> None:
    images = [localizer.table.radiograph(row).pixels for row in range(3)]
    images.append(np.random.default_rng(0).integers(0, 255, (333, 77), np.uint8))
    found = {engine: open_localizer(localizer.folder, engine=engine).locate(images) for engine in (REFERENCE, DEFAULT)}
    ours, torchs = found[DEFAULT], found[REFERENCE]
    assert ours.source == f"localizer {open_bundle(localizer.folder).digest[:12]}, engine {DEFAULT}"
    assert (ours.confidence.shape, ours.confidence.dtype) == ((4, 18), np.float32)
    np.testing.assert_allclose(ours.confidence, torchs.confidence, atol=1e-5)
    for boxes, others, pixels in zip(ours.boxes, torchs.boxes, images, strict=True):
        height, width = pixels.shape
        boxes.check_inside(width, height, where="a test")
        np.testing.assert_allclose(boxes.xyxy, others.xyxy, atol=1e-3 * max(width, height))
    assert np.abs(ours.boxes[0].xyxy - ours.boxes[1].xyxy).max() > 0  # it looks at the image


def test_one_radiograph_is_located_as_among_others(localizer: TinyBundle) -> None:
    opened = open_localizer(localizer.folder)
    images = [localizer.table.radiograph(row).pixels for row in range(3)]
    together = opened.locate(images)
    alone = opened.locate(images[2:])
    np.testing.assert_allclose(alone.boxes[0].xyxy, together.boxes[2].xyxy, atol=1e-2)
    nothing = opened.locate([])
    assert (nothing.boxes, nothing.confidence.shape) == ((), (0, 18))


def test_outputs_that_are_not_finite_are_the_mean_layouts(
    localizer: TinyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(localizer.folder)
    boxes, confidence = np.full((1, 18, 4), np.nan, np.float32), np.full((1, 18), np.nan, np.float32)
    boxes[0, 3:] = MEAN_LAYOUT[3:]
    monkeypatch.setattr(encoder, "outputs", lambda _: {"region_boxes": boxes, "box_confidence": confidence})
    found = EngineLocalizer(encoder).locate([localizer.table.radiograph(0).pixels])
    laid_out = MeanLayout().locate([localizer.table.radiograph(0).pixels])
    np.testing.assert_allclose(found.boxes[0].xyxy, laid_out.boxes[0].xyxy, atol=1e-4)
    np.testing.assert_array_equal(found.confidence[0, :3], MEAN_LAYOUT_OVERLAP[:3])
    np.testing.assert_array_equal(found.confidence[0, 3:], 0)


def test_without_a_bundle_the_mean_layout_stands_in() -> None:
    found = open_localizer(None).locate([np.zeros((200, 100), np.uint8)])
    np.testing.assert_allclose(found.boxes[0].xyxy, MEAN_LAYOUT * np.float32([100, 200, 100, 200]), rtol=1e-5)
    assert "not this image" in found.source


@pytest.mark.parametrize(
    "use",
    [
        lambda encoder, table: encoder.encode([table.radiograph(0)]),
        lambda encoder, table: next(encoder.stream([table.radiograph(0)])),
        lambda encoder, table: encoder.relate(np.zeros((1, 1, encoder.bundle.feature_width), np.float32), ["a"]),
    ],
    ids=["encode", "stream", "relate"],
)
def test_a_localizer_embeds_nothing(localizer: TinyBundle, use: Callable[..., object]) -> None:
    with pytest.raises(InvalidSetting, match=r"bundle of a localizer, which proposes boxes and embeds nothing"):
        use(open_encoder(localizer.folder), localizer.table)


def test_an_encoder_proposes_nothing(ath: TinyBundle) -> None:
    with pytest.raises(InvalidSetting, match=r"the encoder ath, which proposes no boxes; .* a localizer is needed"):
        open_localizer(ath.folder)


def test_the_command_line_says_which_bundle_it_needs(
    localizer: TinyBundle, ath: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = str(localizer.study), str(tmp_path / "out")
    assert main(["embed", str(localizer.folder), study, out]) == 2
    assert main(["eval", "engines", str(localizer.folder), study, out]) == 2
    assert capsys.readouterr().err.count("an encoder, such as v6, is needed here") == 2
    assert main(["eval", "localizer", str(ath.folder), study, out]) == 2
    assert "which proposes no boxes" in capsys.readouterr().err
    assert not Path(out).exists()


def test_features_of_another_shape_are_refused(localizer: TinyBundle) -> None:
    encoder = open_encoder(localizer.folder)
    for shape in ((1, 1, 7), (1, encoder.bundle.feature_width), (0, 1, encoder.bundle.feature_width)):
        with pytest.raises(CountMismatch, match=r"features have shape .* is needed, for one radiograph or more"):
            encoder.outputs(np.zeros(shape, np.float32))


@pytest.fixture
def study(tmp_path: Path) -> StudyTable:
    """Of six radiographs one is no picture, and one has another size than the table says."""
    table = write_tiny_table(tmp_path / "data", per_split=(6, 0, 0))
    table.image_path(1).write_bytes(b"no picture")
    height = table.height.copy()
    height[4] += 1
    return replace(table, height=height)


def test_a_table_is_located_but_for_what_cannot_be_read(study: StudyTable) -> None:
    located = locate_table(study, MeanLayout())
    assert located.table.image_id.tolist() == [f"image-00{row}" for row in (0, 2, 3, 5)]
    np.testing.assert_array_equal(located.table.boxes_xyxy, study.boxes_xyxy[[0, 2, 3, 5]])
    assert [(refusal.row, refusal.reason) for refusal in located.refusals] == [
        (1, "UnreadableImage"),
        (4, "InvalidValue"),
    ]
    assert str(study.image_root) not in "".join(refusal.detail for refusal in located.refusals)
    with pytest.raises(EmptySplit, match="no radiograph to locate regions in"):
        locate_table(study.take(np.array([1, 4])), MeanLayout())


def test_only_the_boxes_of_a_table_are_replaced(study: StudyTable) -> None:
    found, located = predicted_table(study, MeanLayout()), locate_table(study, MeanLayout())
    np.testing.assert_array_equal(found.boxes_xyxy[[0, 2, 3, 5]], located.boxes_xyxy)
    np.testing.assert_array_equal(found.boxes_xyxy[[1, 4]], study.boxes_xyxy[[1, 4]])
    for column in ("image_id", "patient_id", "split", "region_findings", "image_findings"):
        np.testing.assert_array_equal(getattr(found, column), getattr(study, column))
    assert found.digest not in ("", study.digest)
    assert predicted_table(study, MeanLayout()).digest == found.digest
    assert predicted_table(study, MeanLayout(digest="another")).digest != found.digest
