"""What the tests of training share: a stand-in for a backbone, a small system, the words of a run."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

WIDTH = 16
SMALL = "{name: tiny, positions: true, edges: learned, width: 32, heads: 2, head_width: 8}"


class MeanGrey:
    """16 mean grey levels of a crop."""

    backbone, backbone_digest, width, dtype = "mean-grey", "0" * 64, WIDTH, "float16"

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        blocks = crops.reshape(len(crops), 4, 56, 4, 56).mean(axis=(2, 4))
        return blocks.reshape(len(crops), WIDTH).astype(np.float32) / 255


def data_words(data: Path, features: str = "features") -> list[str]:
    """Where the study table and the features lie."""
    return ["--data.features", str(data / features), "--data.table", str(data / "study")]


QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false", "--logger", "none"]
