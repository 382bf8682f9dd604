"""Training from the cache: it learns, it can be interrupted, and two runs are equal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from chextriev.cli import main
from chextriev.embedding_set import read_embeddings
from chextriev.errors import (
    DamagedArtifact,
    DigestMismatch,
    EmptySplit,
    InvalidSetting,
    NotAnArtifact,
    OutputExists,
    TrainingDiverged,
    UnknownSystem,
    UnreadableCheckpoint,
)
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import Batch
from chextriev.train.features import compute_features
from chextriev.train.fit import TrainCommand, run_train
from chextriev.train.run_files import open_run
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, SMALL, MeanGrey, data_words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    table = write_tiny_table(folder)
    compute_features(table, folder / "features", MeanGrey())
    return folder


@pytest.fixture
def fit(data: Path, tmp_path: Path) -> Callable[..., TrainCommand]:
    def run(*words: str, out: str = "run") -> TrainCommand:
        return run_train(
            [
                *("fit", "--model.system", SMALL, "--data.features", str(data / "features")),
                *("--data.table", str(data / "study"), "--data.batch_size", "4", "--out", str(tmp_path / out)),
                *("--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--trainer.logger", "false"),
                *("--trainer.enable_progress_bar", "false", "--model.learning_rate", "1e-3"),
                *words,
            ]
        )

    return run


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, *, at: int) -> Iterator[None]:
    """Ctrl-C comes at this training step, from 1."""
    step, calls = EncoderModule.training_step, []

    def press_ctrl_c(module: EncoderModule, batch: Batch, index: int) -> torch.Tensor:
        calls.append(index)
        if len(calls) == at:
            raise KeyboardInterrupt
        return step(module, batch, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EncoderModule, "training_step", press_ctrl_c)
        yield


def weights_of(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / name, weights_only=True)["state_dict"]
    return state


def test_trains_reuses_and_repeats(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    first = fit()
    assert not first.reused
    facts = first.manifest.facts
    assert facts["epochs"] == 3
    assert facts["best_val_auroc"] > 0.6
    assert (tmp_path / "run" / "config.yaml").exists()
    checkpoint, manifest = open_run(tmp_path / "run")
    assert manifest.digest == first.manifest.digest
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["system"]["name"] == "tiny"

    assert fit().reused

    fit(out="again")
    again = weights_of(tmp_path / "again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights_of(tmp_path / "run").items())


def test_a_run_is_repeated_and_measured_by_the_configuration_it_saved(
    fit: Callable[..., TrainCommand], tmp_path: Path
) -> None:
    first = fit("--model.plateau_factor", "null", "--trainer.max_epochs", "1")  # null is not the default
    saved = ["--config", str(tmp_path / "run" / "config.yaml")]
    assert run_train(["fit", *saved]).reused
    again = run_train(["fit", *saved, "--out", str(tmp_path / "again")])
    assert again.manifest.digest == first.manifest.digest
    measured = run_train(["validate", *saved]).trainer.callback_metrics
    assert float(measured["val_auroc"]) == pytest.approx(first.manifest.facts["best_val_auroc"])


def test_other_settings_do_not_overwrite_a_run(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    digest = fit().manifest.digest
    with pytest.raises(OutputExists, match="choose another --out"):
        fit("--model.learning_rate", "2e-3")
    assert open_run(tmp_path / "run")[1].digest == digest


@pytest.mark.parametrize("interval", ["1.0", "0.5"])
def test_an_interrupted_run_goes_on(
    fit: Callable[..., TrainCommand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: str
) -> None:
    words = ("--trainer.val_check_interval", interval)
    fit(*words, out="unbroken")
    with interrupted(monkeypatch, at=5):  # in the second of three epochs
        fit(*words)
    assert not (tmp_path / "run" / "manifest.json").exists()
    assert not fit(*words).reused
    resumed = weights_of(tmp_path / "run")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights_of(tmp_path / "unbroken").items())


def test_options_of_the_trainer_pass_through(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    command = fit("--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1")
    assert command.trainer.precision == "bf16-mixed"
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights_of(tmp_path / "run").values())
    assert "precision: bf16-mixed" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_rate_that_was_cut_stays_cut_after_an_interruption(
    fit: Callable[..., TrainCommand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model.plateau_patience", "0", "--model.learning_rate", "0.3", "--trainer.max_epochs", "6")
    words += ("--early_stopping.patience", "20")
    fit(*words, out="unbroken")
    with interrupted(monkeypatch, at=14):  # in the fifth of six epochs of three steps
        fit(*words)
    (tmp_path / "run").rename(tmp_path / "moved")  # the record of the best must survive that too
    moved = fit(*words, out="moved")
    states = [torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("unbroken", "moved")]
    schedules = [state["lr_schedulers"][0] for state in states]
    assert schedules[0] == schedules[1]
    assert schedules[0]["_last_lr"][0] < 0.3
    assert schedules[0]["last_epoch"] == 6
    for name in ("last.ckpt", "best.ckpt"):
        weights = [weights_of(tmp_path / run, name) for run in ("unbroken", "moved")]
        assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items()), name
    assert moved.manifest.facts["best_val_auroc"] == open_run(tmp_path / "unbroken")[1].facts["best_val_auroc"]


def test_every_epoch_has_an_order_of_its_own(fit: Callable[..., TrainCommand], monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = EncoderModule.training_step, []

    def watch(module: EncoderModule, batch: Batch, index: int) -> torch.Tensor:
        seen.extend(batch.row.tolist())
        return step(module, batch, index)

    monkeypatch.setattr(EncoderModule, "training_step", watch)
    fit()
    epochs = [seen[start : start + 12] for start in range(0, 36, 12)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_run_names_no_place_and_survives_being_measured(
    fit: Callable[..., TrainCommand], data: Path, tmp_path: Path
) -> None:
    digest = fit("--trainer.logger", "true").manifest.digest
    run = tmp_path / "run"
    assert set(open_run(run)[1].files) == {"best.ckpt"}
    assert str(tmp_path).encode() not in (run / "best.ckpt").read_bytes()
    words = ["--model.system", SMALL, "--data.features", str(data / "features"), "--data.table", str(data / "study")]
    words += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    for action in ("validate", "test"):
        run_train([action, *words, "--out", str(run)])
    assert open_run(run)[1].digest == digest
    with pytest.raises(UnreadableCheckpoint, match=r"nowhere/best\.ckpt"):
        run_train(["test", *words, "--out", str(tmp_path / "nowhere")])


def test_fit_takes_no_checkpoint_but_its_own(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="leave --ckpt_path out"):
        fit("--ckpt_path", str(tmp_path / "other.ckpt"))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_system_is_refused(
    fit: Callable[..., TrainCommand], data: Path, tmp_path: Path
) -> None:
    fit()
    places = [*data_words(data), *QUIET, "--out", str(tmp_path / "run")]
    other = "{name: other, positions: true, edges: learned, residual: local, width: 32, heads: 2, head_width: 8}"
    for action in ("validate", "test", "predict"):
        with pytest.raises(DigestMismatch, match=r"trained as system 'tiny', asked for is 'other' \(they differ in"):
            run_train([action, "--model.system", other, *places])
        with pytest.raises(DigestMismatch, match=r"asked for is 'v6'.*--config .*run/config\.yaml"):
            run_train([action, *places])
    assert not (tmp_path / "run" / "predictions").exists()
    run_train(["predict", "--config", str(tmp_path / "run" / "config.yaml")])
    assert len(read_embeddings(tmp_path / "run" / "predictions")) == 26


def test_a_damaged_run_is_not_sealed_again(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    fit()
    best = tmp_path / "run" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    with pytest.raises(DamagedArtifact, match=r"best\.ckpt"):
        fit()
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(UnreadableCheckpoint, match=r"best\.ckpt: truncated"):
        fit()
    best.unlink()
    with pytest.raises(NotAnArtifact, match=r"no best\.ckpt; remove it and train again"):
        fit()


def test_a_refused_first_attempt_leaves_the_directory_free(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="the trainer refuses these settings"):
        fit("--trainer.val_check_interval", "50")
    assert not fit().reused
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.json").write_text("{}")
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputExists):
        fit(out="other")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trainer.accelerator", "gpu"], "the trainer refuses these settings"),
        (["--best.monitor", "val_loss"], "--best.monitor val_loss needs --best.mode min"),
        (["--model.backbone", "resnet50"], "system tiny has no backbone to fine-tune"),
        (["--model.recompute", "false"], "system tiny has no backbone to fine-tune"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    fit: Callable[..., TrainCommand], tmp_path: Path, words: list[str], said: str
) -> None:
    if torch.cuda.is_available() and "gpu" in words:
        pytest.skip("there is a GPU")
    with pytest.raises(InvalidSetting, match=said):
        fit(*words)
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_refused(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    fit()
    (tmp_path / "run" / "manifest.json").unlink()
    last = tmp_path / "run" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UnreadableCheckpoint, match=r"last\.ckpt: truncated"):
        fit()


def test_a_run_without_a_checkpoint_is_not_complete(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    with pytest.raises(NotAnArtifact, match="without a validated checkpoint"):
        fit("--trainer.fast_dev_run", "true")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_tensorboard_events_are_written(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    fit("--trainer.logger", "true", "--trainer.max_epochs", "1")
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_early_stopping_ends_a_run_that_stands_still(fit: Callable[..., TrainCommand]) -> None:
    facts = fit(
        "--model.learning_rate", "0", "--early_stopping.patience", "1", "--trainer.max_epochs", "20"
    ).manifest.facts
    assert facts["epochs"] < 20


def test_wrong_data_is_refused(fit: Callable[..., TrainCommand], data: Path, tmp_path: Path) -> None:
    write_tiny_table(tmp_path / "other", seed=1)
    with pytest.raises(DigestMismatch, match="compute the features again"):
        fit("--data.table", str(tmp_path / "other" / "study"))
    with pytest.raises(UnknownSystem, match="no system 'v9'"):
        fit("--model.system", "v9")
    with pytest.raises(InvalidSetting, match="'v6' is a system of the paper and these settings are not its own"):
        fit("--model.system", "{name: v6, edges: fixed}")


def test_a_data_set_without_validation_images_is_refused(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    table = write_tiny_table(tmp_path / "no-validation", per_split=(4, 0, 4))
    compute_features(table, tmp_path / "features", MeanGrey())
    with pytest.raises(EmptySplit, match="'validate' \\(the study table has train 4, validate 0, test 4\\)"):
        fit("--data.table", str(tmp_path / "no-validation" / "study"), "--data.features", str(tmp_path / "features"))


def test_unknown_options_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "fit", "--data.features", str(data / "features"), "--data.shuffle", "yes"])
    assert stop.value.code == 2
    assert "shuffle" in capsys.readouterr().err


def test_a_training_that_diverges_is_not_a_run(fit: Callable[..., TrainCommand], tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"no validation gave a finite val_auroc.*lower --model\.learning_rate"):
        fit("--model.learning_rate", "1e30")
    assert not (tmp_path / "run" / "manifest.json").exists()
