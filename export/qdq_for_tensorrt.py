"""ONNX models in the precisions that TensorRT takes: float16, and int8 as symmetric pairs of quantise and dequantise.

TensorRT's int8 has no zero point, for weights as for activations, so the model that ONNX Runtime serves on a CPU
(unsigned activations with a zero point) will not do. What both are made from is the same float32 model.

Convolutions are quantised, at their input: TensorRT then fuses bias, activation and residual sum into the int8 kernel,
before the next rounding. Two kinds stay in floating point:
- those that see the crops, whose 256 grey levels have no room in the 127 of a symmetric int8;
- grouped ones. Depthwise convolutions are short sums of few weights: quantising them takes the features of
  efficientnet-lite0 from a mean cosine of .973 to .886 against float32 (real crops), and saves little arithmetic.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/quantized-types-explicit-quantization.html
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import version_converter

from chextriev.errors import DamagedArtifact, InvalidSetting
from chextriev.optional import require

OPSET = 19
"""The first in which quantise and dequantise take float16; https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html."""

QUANTILE = 0.9999
"""Share of an activation's values inside its range: a few outliers would cost all others their resolution. Features of
efficientnet-lite0 keep a mean cosine of .9795 with it, .9725 with the largest value (180 real crops, 36 others)."""

MAX_SAMPLES = 2_000_000
"""Values of one activation that a quantile is taken of; more are thinned out evenly."""

EXTRA = "export"


def to_float16(model: bytes, *, keep: Collection[str] = ()) -> bytes:
    """The model in float16, weights and scales included; its own inputs and outputs keep their types.

    keep: nodes that stay in float32.
    """
    tools = require("onnxruntime.transformers.float16", extra=EXTRA)
    graphs = require("onnxruntime.quantization.onnx_model", extra=EXTRA)
    halved = graphs.ONNXModel(
        tools.convert_float_to_float16(_load(model), keep_io_types=True, node_block_list=list(keep))
    )
    halved.topological_sort()  # the casts of inputs are appended at the end
    content: bytes = halved.model.SerializeToString(deterministic=True)
    return content


def quantizable(model: bytes) -> dict[str, str]:
    """Node -> input tensor of every convolution that `make_symmetric_qdq` quantises unless told to keep it."""
    return _quantizable(_load(model).graph)


def measure_ranges(
    model: bytes, batches: Iterable[Mapping[str, npt.NDArray[Any]]], *, quantile: float = QUANTILE
) -> dict[str, tuple[float, float]]:
    """Range of every tensor that `make_symmetric_qdq` may quantise, on batches of the model's inputs by name.

    It is symmetric: the quantile of the absolute values of each batch, and the largest of the batches. ONNX Runtime
    executes the model; all ranged tensors of one batch are held at once (ResNet50: 40 MB a crop).
    """
    if not 0 < quantile <= 1:
        raise InvalidSetting(f"quantile {quantile} is not in 0..1")
    runtime, proto = require("onnxruntime", extra=EXTRA), _load(model)
    names = sorted(set(_quantizable(proto.graph).values()))
    shown = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, values in zip(names, session.run(names, dict(batch)), strict=True):
            largest[name] = max(largest[name], _reach(values, quantile))
    if not any(largest.values()):
        raise InvalidSetting("there is nothing to calibrate on: give batches of crops that are not black")
    return {name: (-reach, reach) for name, reach in largest.items()}


def make_symmetric_qdq(model: bytes, ranges: Mapping[str, tuple[float, float]], *, keep: Collection[str] = ()) -> bytes:
    """A float32 model with its convolutions in int8: zero points of 0, weights per channel, biases in float32.

    ranges: lowest and highest value by tensor, for the inputs of what is quantised (`measure_ranges`, or another
    calibration of the same model). keep: nodes that stay in floating point besides those that always do.
    InvalidSetting names ranges that are missing and nodes that are not there. `to_float16` of the result is what
    TensorRT is given.
    """
    proto = _load(model)
    found = _quantizable(proto.graph)
    chosen = {node: tensor for node, tensor in found.items() if node not in keep}
    _check(chosen, found, ranges, keep)
    quantization = require("onnxruntime.quantization", extra=EXTRA)
    tools = require("onnxruntime.quantization.quant_utils", extra=EXTRA)
    proto = version_converter.convert_version(proto, max(OPSET, _opset(proto)))
    tools.add_pre_process_metadata(proto)  # the exporter has done it; without the mark, warnings go to the root logger
    with TemporaryDirectory() as folder:
        path, stored = Path(folder) / "qdq.onnx", Path(folder) / "ranges.json"
        _store(ranges, set(chosen.values()), stored)
        quantization.quantize_static(
            proto,
            path,
            None,
            nodes_to_quantize=list(chosen),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=stored,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": ["Conv"],
            },
        )
        quantized = onnx.load(path)
    del quantized.metadata_props[:]
    content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def _load(model: bytes) -> onnx.ModelProto:
    decode = require("google.protobuf.message", extra=EXTRA)
    try:
        return onnx.load_model_from_string(model)
    except decode.DecodeError as error:
        raise DamagedArtifact("the model is not an ONNX file; export it again") from error


def _opset(proto: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _quantizable(graph: onnx.GraphProto) -> dict[str, str]:
    """Node -> input tensor of the convolutions that are neither grouped nor see the crops."""
    crops = {item.name for item in graph.input}
    crops |= {node.output[0] for node in graph.node if node.op_type == "Cast" and node.input[0] in crops}
    return {
        node.name: node.input[0]
        for node in graph.node
        if node.op_type == "Conv" and node.input[0] not in crops and _groups(node) == 1
    }


def _groups(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _check(
    chosen: Mapping[str, str], found: Mapping[str, str], ranges: Mapping[str, object], keep: Collection[str]
) -> None:
    unknown, missing = sorted(set(keep) - set(found)), sorted(set(chosen.values()) - set(ranges))
    if unknown:
        raise InvalidSetting(f"nodes to keep are not quantised anyway: {', '.join(unknown[:5])}; see quantizable()")
    if missing:
        raise InvalidSetting(f"ranges lack {len(missing)} tensors, such as {missing[0]}; calibrate on the same model")
    if not chosen:
        raise InvalidSetting("nothing is left to quantise; use the float16 engine")


def _store(ranges: Mapping[str, tuple[float, float]], names: set[str], path: Path) -> None:
    """Write ranges as ONNX Runtime stores a calibration."""
    calibrate = require("onnxruntime.quantization.calibrate", extra=EXTRA)
    data = {name: tuple(np.array(bound, np.float32) for bound in ranges[name]) for name in sorted(names)}
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data), path)


def _reach(values: npt.NDArray[np.float32], quantile: float) -> float:
    flat = np.abs(values).ravel()
    return float(np.quantile(flat[:: flat.size // MAX_SAMPLES + 1], quantile))
