"""Integers: 7-bit weights, ranges from crops, the bias corrected, and the same answers on every processor."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from chextriev.bundle import DEFAULT, REGION_BACKBONE, open_bundle
from chextriev.errors import InvalidSetting, UnbuildableEngine
from chextriev.export.build_bundle import relative_difference
from chextriev.export.onnx_runner import open_session, session_options
from chextriev.export.quantize import (
    CalibrationSettings,
    HalfBackbone,
    QuantizedBackbone,
    SymmetricBackbone,
    layers_of,
    measure_ranges,
)
from chextriev.preprocess import CropSpec
from chextriev.study_table import StudyTable
from chextriev.systems import find_system
from tests.export.tensorrt_models import cosines
from tests.export.tiny_bundle import TinyBundle, crops_of

Features = npt.NDArray[np.float32]
Crops = npt.NDArray[np.uint8]

FEW = CalibrationSettings(crops=24)


@pytest.fixture(scope="module")
def model(ath: TinyBundle) -> bytes:
    """The float32 backbone of ATH, eight of whose layers may be quantised."""
    bundle = open_bundle(ath.folder)
    return bundle.read(bundle.engine(DEFAULT).files[REGION_BACKBONE])


@pytest.fixture(scope="module")
def crops(ath: TinyBundle) -> Crops:
    """[20, 1, 256, 256], so that batches of six end in a shorter one."""
    return crops_of(ath.table, range(20), find_system("ath").crops)


@pytest.fixture(scope="module")
def reduced(model: bytes, crops: Crops) -> QuantizedBackbone:
    return QuantizedBackbone(model, crops, FEW)


@pytest.fixture(scope="module")
def whole(reduced: QuantizedBackbone) -> bytes:
    return reduced.make()


@pytest.fixture(scope="module")
def region_crops(tiny_study: StudyTable) -> Crops:
    return crops_of(tiny_study, range(2))


@pytest.fixture(scope="module")
def lite0(lite0_engine: bytes, region_crops: Crops) -> QuantizedBackbone:
    return QuantizedBackbone(lite0_engine, region_crops, FEW)


def features(model: bytes, crops: Crops) -> Features:
    found: Features = open_session(model).run(None, {"crops": crops})[0]
    return found


def initializers(model: bytes) -> dict[str, npt.NDArray[np.generic]]:
    graph = onnx.load_model_from_string(model).graph
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def nodes(model: bytes, *types: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_model_from_string(model).graph.node if node.op_type in types]


def integer_weights(model: bytes) -> dict[str, npt.NDArray[np.int8]]:
    found = initializers(model)
    return {name: array for name, array in found.items() if array.dtype == np.int8 and array.ndim == 4}


@pytest.mark.slow
def test_efficientnet_keeps_its_features(lite0: QuantizedBackbone, lite0_engine: bytes, region_crops: Crops) -> None:
    """Real weights; ranges of 36 crops. The fewer layers are in integers, the nearer the features."""
    wanted = features(lite0_engine, region_crops[:18])
    layers = list(lite0.layers)
    least = {}
    for kept in (0, len(layers) - 3):
        engine = lite0.make(layers[:kept])
        least[kept] = float(cosines(features(engine, region_crops[:18]), wanted).min())
        assert len(integer_weights(engine)) == len(layers) - kept
    assert 0.85 < least[0] < least[len(layers) - 3]
    assert least[len(layers) - 3] > 0.99


def test_what_sees_the_crops_and_what_is_grouped_stays_in_float32(lite0: QuantizedBackbone) -> None:
    proto = onnx.load_model_from_string(lite0._model)
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    groups = {node.name: next((a.i for a in node.attribute if a.name == "group"), 1) for node in convolutions}
    assert set(lite0.layers) == {node.name for node in convolutions[1:] if groups[node.name] == 1}
    assert len(lite0.layers) == 32


def test_weights_have_seven_bits_a_channel(whole: bytes, model: bytes) -> None:
    arrays, weights = initializers(whole), integer_weights(whole)
    assert len(weights) == len(layers_of(model)) == 8
    original = initializers(model)
    for node in nodes(whole, "DequantizeLinear"):
        name, scale, zero = node.input
        if name in weights:
            assert np.abs(weights[name].astype(int)).max() <= 64
            assert arrays[scale].shape == arrays[zero].shape == weights[name].shape[:1]
            assert not arrays[zero].any()
            restored = weights[name] * arrays[scale][:, None, None, None]
            error = np.abs(restored - original[name.removesuffix("_quantized")]).max(axis=(1, 2, 3))
            assert (error <= 0.51 * arrays[scale]).all()
    assert max(np.abs(weight.astype(int)).max() for weight in weights.values()) >= 63  # all seven are used


def test_activations_are_unsigned(whole: bytes) -> None:
    arrays = initializers(whole)
    assert {arrays[node.input[2]].dtype for node in nodes(whole, "QuantizeLinear")} == {np.dtype(np.uint8)}


def test_answers_do_not_depend_on_how_the_graph_is_run(whole: bytes, crops: Crops) -> None:
    """Fused integer kernels against pairs of quantise and dequantise; 16-bit sums that saturate would tell them apart.

    An activation that lies halfway between two integers may fall on either: 1/255 of its range.
    """
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])
    (step_by_step,) = plain.run(None, {"crops": crops})
    fused = features(whole, crops)
    assert relative_difference(fused, step_by_step) < 0.02
    assert cosines(fused, step_by_step).min() > 0.9999
    assert np.abs(fused - step_by_step).mean() < 1e-3 * np.abs(step_by_step).mean()


def test_the_mean_error_is_taken_out(reduced: QuantizedBackbone, whole: bytes, model: bytes, crops: Crops) -> None:
    wanted = features(model, crops)
    corrected = np.abs((features(whole, crops) - wanted).mean(axis=0))
    before = np.abs((features(reduced._quantize([]), crops) - wanted).mean(axis=0))
    assert corrected.max() <= 1e-5 * wanted.max()
    assert before.max() > 100 * corrected.max()


PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np
from chextriev.export.quantize import CalibrationSettings, QuantizedBackbone
folder = Path(sys.argv[1])
crops = np.load(folder / "crops.npy")
made = QuantizedBackbone((folder / "model.onnx").read_bytes(), crops, CalibrationSettings(crops=24)).make()
print(hashlib.sha256(made).hexdigest())
"""


def test_the_same_crops_give_the_same_bytes(whole: bytes, model: bytes, crops: Crops, tmp_path: Path) -> None:
    """In another process too, whose sets are in another order."""
    np.save(tmp_path / "crops.npy", crops)
    (tmp_path / "model.onnx").write_bytes(model)
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == hashlib.sha256(whole).hexdigest()
    other = QuantizedBackbone(model, crops, CalibrationSettings(crops=24, quantile=0.99))
    assert other.make() != whole


def test_a_layer_that_is_broken_ranks_first(model: bytes, crops: Crops) -> None:
    broken = QuantizedBackbone(model, crops[:6], FEW)
    ranked = broken.rank_layers()
    assert sorted(name for name, _ in ranked) == sorted(broken.layers)
    assert [loss for _, loss in ranked] == sorted((loss for _, loss in ranked), reverse=True)
    layer = next(name for name, weights in broken.layers.items() if weights == "trunk.attention.weigh.weight")
    assert layer != ranked[0][0]
    (seen,) = [node.input[0] for node in nodes(model, "Conv") if node.name == layer]
    broken._ranges[seen] = (0.0, 1e-6)
    (worst, loss), *_ = broken.rank_layers()
    assert worst == layer
    assert loss > 2 * ranked[0][1]


@pytest.mark.parametrize("kind", [QuantizedBackbone, SymmetricBackbone, HalfBackbone])
def test_at_least_one_layer_must_be_reduced(
    kind: type[QuantizedBackbone], model: bytes, crops: Crops, reduced: QuantizedBackbone
) -> None:
    made = kind(model, crops[:2], FEW)
    with pytest.raises(UnbuildableEngine, match="no layer is left to quantise; use the float32 engine"):
        made.make(list(made.layers))
    last = list(made.layers)[-1]
    assert len(integer_weights(made.make([name for name in made.layers if name != last]))) == (kind is not HalfBackbone)


def test_a_backbone_without_layers_is_refused(crops: Crops) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["crops"], ["features"], "cast", to=TensorProto.FLOAT)],
        "nothing",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 1, 256, 256])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1, 256, 256])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    with pytest.raises(UnbuildableEngine, match="no convolution to quantise"):
        QuantizedBackbone(content, crops)


def test_whole_images_are_crops_like_others(regions: TinyBundle) -> None:
    """As global-cnn sees them, by the backbone that serves regions."""
    bundle = open_bundle(regions.folder)
    float32 = bundle.read(bundle.engine(DEFAULT).files[REGION_BACKBONE])
    images = crops_of(regions.table, range(6), CropSpec(area="image"))
    assert images.shape == (6, 1, 224, 224)
    engine = QuantizedBackbone(float32, images, FEW).make()
    assert cosines(features(engine, images), features(float32, images)).min() > 0.99


def test_ranges_hold_all_but_the_tails(model: bytes, crops: Crops) -> None:
    """The share beyond the quantile is clipped, batch by batch; zero, of which padding is made, is always inside."""
    batches = [crops[:10], crops[10:]]
    every, most = (measure_ranges(model, iter(batches), quantile) for quantile in (1.0, 0.9))
    (output,) = onnx.load_model_from_string(model).graph.output
    found = features(model, crops)
    assert every[output.name] == pytest.approx((min(0, found.min()), found.max()))
    assert most[output.name][1] == pytest.approx(max(np.quantile(features(model, part), 0.9) for part in batches))
    for name, (low, high) in every.items():
        assert low <= most[name][0] <= 0 <= most[name][1] <= high


def test_symmetric_integers_have_no_zero_point(model: bytes, crops: Crops) -> None:
    engine = SymmetricBackbone(model, crops, FEW).make()
    arrays = initializers(engine)
    pairs = nodes(engine, "QuantizeLinear", "DequantizeLinear")
    assert len(pairs) >= 2 * 8
    assert {arrays[node.input[2]].dtype for node in pairs} == {np.dtype(np.int8)}
    assert not any(arrays[node.input[2]].any() for node in pairs)
    assert {arrays[node.input[1]].dtype for node in pairs} == {np.dtype(np.float16)}


def test_float16_keeps_the_layers_it_is_told_to(model: bytes, crops: Crops) -> None:
    half, wanted = HalfBackbone(model, crops, FEW), features(model, crops)
    first, *_ = half.layers

    def widths(keep: Collection[str]) -> list[np.dtype]:
        engine = half.make(keep)
        assert relative_difference(features(engine, crops), wanted) < 0.01
        return [array.dtype for name, array in initializers(engine).items() if array.ndim == 4 and "weight" in name]

    assert set(widths([])) == {np.dtype(np.float16)}
    assert widths([first]).count(np.dtype(np.float32)) == 1


@pytest.mark.parametrize("wrong", [{"crops": 0}, {"batch": 0}, {"seed": -1}, {"quantile": 0.5}, {"quantile": 1.1}])
def test_settings_outside_their_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidSetting, match=r"crops and batch from 1, seed from 0, quantile over \.5 to 1"):
        CalibrationSettings(**wrong)  # type: ignore[arg-type]
