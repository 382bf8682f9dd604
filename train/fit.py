"""`chextriev train`: Lightning's command line around our module and data, writing a run that is complete or not.

A run is an artefact of kind "training run": `best.ckpt` (by validation AUROC) and, outside its digest because they name
places and times, `last.ckpt`, `config.yaml` and TensorBoard events. The manifest is written when training ends. An
interrupted run has none; the same command goes on from its `last.ckpt`, which is written at the end of every epoch.

Several processes (`--trainer.devices 2 --trainer.strategy ddp`) run all of this together; the first one alone writes.
"""

import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from chextriev.artifacts import (
    Manifest,
    Recipe,
    check_output,
    digest_of,
    file_digest,
    find_current,
    publishing,
    seal,
    write_text,
)
from chextriev.embedding_set import KIND as EMBEDDINGS
from chextriev.embedding_set import embedding_set, write_embedding_files
from chextriev.errors import InvalidSetting, NotAnArtifact, OutputExists
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import FeatureData
from chextriev.train.gather import gather_rows
from chextriev.train.loggers import LoggerName, check_logger, kept_environment, logger_options
from chextriev.train.run_files import BEST_CHECKPOINT, KIND, LAST_CHECKPOINT
from chextriev.train.torch_files import load_plain

RECIPE_FILE = "recipe.json"
METHOD = 3
"""Part of every run's recipe; raise it when the same settings and data begin to give other weights."""

PLACES = (  # where things are and how they are shown: no part of a run's identity
    *(
        "config",
        "out",
        "predictions",
        "logger",
        "ckpt_path",
        "weights_only",
        "data.features",
        "data.table",
        "best.dirpath",
    ),
    *("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
)
_EXPECTED_WARNINGS = (
    r"LightningCLI's args parameter is intended.*",  # our command line has read its part of sys.argv already
    r".*does not have many workers.*",  # the cache is memory-mapped; workers would only copy
    r".*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r"Precision .* is not supported by the model summary.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 beside torch 2.13
    r"Found \d+ module\(s\) in eval mode at the start of training.*",  # a backbone keeps its statistics
)

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
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(_CALLBACKS)
        parser.link_arguments("out", "best.dirpath", compute_fn=str)
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
        out, recipe = Path(self._get(self.config, "out")), self._recipe()
        self.model.check_features(self.datamodule.features)
        current = find_current(out, KIND, recipe)
        if current is not None:
            self.manifest, self.reused = current, True
            return
        unfinished = _claim(out, recipe, write=self.trainer.is_global_zero)
        # At the end of an epoch, never within one: a loader cannot go on in the middle of its order.
        last = ModelCheckpoint(dirpath=out, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.trainer.callbacks.append(last)  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            settings = self.config[self.subcommand]  # so that fit, test and predict take the file as their --config
            parser, path = self._parser(self.subcommand), str(out / "config.yaml")
            parser.save(settings, path, skip_unset=False, overwrite=True, multifile=False)
        begun = time.perf_counter()
        with self._logging(out):
            self.trainer.fit(model, **{**options, "ckpt_path": unfinished})
        if not self.trainer.is_global_zero:
            return
        if not (out / BEST_CHECKPOINT).is_file():
            raise NotAnArtifact(f"{out}: training ended without a validated checkpoint, so the run is not complete")
        self.manifest = seal(out, KIND, recipe, self._facts(time.perf_counter() - begun), names=[BEST_CHECKPOINT])

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
        recipe = Recipe({"method": METHOD}, self._prediction_parents(Path(chosen["ckpt_path"])))
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
        load_plain(Path(path))
        return {**options, "ckpt_path": str(path)}

    def _recipe(self) -> Recipe:
        settings = json.loads(self.parser.dump(self.config, format="json"))[self.subcommand]
        for place in PLACES:
            *group, name = place.split(".")
            (settings[group[0]] if group else settings).pop(name, None)
        provenance = self.datamodule.provenance
        parents = {"region features": provenance["features_digest"], "study table": provenance["table_digest"]}
        return Recipe({"method": METHOD, **settings}, parents)

    def _facts(self, seconds: float) -> dict[str, Any]:
        """What was measured. seconds: of this session; an interrupted run had others."""
        best: ModelCheckpoint = self._get(self.config_init, "best")
        return {
            f"best_{best.monitor}": None if best.best_model_score is None else float(best.best_model_score),
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
            "seconds": round(seconds, 1),
            "last": {name: float(value) for name, value in self.trainer.callback_metrics.items()},
        }


_CALLBACKS = {
    "best.filename": "best",
    "best.monitor": "val_auroc",
    "best.mode": "max",
    "best.save_weights_only": True,
    "best.enable_version_counter": False,
    "early_stopping.monitor": "val_auroc",
    "early_stopping.mode": "max",
    "early_stopping.patience": 4,
}


def run_train(arguments: Sequence[str]) -> TrainCommand:
    """Run `fit`, `validate`, `test` or `predict` with Lightning's arguments."""
    handler = signal.getsignal(signal.SIGINT)
    for name in ("pytorch_lightning", "lightning_fabric"):  # the hardware it did not find, and advertisements
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(pytorch_lightning|jsonargparse)\b")
        try:
            return TrainCommand(
                EncoderModule,
                FeatureData,
                args=list(arguments),
                seed_everything_default=0,
                trainer_defaults={"enable_progress_bar": sys.stderr.isatty(), "use_distributed_sampler": False},
                save_config_callback=None,
            )
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
                raise KeyboardInterrupt from stop
            raise
        finally:
            signal.signal(signal.SIGINT, handler)


def _claim(out: Path, recipe: Recipe, *, write: bool) -> str | None:
    """Prepare `out` for this recipe; the checkpoint to go on from if it holds an interrupted run of the same recipe."""
    stated = out / RECIPE_FILE
    text = json.dumps({"digest": digest_of({"settings": recipe.settings, "parents": recipe.parents})}) + "\n"
    same = stated.is_file() and stated.read_bytes() == text.encode()
    if not same and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(
            f"{out} holds something else than a run of these settings; choose another --out or remove it"
        )
    if write:
        out.mkdir(parents=True, exist_ok=True)
        write_text(stated, text)
    last = out / LAST_CHECKPOINT
    if not last.is_file():
        return None
    load_plain(last)
    return str(last)
