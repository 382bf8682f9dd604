"""`chextriev train`: Lightning's command line around our module and data, writing a run that is complete or not.

A run is an artefact of kind "training run": `best.ckpt` (by validation AUROC) and, outside its digest because they name
places and times, `last.ckpt`, `config.yaml` and TensorBoard events. The manifest is written when training ends. An
interrupted run has none; the same command goes on from its `last.ckpt`, which is written at the end of every epoch.
"""

import json
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from chextriev.artifacts import Manifest, Recipe, digest_of, find_current, seal, write_text
from chextriev.errors import NotAnArtifact, OutputExists
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import FeatureData
from chextriev.train.run_files import BEST_CHECKPOINT, KIND, LAST_CHECKPOINT
from chextriev.train.torch_files import load_plain

RECIPE_FILE = "recipe.json"
METHOD = 2
"""Part of every run's recipe; raise it when the same settings and data begin to give other weights."""

_PLACES = (  # where things are and how they are shown: no part of a run's identity
    *("config", "out", "ckpt_path", "weights_only", "data.features", "data.table", "best.dirpath"),
    *("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
)
_EXPECTED_WARNINGS = (
    r"LightningCLI's args parameter is intended.*",  # our command line has read its part of sys.argv already
    r".*does not have many workers.*",  # the cache is memory-mapped; workers would only copy
    r".*smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 beside torch 2.13
)


class TrainCommand(LightningCLI):
    """fit, validate and test; `--out` names the run."""

    manifest: Manifest
    reused = False

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our run directory, the two callbacks of the paper's schedule, and what the model learns from the data."""
        parser.add_argument("--out", type=Path, default=Path("run"), help="directory of the run")
        parser.add_lightning_class_args(ModelCheckpoint, "best")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(_CALLBACKS)
        parser.link_arguments("out", "best.dirpath", compute_fn=str)
        parser.link_arguments("out", "trainer.default_root_dir", compute_fn=str)
        parser.link_arguments("data.feature_width", "model.feature_width", apply_on="instantiate")
        parser.link_arguments("data.provenance", "model.provenance", apply_on="instantiate")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """TensorBoard beside the checkpoints unless the configuration names another logger; only fit logs."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand != "fit":
            options["logger"] = False
        elif config["logger"] in (None, True):
            options["logger"] = TensorBoardLogger(self._get(self.config_init, "out"), name="", version="")
        return super().instantiate_trainer(**options)

    def fit(self, model: LightningModule, **options: Any) -> None:
        """Train, or go on with an interrupted run, or reuse a complete one; then declare the run complete."""
        out, recipe = Path(self._get(self.config, "out")), self._recipe()
        current = find_current(out, KIND, recipe)
        if current is not None:
            self.manifest, self.reused = current, True
            return
        unfinished = _claim(out, recipe)
        # At the end of an epoch, never within one: a loader cannot go on in the middle of its order.
        last = ModelCheckpoint(dirpath=out, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.trainer.callbacks.append(last)  # type: ignore[attr-defined]
        self.parser.save(self.config, str(out / "config.yaml"), overwrite=True, multifile=False)
        self.trainer.fit(model, **{**options, "ckpt_path": unfinished})
        if not (out / BEST_CHECKPOINT).is_file():
            raise NotAnArtifact(f"{out}: training ended without a validated checkpoint, so the run is not complete")
        self.manifest = seal(out, KIND, recipe, self._facts(), names=[BEST_CHECKPOINT])

    def validate(self, model: LightningModule, **options: Any) -> None:
        """Measure the run's best checkpoint, or `--ckpt_path`, on the validate split."""
        self.trainer.validate(model, **self._with_checkpoint(options))

    def test(self, model: LightningModule, **options: Any) -> None:
        """Measure the run's best checkpoint, or `--ckpt_path`, on the test split."""
        self.trainer.test(model, **self._with_checkpoint(options))

    def _with_checkpoint(self, options: dict[str, Any]) -> dict[str, Any]:
        path = options.get("ckpt_path") or Path(self._get(self.config, "out")) / BEST_CHECKPOINT
        load_plain(Path(path))
        return {**options, "ckpt_path": str(path)}

    def _recipe(self) -> Recipe:
        settings = json.loads(self.parser.dump(self.config, format="json"))[self.subcommand]
        for place in _PLACES:
            *group, name = place.split(".")
            (settings[group[0]] if group else settings).pop(name, None)
        provenance = self.datamodule.provenance
        parents = {"region features": provenance["features_digest"], "study table": provenance["table_digest"]}
        return Recipe({"method": METHOD, **settings}, parents)

    def _facts(self) -> dict[str, Any]:
        callbacks = [item for item in self.trainer.callbacks if isinstance(item, ModelCheckpoint)]  # type: ignore[attr-defined]
        scores = [item.best_model_score for item in callbacks if item.best_model_score is not None]
        return {
            "best_val_auroc": float(scores[0]) if scores else None,
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
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
    """Run `fit`, `validate` or `test` with Lightning's arguments."""
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
                trainer_defaults={"enable_progress_bar": sys.stderr.isatty()},
                save_config_callback=None,
            )
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit status 1
                raise KeyboardInterrupt from stop
            raise
        finally:
            signal.signal(signal.SIGINT, handler)


def _claim(out: Path, recipe: Recipe) -> str | None:
    """Prepare `out` for this recipe; the checkpoint to go on from if it holds an interrupted run of the same recipe."""
    stated = out / RECIPE_FILE
    text = json.dumps({"digest": digest_of({"settings": recipe.settings, "parents": recipe.parents})}) + "\n"
    same = stated.is_file() and stated.read_bytes() == text.encode()
    if not same and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExists(
            f"{out} holds something else than a run of these settings; choose another --out or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(stated, text)
    last = out / LAST_CHECKPOINT
    if not last.is_file():
        return None
    load_plain(last)
    return str(last)
