"""`chextriev train` of the localizer: its own module and data, a run like the others, and refusals in words."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chextriev.artifacts import Recipe, publishing, seal
from chextriev.cli import main
from chextriev.errors import DigestMismatch, InvalidSetting, InvalidValue, OtherBackbone
from chextriev.export.checkpoint import load_checkpoint
from chextriev.preprocess import CropSpec
from chextriev.study_table import KIND, STUDY_FILE, StudyTable, read_study_table, write_study_parquet
from chextriev.systems import LOCALIZER
from chextriev.train.configs import config_path
from chextriev.train.families import ENCODERS, LOCALIZERS, find_family
from chextriev.train.features import FeatureSettings, PixelExtractor, compute_features, open_features
from chextriev.train.fit import TrainCommand, run_train
from chextriev.train.localizer_data import LocatedBatch
from chextriev.train.localizer_module import LocalizerModule
from chextriev.train.run_files import open_run
from tests.made_once import made_once
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, data_words

SMALL = "{name: tiny, base: localizer, size: 64}"
WORDS = ["--config", str(config_path("localizer")), "--model.system", SMALL, "--model.weights", "random:1"]


def write_pixels(table: StudyTable, out: Path, size: int = 64) -> None:
    crops = CropSpec(size=size, area="image")
    compute_features(table, out, PixelExtractor(crops), settings=FeatureSettings(crops))


def make_data(folder: Path) -> None:
    table = write_tiny_table(folder, per_split=(6, 4, 4))
    write_pixels(table, folder / "pixels")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "localizer-data", make_data)


@pytest.fixture
def fit(data: Path, tmp_path: Path) -> Callable[..., TrainCommand]:
    def run(*words: str, out: str = "run", epochs: int = 1, action: str = "fit") -> TrainCommand:
        more = ["--trainer.max_epochs", str(epochs), "--data.batch_size", "3", *QUIET, *words]
        return run_train([action, *WORDS, *data_words(data, "pixels"), *more, "--out", str(tmp_path / out)])

    return run


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, LocatedBatch]:
    """The last batch of each split that a module was given."""
    step, check, seen = LocalizerModule.training_step, LocalizerModule.validation_step, dict[str, LocatedBatch]()

    def watch_training(module: LocalizerModule, batch: LocatedBatch, index: int) -> torch.Tensor:
        seen["train"] = batch
        return step(module, batch, index)

    def watch_validation(module: LocalizerModule, batch: LocatedBatch, index: int) -> None:
        seen["validate"] = batch
        check(module, batch, index)

    monkeypatch.setattr(LocalizerModule, "training_step", watch_training)
    monkeypatch.setattr(LocalizerModule, "validation_step", watch_validation)
    return seen


def test_a_run_is_complete_measured_and_read_by_the_export(
    fit: Callable[..., TrainCommand],
    data: Path,
    tmp_path: Path,
    watched: dict[str, LocatedBatch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = fit()
    assert isinstance(command.model, LocalizerModule)
    features = open_features(data / "pixels")
    for split, changed in (("train", True), ("validate", False)):
        stored = torch.from_numpy(features.rows(watched[split].row.numpy()))
        assert torch.equal(watched[split].images, stored) is not changed

    best, last = command.manifest.facts["best_val_iou"], command.manifest.facts["last"]
    of_regions = [value for name, value in last.items() if name.startswith("val_iou/")]
    assert len(of_regions) == 18
    assert last["val_iou"] == pytest.approx(np.mean(of_regions)) == pytest.approx(best)
    assert last["val_iou_of_mean_layout"] > 0.9  # the tiny table's boxes differ by a pixel or two
    trained = load_checkpoint(open_run(tmp_path / "run")[0])
    assert trained.spec == command.model.spec
    assert trained.backbone is not None
    assert trained.backbone.spec.name == "localizer-64"

    saved = ["--config", str(tmp_path / "run" / "config.yaml")]
    assert main(["train", "fit", *saved]) == 0
    assert f"unchanged, reused: 1 epochs, best val_iou {best:.3f}" in capsys.readouterr().out
    assert main(["train", "validate", *saved, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["val_iou"] == pytest.approx(best)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    fit: Callable[..., TrainCommand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(out="unbroken", epochs=2)
    step, calls = LocalizerModule.training_step, []

    def press_ctrl_c(module: LocalizerModule, batch: LocatedBatch, index: int) -> torch.Tensor:
        calls.append(index)
        if len(calls) == 3:  # the first of the second epoch
            raise KeyboardInterrupt
        return step(module, batch, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalizerModule, "training_step", press_ctrl_c)
        fit(epochs=2)
    assert not fit(epochs=2).reused
    states = [torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("unbroken", "run")]
    assert states[0]["lr_schedulers"] == states[1]["lr_schedulers"]
    for name, tensor in states[0]["state_dict"].items():
        assert torch.equal(tensor, states[1]["state_dict"][name]), name


def test_the_early_layers_keep_their_published_weights() -> None:
    trunk: Any = LocalizerModule(weights="random:1").backbone.extractor.trunk
    assert not any(weight.requires_grad for weight in trunk.lite0._blocks[:3].parameters())
    assert not trunk.lite0._conv_stem.weight.requires_grad
    assert all(weight.requires_grad for weight in trunk.lite0._blocks[3:].parameters())
    assert all(weight.requires_grad for weight in trunk.lateral.parameters())


def test_pixels_of_another_size_are_refused(data: Path, fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    write_pixels(read_study_table(data / "study"), tmp_path / "small", 32)
    with pytest.raises(OtherBackbone, match=r"image at 32 pixels\); run: chextriev data features .* --size 64"):
        fit("--data.features", str(tmp_path / "small"))


def test_boxes_of_a_mean_layout_are_refused(data: Path, fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    table = read_study_table(data / "study")
    table = replace(table, boxes_xyxy=np.tile(table.boxes_xyxy[:1], (len(table), 1, 1)))
    with publishing(tmp_path / "study", KIND) as scratch:
        write_study_parquet(table, scratch / STUDY_FILE)
        seal(scratch, KIND, Recipe({}), {"image_root": str(data)})
    write_pixels(read_study_table(tmp_path / "study"), tmp_path / "pixels")
    with pytest.raises(InvalidValue, match="the 6 radiographs of the train split have the same boxes"):
        fit("--data.features", str(tmp_path / "pixels"), "--data.table", str(tmp_path / "study"))
    with pytest.raises(DigestMismatch, match="compute the features again"):
        fit("--data.features", str(tmp_path / "pixels"))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="system v6 is no localizer"):
        LocalizerModule("v6")
    with pytest.raises(InvalidSetting, match=r"backbone_share is 2; a share from 0 to 1"):
        LocalizerModule(backbone_share=2)


def test_the_family_is_found_wherever_the_system_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(f"model:\n  system: {SMALL}\n")
    localizer, v6 = str(config_path("localizer")), str(config_path("v6"))
    for words in (
        ["--config", localizer],
        [f"--config={own}"],
        ["--config", v6, "--model.system", "localizer"],
        ["--model", "{system: localizer}"],
        ["--config", v6, "--config", localizer, "--model.learning_rate", "1e-4"],
    ):
        assert find_family(["fit", *words]) is LOCALIZERS
    for words in (
        ["--config", v6],
        ["--model.system", SMALL, "--config", v6],
        [],
        ["--config"],
        ["--model.system", "x"],
    ):
        assert find_family(["fit", *words]) is ENCODERS


def test_a_localizer_predicts_no_embeddings(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "predict", "--config", str(config_path(LOCALIZER.name)), *data_words(data, "pixels")]) != 0
    assert "a localizer embeds nothing" in capsys.readouterr().err
