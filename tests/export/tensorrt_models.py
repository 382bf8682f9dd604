"""Models that the tests of TensorRT build, on a CPU and on a GPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from chextriev.export.to_onnx import write_onnx
from chextriev.train.backbones import load_backbone, region_extractor
from chextriev.train.encoders import new_encoder
from chextriev.variants import VARIANTS

SIDE = 32
Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


def block_crops(count: int, side: int, seed: int = 0) -> Images:
    """[count, 1, side, side]: blocks of a sixteenth."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 1, side // 16, side // 16))
    return np.kron(coarse, np.ones((16, 16))).astype(np.uint8)


def small_backbone(*, rows: str | int = "rows") -> bytes:
    """Crops of 32 pixels to 24 features: the kinds of convolutions that backbones have, in a dozen kilobytes."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        scale = 1 / np.sqrt(np.prod(shape[1:], initial=1))
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", ["crops"], ["levels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["levels", "w1", "b1"], ["c1"], "stem", strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "depthwise", group=16, pads=[1] * 4),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"], "mix"),
        helper.make_node("Add", ["c3", "r1"], ["sum"], "add"),
        helper.make_node("Conv", ["sum", "w4", "b4"], ["c4"], "head", pads=[1] * 4),
        helper.make_node("Relu", ["c4"], ["r4"], "relu4"),
        helper.make_node("ReduceMean", ["r4", "axes"], ["features"], "pool", keepdims=0),
    ]
    shapes = {"w1": (16, 1, 3, 3), "w2": (16, 1, 3, 3), "w3": (16, 16, 1, 1), "w4": (24, 16, 3, 3)}
    weights = [weight(name, *shape) for name, shape in shapes.items()]
    weights += [weight(f"b{name[1]}", shape[0]) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "small_backbone",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, [rows, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, 24])],
        [*weights, numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def real_backbone(folder: Path) -> bytes:
    """EfficientNet-Lite0 with its ImageNet weights."""
    path = folder / "region_backbone.onnx"
    sample = torch.zeros(2, 1, 224, 224, dtype=torch.uint8)
    write_onnx(
        region_extractor(load_backbone("efficientnet-lite0")), sample, path, inputs="crops", outputs=["features"]
    )
    return path.read_bytes()


def graph_encoder(folder: Path) -> bytes:
    """The graph transformer of the paper, narrower and untrained."""
    torch.manual_seed(0)
    small = replace(VARIANTS["v6"], width=32, heads=2, head_width=8)
    encoder, path = new_encoder(small, 64), folder / "encoder.onnx"
    write_onnx(_Tensors(encoder), torch.zeros(2, 18, 64), path, inputs="features", outputs=["embedding", "vectors"])
    return path.read_bytes()


class _Tensors(torch.nn.Module):
    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.encoder(features)
        return output.embedding, output.region_vectors


def answers(model: bytes, rows: npt.NDArray[np.generic]) -> list[Features]:
    """What ONNX Runtime computes on a CPU, operator by operator, as its fused int8 kernels saturate on older ones."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found: list[Features] = session.run(None, {session.get_inputs()[0].name: rows})
    return found


def relative_difference(a: Features, b: Features) -> float:
    """max|a-b| / max|b|."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def cosines(a: Features, b: Features) -> Features:
    """Of matching rows."""
    found: Features = (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found
