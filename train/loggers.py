"""What keeps the curves of a run: TensorBoard, or Weights & Biases or MLflow where they are installed.

Each writes under the run's directory and sends nothing anywhere, unless the person's own environment asks for it
(`WANDB_MODE=online`, `MLFLOW_TRACKING_URI`). What is kept: losses and metrics, the settings of the system, digests of
the data; no id of a patient or an image. Their files name the machine, so they are no part of a run's digest.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from chextriev.optional import require

LoggerName = Literal["tensorboard", "wandb", "mlflow", "none"]

PROJECT = "chextriev"
_REPORTS_TO_ITS_MAKER = {"wandb": ("WANDB_ERROR_REPORTING", "false"), "mlflow": ("MLFLOW_DISABLE_TELEMETRY", "true")}
"""The variable of each library that stops it, read when it is imported; what a person has set stands."""


def check_logger(name: LoggerName) -> None:
    """MissingDependency, with the extra to install, where the logger's library is missing."""
    if name in _REPORTS_TO_ITS_MAKER:
        os.environ.setdefault(*_REPORTS_TO_ITS_MAKER[name])
        require(name, extra=name)


def logger_options(name: LoggerName, out: Path) -> dict[str, Any]:
    """Arguments of Lightning's logger for the run in `out`."""
    check_logger(name)
    if name == "wandb":
        return _wandb_options(out)
    if name == "mlflow":
        return _mlflow_options(out)
    return {"save_dir": out, "name": "", "version": ""}


@contextmanager
def kept_environment() -> Iterator[None]:
    """Undo what the loggers set, or the next training of this process would write to the place of this one."""
    names = ("MLFLOW_TRACKING_URI", "WANDB_CACHE_DIR", "WANDB_MODE")
    before = {name: os.environ[name] for name in names if name in os.environ}
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _wandb_options(out: Path) -> dict[str, Any]:
    wandb = require("wandb", extra="wandb")
    # Else it keeps the command line, the printed text and what it finds out about the machine and the git checkout.
    private = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        silent=True,
    )
    offline = os.environ.get("WANDB_MODE", "offline") in ("offline", "dryrun")
    if offline:
        os.environ.setdefault("WANDB_CACHE_DIR", str(out.absolute() / "wandb" / "cache"))
    return {"project": PROJECT, "name": out.name, "save_dir": out, "offline": offline, "settings": private}


def _mlflow_options(out: Path) -> dict[str, Any]:
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells how it makes its database
    options = {"experiment_name": PROJECT, "run_name": out.name}
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    if tracking:
        return {**options, "tracking_uri": tracking}
    local = out.absolute()
    artefacts = (local / "mlflow-artifacts").as_uri()
    return {**options, "tracking_uri": f"sqlite:///{local / 'mlflow.db'}", "artifact_location": artefacts}
