"""What a training run leaves behind, for the stages that read it without training anything."""

from pathlib import Path

from chextriev.artifacts import Manifest, open_artifact

KIND = "training run"
BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"


def open_run(directory: str | Path) -> tuple[Path, Manifest]:
    """The best checkpoint of a complete run and its manifest, verified."""
    manifest = open_artifact(Path(directory), KIND)
    return Path(directory) / BEST_CHECKPOINT, manifest
