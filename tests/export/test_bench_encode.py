"""The bench measures what it says: a plain pipeline that computes the same, and every number that it promises."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from chextriev.cli import main
from chextriev.encoder import open_encoder
from chextriev.errors import InvalidSetting
from chextriev.export.bench import measure_encode
from chextriev.export.bench_baseline import PlainPipeline
from chextriev.export.bench_bundle import EncodeBenchSettings, Subject, make_subject, write_sample
from chextriev.export.build_bundle import PARITY_LIMIT, relative_difference
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.export.fold import fold_encoder
from chextriev.radiograph import read_boxes, read_radiograph
from chextriev.train.encoders import new_encoder
from chextriev.variants import VARIANTS, VariantSpec
from tests.export.tiny_bundle import narrow

SMALL = {"width": 32, "heads": 2, "head_width": 8}
SETTINGS = EncodeBenchSettings(
    system=replace(VARIANTS["v6"], **SMALL),
    height=300,
    width=250,
    batch=1,
    repeats=1,
    starts=1,
)
PIPELINES = {"baseline", "onnx-fp32", "onnx-int8"}
PARTS = {"decode", "crops", "backbone", "encoder", "end_to_end"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of eager PyTorch wait for each other in loops, for seconds where other work has the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    with pytest.MonkeyPatch.context() as patch:
        narrow(patch)
        return make_subject(tmp_path_factory.mktemp("bench"), SETTINGS, ["onnx-int8"])


@pytest.fixture(scope="module")
def found(subject: Subject) -> dict[str, Any]:
    content = measure_encode(subject, SETTINGS)
    copy: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    assert copy == content
    return copy


def test_the_plain_graph_computes_what_is_served(subject: Subject) -> None:
    features = torch.randn(2, 18, 2048, generator=torch.Generator().manual_seed(0))
    served = open_encoder(subject.bundle).relate(features.numpy(), ["a", "b"]).vectors
    plain = PlainPipeline(subject.backbone, subject.trained).embedding(features)
    assert relative_difference(plain.numpy(), served) <= 1e-5


@pytest.mark.parametrize("spec", [VARIANTS["v4"], VARIANTS["v1"]], ids=lambda spec: spec.name)
def test_the_plain_graph_computes_what_engines_are_made_from(subject: Subject, spec: VariantSpec) -> None:
    torch.manual_seed(0)
    encoder = new_encoder(replace(spec, **SMALL), 2048, torch.randint(0, 2, (18, 18))).eval()
    features = torch.randn(2, 18, 2048)
    with torch.inference_mode():
        served = fold_encoder(encoder)(features).embedding
    plain = PlainPipeline(subject.backbone, TrainedEncoder(encoder, 2048, {})).embedding(features)
    assert relative_difference(plain.numpy(), served.numpy()) <= 1e-5


def test_the_plain_pipeline_computes_what_the_engine_does(subject: Subject) -> None:
    sample = subject.sample
    plain = PlainPipeline(subject.backbone, subject.trained).encode([(sample.image, sample.boxes)] * 2)
    served = open_encoder(subject.bundle).encode([read_radiograph(sample.image, sample.boxes_file)])
    assert plain.shape == (2, 32)
    for row in plain.numpy():
        assert relative_difference(row, served.vectors[0]) <= PARITY_LIMIT


def test_the_engine_in_integers_is_one(subject: Subject) -> None:
    bundle = subject.bundle
    assert bundle.size("onnx-int8") < 0.5 * bundle.size("onnx-fp32")
    assert {"QuantizeLinear", "DequantizeLinear"} <= _operators(
        bundle.engine("onnx-int8").files["region_backbone"], subject
    )


def _operators(name: str, subject: Subject) -> set[str]:
    import onnx

    return {node.op_type for node in onnx.load_model_from_string(subject.bundle.read(name)).graph.node}


@pytest.mark.slow
def test_every_part_of_every_pipeline_is_timed(found: dict[str, Any]) -> None:
    for unit in ("ms", "cpu_ms"):
        assert set(found[unit]) == PIPELINES
        assert all(set(parts) == PARTS for parts in found[unit].values())
        assert all(value > 0 for parts in found[unit].values() for value in parts.values())
    assert set(found["radiographs_per_s"]) == PIPELINES
    assert set(found["times_faster"]) == {
        "onnx-fp32 than baseline",
        "onnx-int8 than baseline",
        "onnx-int8 than onnx-fp32",
    }
    assert all(set(ratios) == {*PARTS, "in_batches"} for ratios in found["times_faster"].values())
    assert found["times_faster"]["onnx-int8 than onnx-fp32"]["decode"] == 1
    assert found["radiograph"]["crops"] == 18


@pytest.mark.slow
def test_targets_say_what_was_measured(found: dict[str, Any]) -> None:
    targets, process = found["targets"], found["process"]["onnx-int8"]
    assert len(targets) == 7
    for name, target in targets.items():
        assert math.isfinite(target["measured"])
        times = ", times " in name
        assert target["met"] == (
            target["measured"] >= target["target"] if times else target["measured"] <= target["target"]
        )
    assert targets["memory of a served int8 encoder, MB"]["measured"] == process["peak_memory_mb"]
    assert targets["int8 cold start to first embedding, s"]["measured"] == process["cold_start_s"]
    faster = found["times_faster"]["onnx-int8 than baseline"]["end_to_end"]
    assert targets["int8 end to end, times the baseline"]["measured"] == faster


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx-fp32", "onnx-int8"])
def test_a_serving_process_loads_what_it_needs(found: dict[str, Any], engine: str) -> None:
    process = found["process"][engine]
    assert process["heavy_imports"] == []
    assert list(process["steps_s"]) == ["imported", "opened", "first embedding"]
    assert sum(process["steps_s"].values()) == pytest.approx(process["cold_start_s"])
    memory = process["peak_memory_until_mb"]
    assert 20 < memory["opened"] <= memory["first embedding"] <= process["peak_memory_mb"]


def test_the_radiograph_is_as_large_as_one(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, EncodeBenchSettings())
    assert sample.image.stat().st_size == pytest.approx(2e6, rel=0.25)
    with Image.open(sample.image) as image:
        assert (image.mode, image.size) == ("L", (2500, 3000))
    np.testing.assert_array_equal(read_boxes(sample.boxes_file, image_id="any").xyxy, sample.boxes.xyxy)


def test_a_system_without_a_graph_is_refused(subject: Subject) -> None:
    trained = TrainedEncoder(new_encoder(VARIANTS["v0-global"], 2048), 2048, {})
    with pytest.raises(InvalidSetting, match="v0-global has no graph"):
        PlainPipeline(subject.backbone, trained)


def test_settings_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidSetting, match="batch, repeats and starts are at least 1"):
        EncodeBenchSettings(starts=0)
    assert main(["bench", "encode", "--device", "tpu"]) == 2
    assert "device 'tpu'; choose one of cpu, cuda" in capsys.readouterr().err
