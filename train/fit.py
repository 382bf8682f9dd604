"""`chextriev train`: Lightning's command line around our module and data, writing a run that is complete or not.

`chextriev.train.run_files` says what a run is. The manifest is written when training ends. An interrupted run has none;
the same command goes on from its `last.ckpt`, which is written at the end of every epoch.

Several processes (`--trainer.devices 2 --trainer.strategy ddp`) run all of this together; the first one alone writes.
"""

import json
import logging
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from chextriev.artifacts import (
    Manifest,
    Recipe,
    check_output,
    file_digest,
    find_current,
    publishing,
    seal,
)
from chextriev.embedding_set import KIND as EMBEDDINGS
from chextriev.embedding_set import embedding_set, write_embedding_files
from chextriev.errors import InvalidSetting, NotAnArtifact, TrainingDiverged
from chextriev.train.families import find_family
from chextriev.train.gather import gather_rows
from chextriev.train.loggers import LoggerName, check_logger, kept_environment, logger_options
from chextriev.train.run_files import (
    BEST_CHECKPOINT,
    CONFIG_FILE,
    KIND,
    METHOD,
    check_trained_as,
    claim,
    run_recipe,
)
from chextriev.train.torch_files import load_plain

_EXPECTED_WARNINGS = (
    r"LightningCLI's args parameter is intended.*",  # our command line has read its part of sys.argv already
    r".*does not have many workers.*",  # a batch is a few reads; workers would only copy
    r".*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r"Precision .* is not supported by the model summary.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 beside torch 2.13
    r"Found \d+ module\(s\) in eval mode at the start of training.*",  # a backbone keeps its statistics
)

Monitor = Literal["val_auroc", "val_precision_at_5", "val_iou", "val_loss"]
_MODES = {"val_auroc": "max", "val_precision_at_5": "max", "val_iou": "max", "val_loss": "min"}
_LOGGERS = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MLFlowLogger}


class TrainCommand(LightningCLI):
    """fit, validate, test and predict; `--out` names the run.

    manifest: of the run, or of the predictions; only the first of several processes has it.
    """

    manifest: Manifest
    reused = False
    logger_name: LoggerName = "none"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our run directory, the two callbacks of the paper's schedule, and what the model learns from the data."""
        parser.add_argument("--out", type=Path, default=Path("run"), help="directory of the run")
        parser.add_argument(
            "--logger",
            type=LoggerName,
            default="tensorboard",
            help="what keeps the curves of `fit`, in the run's directory",
        )
        parser.add_argument(
            "--predictions", type=Path, default=None, help="embeddings that `predict` writes (default: OUT/predictions)"
        )
        monitor = self._model_class.monitor  # type: ignore[union-attr]
        parser.add_argument("--best.monitor", type=Monitor, default=monitor, help="what makes a checkpoint the best")
        parser.add_argument(
            "--best.mode", type=Literal["max", "min"], default="max", help="whether large or small is good"
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults({**_EARLY_STOPPING, "early_stopping.monitor": monitor})
        parser.link_arguments("out", "trainer.default_root_dir", compute_fn=str)
        parser.link_arguments("data.feature_width", "model.feature_width", apply_on="instantiate")
        parser.link_arguments("data.provenance", "model.provenance", apply_on="instantiate")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Without a logger, unless the configuration names one of Lightning's; only fit logs.

        That of `--logger` comes when `fit` has claimed the directory that it writes to.
        """
        chosen = self._get(self.config_init, "trainer")["logger"]
        if self.subcommand != "fit":
            options["logger"] = False
        elif chosen in (None, True):
            self.logger_name = self._get(self.config_init, "logger")
            check_logger(self.logger_name)
            options["logger"] = False
        return super().instantiate_trainer(**options)

    def fit(self, model: LightningModule, **options: Any) -> None:
        """Train, or go on with an interrupted run, or reuse a complete one; then declare the run complete."""
        if options.get("ckpt_path") is not None:
            raise InvalidSetting("fit goes on from the run's own last checkpoint by itself; leave --ckpt_path out")
        out, recipe, chosen = Path(self._get(self.config, "out")), self._recipe(), self._get(self.config, "best")
        self.model.check_features(self.datamodule.features)
        if _MODES[chosen.monitor] != chosen.mode:
            raise InvalidSetting(f"--best.monitor {chosen.monitor} needs --best.mode {_MODES[chosen.monitor]}")
        current = find_current(out, KIND, recipe)
        if current is not None:
            self.manifest, self.reused = current, True
            return
        unfinished = claim(out, recipe, write=self.trainer.is_global_zero)
        best = RunCheckpoint(out, "best", monitor=chosen.monitor, mode=chosen.mode, save_weights_only=True)
        # At the end of an epoch, never within one: a loader cannot go on in the middle of its order.
        last = RunCheckpoint(out, "last", save_on_train_epoch_end=True)
        self.trainer.callbacks.extend([best, last])  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            settings = self.config[self.subcommand]  # so that fit, test and predict take the file as their --config
            parser, path = self._parser(self.subcommand), str(out / CONFIG_FILE)
            parser.save(settings, path, skip_unset=False, overwrite=True, multifile=False)
        begun = time.perf_counter()
        with self._logging(out):
            self.trainer.fit(model, **{**options, "ckpt_path": unfinished})
        if self.trainer.is_global_zero:
            _check_finite(best, out)
            self.manifest = seal(out, KIND, recipe, self._facts(best, begun), names=[_checked_best(out)])

    @contextmanager
    def _logging(self, out: Path) -> Iterator[None]:
        """The logger of `--logger`, in the first of several processes; its run ends with the training."""
        if self.logger_name == "none" or self.trainer.fast_dev_run or not self.trainer.is_global_zero:  # type: ignore[attr-defined]
            yield
            return
        with kept_environment():
            logger = _LOGGERS[self.logger_name](**logger_options(self.logger_name, out))
            self.trainer.logger = logger
            try:
                yield
            finally:
                if isinstance(logger, WandbLogger):  # else the next training of this process adds to its run
                    logger.experiment.finish()

    def validate(self, model: LightningModule, **options: Any) -> None:
        """Measure the run's best checkpoint, or `--ckpt_path`, on the validate split."""
        self.trainer.validate(model, **self._with_checkpoint(options))

    def test(self, model: LightningModule, **options: Any) -> None:
        """Measure the run's best checkpoint, or `--ckpt_path`, on the test split."""
        self.trainer.test(model, **self._with_checkpoint(options))

    def predict(self, model: LightningModule, **options: Any) -> None:
        """Write the embeddings of every radiograph that has features, by the run's best checkpoint or `--ckpt_path`."""
        out = Path(self._get(self.config, "predictions") or Path(self._get(self.config, "out")) / "predictions")
        chosen = self._with_checkpoint(options)
        settings = {"method": METHOD, "system": self.model.spec.as_dict()}
        recipe = Recipe(settings, self._prediction_parents(Path(chosen["ckpt_path"])))
        current = find_current(out, EMBEDDINGS, recipe)
        if current is not None:
            self.manifest, self.reused = current, True
            return
        check_output(out, EMBEDDINGS)
        parts = self.trainer.predict(model, **chosen) or []
        rows = gather_rows({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        if self.trainer.is_global_zero:
            self.manifest = self._write_predictions(out, recipe, rows)

    def _write_predictions(self, out: Path, recipe: Recipe, rows: dict[str, Tensor]) -> Manifest:
        table = self.datamodule.table.take(rows["row"].numpy())
        vectors = rows["embedding"].numpy()
        with publishing(out, EMBEDDINGS) as scratch:
            write_embedding_files(embedding_set(table, vectors, recipe.parents["encoder"]), scratch)
            return seal(scratch, EMBEDDINGS, recipe, {"n": len(vectors), "width": vectors.shape[1]})

    def _prediction_parents(self, checkpoint: Path) -> dict[str, str]:
        provenance = self.datamodule.provenance
        return {
            "encoder": file_digest(checkpoint),
            "study table": provenance["table_digest"],
            "region features": provenance["features_digest"],
        }

    def _with_checkpoint(self, options: dict[str, Any]) -> dict[str, Any]:
        self.model.check_features(self.datamodule.features)
        path = options.get("ckpt_path") or Path(self._get(self.config, "out")) / BEST_CHECKPOINT
        trained = self.model.hparams["provenance"]
        check_trained_as(Path(path), system=self.model.spec.as_dict(), provenance=trained)
        return {**options, "ckpt_path": str(path)}

    def _parse_ckpt_path(self) -> None:
        """Lightning would read the checkpoint here, before it is checked, and lay its settings over ours."""

    def _recipe(self) -> Recipe:
        settings = json.loads(self.parser.dump(self.config, format="json"))[self.subcommand]
        provenance = self.datamodule.provenance
        parents = {"region features": provenance["features_digest"], "study table": provenance["table_digest"]}
        if self.model.backbone is not None:
            parents["initial backbone"] = self.model.hparams["provenance"]["backbone_digest"]
        return run_recipe(settings, parents)

    def _facts(self, best: ModelCheckpoint, begun: float) -> dict[str, Any]:
        """What was measured; the seconds are of this session, and an interrupted run had others."""
        return {
            f"best_{best.monitor}": None if best.best_model_score is None else float(best.best_model_score),
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
            "seconds": round(time.perf_counter() - begun, 1),
            "last": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
        }


class RunCheckpoint(ModelCheckpoint):
    """One checkpoint of a run, replaced as it goes; it knows its record again where the run's directory was moved."""

    def __init__(self, out: Path, name: str, **options: Any) -> None:
        super().__init__(out, name, enable_version_counter=False, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the record, its files in this directory."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": scores, "dirpath": self.dirpath})


_TRAINER = {"use_distributed_sampler": False, "enable_checkpointing": False}  # `fit` brings its own of both
_EARLY_STOPPING = {"early_stopping.mode": "max", "early_stopping.patience": 4}


def run_train(arguments: Sequence[str]) -> TrainCommand:
    """Run `fit`, `validate`, `test` or `predict` with Lightning's arguments."""
    family, handler = find_family(arguments), signal.getsignal(signal.SIGINT)
    for name in ("pytorch_lightning", "lightning_fabric"):  # the hardware it did not find, and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(pytorch_lightning|jsonargparse)\b")
        try:
            return TrainCommand(
                family.module,
                family.data,
                args=list(arguments),
                seed_everything_default=0,
                trainer_defaults={"enable_progress_bar": sys.stderr.isatty(), **_TRAINER},
                save_config_callback=None,
            )
        except (MisconfigurationException, ValueError) as error:
            if not _is_lightnings(error):
                raise
            raise InvalidSetting(f"the trainer refuses these settings: {error}") from error
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
                raise KeyboardInterrupt from stop
            raise
        finally:
            signal.signal(signal.SIGINT, handler)


def _is_lightnings(error: Exception) -> bool:
    """Whether Lightning itself raised it, about its settings, and not what it runs."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).startswith(("pytorch_lightning", "lightning_fabric"))


def _check_finite(best: ModelCheckpoint, out: Path) -> None:
    score = best.best_model_score
    if score is not None and not torch.isfinite(score):
        raise TrainingDiverged(
            f"{out}: no validation gave a finite {best.monitor}, so there is nothing to keep; train with a lower"
            " --model.learning_rate into another --out"
        )


def _checked_best(out: Path) -> str:
    """The name of the best checkpoint, read once more before the run is declared complete."""
    if not (out / BEST_CHECKPOINT).is_file():
        raise NotAnArtifact(f"{out}: training ended without a validated checkpoint, so the run is not complete")
    load_plain(out / BEST_CHECKPOINT)
    return BEST_CHECKPOINT
