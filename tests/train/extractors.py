"""A stand-in for a backbone, and how the tests of the feature cache run it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.train.features import FeatureSettings

IMAGES = 13
SETTINGS = FeatureSettings(batch=2, shard_rows=5)  # shards of 5, 5 and 3 rows


class Means:
    """A backbone whose six features are means and powers of the crop; it can stop after some calls."""

    backbone, backbone_digest, width, dtype = "means", "a" * 64, 6, "float16"

    def __init__(self, *, stop_after: int = 1000) -> None:
        self.calls, self.stop_after = 0, stop_after

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        mean = crops.mean(axis=(1, 2, 3), dtype=np.float64)
        return np.stack([mean * 10.0**power for power in range(-8, 4, 2)], axis=1).astype(np.float32)


def shards(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("features-*"))
