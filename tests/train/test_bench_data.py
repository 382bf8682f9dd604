"""The benchmark of the data stages runs and says what it measured."""

import json

import pytest

from chextriev.errors import InvalidSetting
from chextriev.train.bench_data import DataBenchSettings, bench_data
from tests.train.extractors import Means


def test_every_figure_is_there() -> None:
    settings = DataBenchSettings(scene_graphs=30, radiographs=3, height=300, batch=2, repeats=1)
    found = bench_data(settings, {"torch": lambda _: Means(), "onnx": lambda _: Means()})
    assert json.loads(json.dumps(found)) == found
    assert found["prepare"]["scene_graphs_per_s"] > 0
    assert found["prepare"]["bytes_per_scene_graph"] > 10_000
    features = found["features"]
    assert features["image_pixels"][1] == 300
    assert features["decode_and_crop_per_s"] > 0
    assert set(features["extract_per_s"]) == set(features["stage_per_s"]) == {"torch", "onnx"}
    assert features["ratio"]["torch"] == 1.0
    assert set(found["machine"]) == {"arithmetic", "cores", "cpu", "python"}


def test_settings_and_engines_are_checked() -> None:
    with pytest.raises(InvalidSetting, match="repeats is 0"):
        DataBenchSettings(repeats=0)
    with pytest.raises(InvalidSetting, match="no engine"):
        bench_data(DataBenchSettings(), {})
