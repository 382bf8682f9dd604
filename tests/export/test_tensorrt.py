"""ONNX models become TensorRT plans: parsed and compiled for real, by TensorRT for RTX where there is no GPU."""

import doctest
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime import quantization

from chextriev.errors import DamagedArtifact, InvalidSetting, MissingDependency, OtherMachine, UnbuildableEngine
from chextriev.export import tensorrt_machine, tensorrt_session
from chextriev.export.qdq_for_tensorrt import make_symmetric_qdq, measure_ranges, quantizable, to_float16
from chextriev.export.tensorrt_machine import PlanKey, TensorRT, check_machine, find_tensorrt, this_machine
from chextriev.export.tensorrt_session import TensorRTSession, profile_for, split_rows
from chextriev.export.to_tensorrt import PlanSettings, backbone_settings, build_plan, encoder_settings
from tests.export.tensorrt_models import (
    SIDE,
    answers,
    block_crops,
    cosines,
    graph_encoder,
    relative_difference,
    small_backbone,
)

SMALL = PlanSettings("crops", (4, 16))
HERE = PlanKey("tensorrt", "10.16.1.11", "NVIDIA H100 80GB HBM3")
no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")


@pytest.fixture(scope="module")
def tensorrt() -> TensorRT:
    """One that can build here; without it these tests are skipped."""
    try:
        found = find_tensorrt()
        this_machine(found)
    except MissingDependency as error:
        pytest.skip(str(error))
    return found


@pytest.fixture(scope="module")
def backbone(lite0_engine: bytes) -> bytes:
    return lite0_engine


@pytest.fixture(scope="module")
def small_qdq() -> bytes:
    model = small_backbone()
    return make_symmetric_qdq(model, measure_ranges(model, [{"crops": block_crops(8, SIDE)}]))


def test_profiles_serve_one_eight_and_thirty_two_radiographs() -> None:
    assert backbone_settings(18).profiles == ((1, 18), (19, 144), (145, 576))
    assert encoder_settings().profiles == backbone_settings(1).profiles == ((1, 1), (2, 8), (9, 32))


@pytest.mark.parametrize("batches", [(), (0, 4), (4, 4), (8, 4)])
def test_profiles_that_do_not_rise_are_refused(batches: tuple[int, ...]) -> None:
    with pytest.raises(InvalidSetting, match="give rising batches"):
        PlanSettings("crops", batches)
    with pytest.raises(InvalidSetting, match="at least 1 MiB"):
        PlanSettings("crops", (1,), workspace_mib=0)


@pytest.mark.parametrize("rows", [0, 1, 18, 19, 576, 577, 1500])
def test_every_row_is_in_one_batch_that_a_profile_takes(rows: int) -> None:
    profiles = backbone_settings(18).profiles
    pieces = split_rows(rows, profiles)
    assert [row for piece in pieces for row in range(rows)[piece]] == list(range(rows))
    for piece in pieces:
        low, high = profiles[profile_for(piece.stop - piece.start, profiles)]
        assert low <= piece.stop - piece.start <= high
    with pytest.raises(InvalidSetting, match="no profile of the plan takes 577 rows"):
        profile_for(577, profiles)


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(tensorrt_session) == (0, 2)


def test_a_plan_is_for_one_tensorrt_and_gpu() -> None:
    assert HERE.folder == "tensorrt-10.16.1.11-nvidia-h100-80gb-hbm3"
    check_machine(HERE, PlanKey("tensorrt", "10.16.1.11", "NVIDIA H100 80GB HBM3"))
    for other in (
        PlanKey("tensorrt_rtx", HERE.version, HERE.gpu),
        PlanKey(HERE.runtime, "10.16.1.12", HERE.gpu),
        PlanKey(HERE.runtime, HERE.version, "NVIDIA H200"),
    ):
        assert other.folder != HERE.folder
        with pytest.raises(
            OtherMachine, match=r"was built by TensorRT .* this machine has .*H100.*; build it here: chex"
        ):
            check_machine(other, HERE)
    with pytest.raises(InvalidSetting, match="tensorrt, tensorrt_rtx"):
        PlanKey("abacus", "1", "none")


def test_a_missing_tensorrt_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, *, extra: str) -> None:
        raise MissingDependency(module)

    monkeypatch.setattr(tensorrt_machine, "require", absent)
    with pytest.raises(MissingDependency, match=r"pip install 'chextriev\[gpu-tensorrt\]'"):
        find_tensorrt()


def test_a_tensorrt_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: str, *, extra: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(tensorrt_machine, "require", broken)
    with pytest.raises(MissingDependency, match=r"tensorrt is installed but cannot be loaded \(libcudart"):
        find_tensorrt()


@no_cuda
def test_tensorrt_needs_a_gpu() -> None:
    with pytest.raises(MissingDependency, match=r"TensorRT 10\.16 needs an NVIDIA GPU, and torch sees none"):
        this_machine(TensorRT(None, "tensorrt", "10.16"))


def test_a_session_refuses_a_plan_of_another_machine_unread(tensorrt: TensorRT) -> None:
    with pytest.raises(OtherMachine, match=f"this machine has TensorRT.* {tensorrt.version}"):
        TensorRTSession(b"not a plan", PlanKey(tensorrt.runtime, "1.0", "GeForce 256"))


@no_cuda
def test_a_session_needs_a_gpu(tensorrt: TensorRT) -> None:
    with pytest.raises(MissingDependency, match="runs plans on an NVIDIA GPU, and torch sees none here"):
        TensorRTSession(b"not a plan", this_machine(tensorrt))


def test_float16_keeps_inputs_and_outputs(backbone: bytes) -> None:
    halved = onnx.load_model_from_string(to_float16(backbone))
    onnx.checker.check_model(halved, full_check=True)
    assert halved.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert halved.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in halved.graph.initializer}
    crops = block_crops(2, 224)
    (expected,), (found,) = answers(backbone, crops), answers(halved.SerializeToString(), crops)
    assert cosines(found, expected).min() > 0.999


def test_backbone_and_encoder_build_in_float16(tensorrt: TensorRT, backbone: bytes, tmp_path: Path) -> None:
    encoder = graph_encoder(tmp_path)
    plans = [
        build_plan(to_float16(backbone), backbone_settings(18), timing_cache=tmp_path / "timings"),
        build_plan(to_float16(encoder), encoder_settings()),
    ]
    assert len(plans[0]) < 0.7 * len(backbone)
    assert len(plans[1]) > 10_000
    assert (tmp_path / "timings").exists() == (tensorrt.runtime == "tensorrt")
    features = np.random.default_rng(0).random((2, 18, 64), np.float32)
    for found, expected in zip(answers(to_float16(encoder), features), answers(encoder, features), strict=True):
        assert relative_difference(found, expected) < 5e-3


def test_int8_is_symmetric_and_a_channel_has_a_scale(small_qdq: bytes) -> None:
    graph = onnx.load_model_from_string(small_qdq).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    by_output = {node.output[0]: node for node in pairs}
    convolutions = {node.name: node for node in graph.node if node.op_type == "Conv"}
    assert {name for name, node in convolutions.items() if node.input[0] in by_output} == {"mix", "head"}
    weights = by_output[convolutions["head"].input[1]]
    assert constants[weights.input[0]].dtype == np.int8
    assert constants[weights.input[1]].shape == (24,)
    assert constants[convolutions["head"].input[2]].dtype == np.float32
    relu, add = (next(node for node in graph.node if node.name == name) for name in ("relu4", "add"))
    assert relu.input[0] == convolutions["head"].output[0]  # nothing between them that would keep TensorRT from fusing
    assert add.input[0] == convolutions["mix"].output[0]


def test_int8_builds_with_float32_and_float16_around_it(tensorrt: TensorRT, small_qdq: bytes) -> None:
    halved = to_float16(small_qdq)
    onnx.checker.check_model(onnx.load_model_from_string(halved), full_check=True)
    assert all(len(build_plan(model, SMALL)) > 1000 for model in (small_qdq, halved))
    crops = block_crops(6, SIDE, seed=1)
    (expected,), (found,) = answers(small_backbone(), crops), answers(halved, crops)
    assert cosines(found, expected).min() > 0.999


def test_the_int8_backbone_keeps_its_features_and_builds(tensorrt: TensorRT, backbone: bytes) -> None:
    ranges = measure_ranges(backbone, [{"crops": block_crops(4, 224, seed)} for seed in (1, 2)])
    quantized = make_symmetric_qdq(backbone, ranges)
    assert len(quantized) < len(backbone) / 2
    crops = block_crops(2, 224)
    (expected,), (found,) = answers(backbone, crops), answers(quantized, crops)
    assert cosines(found, expected).min() > 0.97
    assert len(build_plan(to_float16(quantized), backbone_settings(18))) > 1_000_000


def test_what_is_kept_stays_in_floating_point() -> None:
    model = small_backbone()
    assert quantizable(model) == {"mix": "r2", "head": "sum"}
    ranges = measure_ranges(model, [{"crops": block_crops(4, SIDE)}], quantile=1)
    kept = onnx.load_model_from_string(make_symmetric_qdq(model, {"r2": ranges["r2"]}, keep=["head"])).graph
    assert [node.input[0] for node in kept.node if node.name == "head"] == ["sum"]
    with pytest.raises(InvalidSetting, match="ranges lack 1 tensors, such as sum; calibrate on the same model"):
        make_symmetric_qdq(model, {"r2": ranges["r2"]})
    with pytest.raises(InvalidSetting, match="nodes to keep are not quantised anyway: depthwise"):
        make_symmetric_qdq(model, ranges, keep=["depthwise"])
    with pytest.raises(InvalidSetting, match="nothing is left to quantise"):
        make_symmetric_qdq(model, ranges, keep=["mix", "head"])


def test_a_range_is_that_of_the_widest_batch() -> None:
    model, batches = small_backbone(), [{"crops": block_crops(4, SIDE, seed)} for seed in (0, 1)]
    alone = [measure_ranges(model, [batch], quantile=1)["sum"] for batch in batches]
    assert alone[0] != alone[1]
    assert measure_ranges(model, batches, quantile=1)["sum"] == max(alone, key=lambda bounds: bounds[1])
    low, high = measure_ranges(model, batches, quantile=0.9)["sum"]
    assert 0 < high == -low < max(alone[0][1], alone[1][1])
    with pytest.raises(InvalidSetting, match="nothing to calibrate on"):
        measure_ranges(model, [])
    with pytest.raises(InvalidSetting, match=r"quantile 1\.5 is not in 0\.\.1"):
        measure_ranges(model, batches, quantile=1.5)


class Crops(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self._left = [{"crops": block_crops(4, SIDE)}]

    def get_next(self) -> dict[str, object] | None:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"QuantizeBias": False}, "Non-zero zero point"), ({}, "b1_DequantizeLinear: input has type Int32")],
)
def test_the_qdq_of_a_cpu_is_refused_in_words(
    tensorrt: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], reason: str
) -> None:
    (tmp_path / "float.onnx").write_bytes(small_backbone())
    monkeypatch.setattr("logging.warning", lambda *_: None)  # it advises to prepare the model
    quantization.quantize_static(tmp_path / "float.onnx", tmp_path / "int8.onnx", Crops(), extra_options=options)
    with pytest.raises(UnbuildableEngine, match=f"{reason}.*; it takes float32, float16 and symmetric int8"):
        build_plan((tmp_path / "int8.onnx").read_bytes(), SMALL)


@pytest.mark.parametrize("content", [b"", b"not a model" * 9, small_backbone()[:-2000]])
def test_a_broken_file_is_refused(tensorrt: TensorRT, content: bytes) -> None:
    with pytest.raises(UnbuildableEngine, match="TensorRT cannot read the ONNX model"):
        build_plan(content, SMALL)
    if content:
        with pytest.raises(DamagedArtifact, match="not an ONNX file"):
            to_float16(content)


def test_other_inputs_are_refused(tensorrt: TensorRT) -> None:
    with pytest.raises(UnbuildableEngine, match="has the inputs crops; features alone is needed"):
        build_plan(small_backbone(), encoder_settings())
    with pytest.raises(UnbuildableEngine, match=r"has shape \[4, 1, 32, 32\].*first dimension alone must be free"):
        build_plan(small_backbone(rows=4), SMALL)


def test_what_cannot_be_compiled_is_refused_in_words(tensorrt: TensorRT) -> None:
    with pytest.raises(UnbuildableEngine, match=r"TensorRT cannot build the engine: .*rows"):
        build_plan(small_backbone(), PlanSettings("crops", (2**31 - 1,)))
