"""Pooling in channels last gives the same integers."""

import numpy as np
import onnx
import pytest

from chextriev.bundle import DEFAULT, REGION_BACKBONE, open_bundle
from chextriev.export.channels_last import DOMAIN, pool_channels_last
from chextriev.export.onnx_runner import open_session
from chextriev.export.quantize import CalibrationSettings, QuantizedBackbone
from tests.export.tiny_bundle import TinyBundle, crops_of


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_pool_of_a_resnet_moves_and_its_answers_stay(
    regions_made: TinyBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, crops = open_bundle(regions_made.folder), crops_of(regions_made.table, range(2))
    reduced = QuantizedBackbone(
        bundle.read(bundle.engine(DEFAULT).files[REGION_BACKBONE]), crops, CalibrationSettings(crops=36)
    )
    moved = reduced.make()
    monkeypatch.setattr("chextriev.export.quantize.pool_channels_last", lambda model: None)
    plain = reduced.make()
    assert kinds(onnx.load_model_from_string(plain)).count("MaxPool") == 1
    assert "MaxPool" not in kinds(onnx.load_model_from_string(moved))
    assert kinds(onnx.load_model_from_string(moved)).count("NhwcMaxPool") == 1
    answers = [open_session(model).run(None, {"crops": crops})[0] for model in (plain, moved)]
    np.testing.assert_array_equal(*answers)


def test_a_pool_that_others_read_too_stays() -> None:
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        make("MaxPool", ["x"], ["pooled"], "pool", kernel_shape=[2, 2]),
        make("QuantizeLinear", ["pooled", "scale", "zero"], ["q"], "quantise"),
        make("Relu", ["pooled"], ["y"], "other"),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.float32(0.1), "scale"),
        onnx.numpy_helper.from_array(np.uint8(0), "zero"),
    ]
    shape = [1, 1, 4, 4]
    outputs = [info("q", onnx.TensorProto.UINT8, None), info("y", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", onnx.TensorProto.FLOAT, shape)], outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    before = model.SerializeToString(deterministic=True)
    pool_channels_last(model)
    assert model.SerializeToString(deterministic=True) == before
    assert DOMAIN not in {opset.domain for opset in model.opset_import}
