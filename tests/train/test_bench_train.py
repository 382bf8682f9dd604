"""The benchmark of training reads a store on disk, and says what it measured."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from chextriev.errors import InvalidSetting
from chextriev.train.bench_train import TrainBenchSettings, bench_train
from chextriev.train.feature_store import RegionFeatures

SMALL = TrainBenchSettings(system="global-cnn", backbone="efficientnet-lite0", batch=2, radiographs=70, repeats=2)


def test_the_cached_loop_reads_other_rows_of_a_store_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = RegionFeatures.rows, list[list[int]]()

    def watch(features: RegionFeatures, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        found = read(features, indices)
        assert (found.shape, found.dtype) == ((2, 1, 1280), np.float32)
        asked.append(indices.tolist())
        return found

    monkeypatch.setattr(RegionFeatures, "rows", watch)
    found = bench_train(SMALL)
    assert len(asked) == 3, "a first step that does not count, and the repeats"
    assert len({tuple(rows) for rows in asked}) == 3
    assert json.loads(json.dumps(found)) == found
    assert set(found["radiographs_per_s"]) == {"backbone_every_step", "cached"}
    assert found["cached_times_faster"] > 0
    assert (found["settings"]["radiographs"], found["machine"]["threads"] > 0) == (70, True)


def test_settings_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="v6-e2e trains its backbone"):
        TrainBenchSettings(system="v6-e2e")
    with pytest.raises(InvalidSetting, match="batch 0"):
        TrainBenchSettings(batch=0)
    with pytest.raises(InvalidSetting, match="3 radiographs; at least a batch of 4"):
        TrainBenchSettings(radiographs=3)
