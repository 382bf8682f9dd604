"""Engines of a bundle as Triton's own backends load them: one row a radiograph, whatever its number of crops."""

from typing import Any

from chextriev.bundle import REGION_BACKBONE, EncoderBundle
from chextriev.export.to_tensorrt import BATCHES, PlanSettings, build_plan
from chextriev.optional import require

_INPUT = {REGION_BACKBONE: "crops"}


def served_onnx(bundle: EncoderBundle, engine: str, part: str) -> bytes:
    """The ONNX file of a part; a backbone's takes crops [B, n, 1, size, size] and gives features [B, n, width]."""
    content = bundle.read(bundle.engine(engine).files[part])
    if part != REGION_BACKBONE:
        return content
    return by_radiograph(content, crops=bundle.card.crops.count)


def served_plan(bundle: EncoderBundle, engine: str, part: str) -> bytes:
    """The TensorRT plan of a part, built on this machine for its GPU from the ONNX file of `served_onnx`."""
    settings = PlanSettings(_INPUT.get(part, "features"), BATCHES)
    return build_plan(served_onnx(bundle, engine, part), settings)


def by_radiograph(backbone: bytes, *, crops: int) -> bytes:
    """A backbone's ONNX model with a reshape at its begin and end, so that its batch counts radiographs.

    Input crops [n, 1, size, size] becomes [B, crops, 1, size, size], output features [n, width] [B, crops, width]. The
    first reshape stands behind the cast from uint8 with which every engine begins: TensorRT reshapes no bytes.
    """
    onnx = require("onnx", extra="export")
    model = onnx.load_from_string(backbone)
    graph = model.graph
    (source,), (target,) = graph.input, graph.output
    shape = [dim.dim_value for dim in source.type.tensor_type.shape.dim][1:]
    width = target.type.tensor_type.shape.dim[1].dim_value
    cast, *others = sorted(graph.node, key=lambda node: source.name not in node.input)
    last = next(node for node in others if target.name in node.output)
    before = _reshape(onnx, ("crops_by_radiograph", cast.output[0]), [-1, *shape])
    after = _reshape(onnx, ("features_in_one_row", "features"), [-1, crops, width])
    cast.input[0], cast.output[0], last.output[0] = "crops", "crops_by_radiograph", "features_in_one_row"
    nodes = [cast, *before, *others, *after]
    kinds = source.type.tensor_type.elem_type, target.type.tensor_type.elem_type
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.append(onnx.helper.make_tensor_value_info("crops", kinds[0], ["batch", crops, *shape]))
    graph.output.append(onnx.helper.make_tensor_value_info("features", kinds[1], ["batch", crops, width]))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _reshape(onnx: Any, names: tuple[str, str], shape: list[int]) -> list[Any]:
    source, target = names
    constant = onnx.helper.make_tensor(f"shape_of_{target}", onnx.TensorProto.INT64, [len(shape)], shape)
    return [
        onnx.helper.make_node("Constant", [], [constant.name], value=constant),
        onnx.helper.make_node("Reshape", [source, constant.name], [target]),
    ]
