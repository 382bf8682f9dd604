"""The region backbone in 8-bit integers for ONNX Runtime on a processor.

Static quantisation: activations in unsigned 8 bits with a zero point, ranges measured on crops of the train split;
weights per output channel. Weights take 7 of their 8 bits: processors without instructions made for this (AVX2,
AVX-512 before VNNI) add pairs of products in 16 bits, which would saturate, so that answers would differ from one
machine to the next. What stays in float32: the first convolution, which sees grey levels as they are, with its border
map; grouped convolutions, short sums of few weights that lose much and cost little; and the pooled features.

What quantisation adds to the mean of each feature is measured on the calibration crops and subtracted (the output of
bias correction as in Nagel et al., Data-free quantization, ICCV 2019).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from chextriev.errors import InvalidSetting, UnbuildableEngine
from chextriev.export.channels_last import pool_channels_last
from chextriev.export.onnx_runner import open_session
from chextriev.export.qdq_for_tensorrt import make_symmetric_qdq, quantizable, to_float16
from chextriev.export.qdq_for_tensorrt import measure_ranges as measure_symmetric_ranges
from chextriev.optional import require
from chextriev.progress import track

Crops = npt.NDArray[np.uint8]  # [n, 1, size, size]
Ranges = Mapping[str, tuple[float, float]]

QUANTIZED = ("Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool", "Concat")
"""Operators whose activations are 8-bit integers; the rest is float32."""

MAX_SAMPLES = 200_000
"""Values of an activation, a batch, that a quantile is taken of; more are thinned out evenly."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How ranges are measured.

    crops: of radiographs of the train split, drawn with seed. quantile: share of an activation's values that its range
    holds on each side; the few beyond it are clipped, or they would cost all others their resolution. batch: crops at
    once; all activations of a batch are in memory.
    """

    crops: int = 576
    seed: int = 0
    quantile: float = 0.9999
    batch: int = 6

    def __post_init__(self) -> None:
        if min(self.crops, self.batch) < 1 or self.seed < 0 or not 0.5 < self.quantile <= 1:
            raise InvalidSetting(
                f"calibration {asdict(self)}; crops and batch from 1, seed from 0, quantile over .5 to 1"
            )


class QuantizedBackbone:
    """A float32 region backbone, its ranges on calibration crops [n, 1, size, size] uint8, and what is made of both."""

    def __init__(self, model: bytes, crops: Crops, settings: CalibrationSettings | None = None) -> None:
        self.settings = settings or CalibrationSettings()
        self._model, self._crops = model, crops
        self.layers = self._find_layers(model)
        if not self.layers:
            raise UnbuildableEngine("this backbone has no convolution to quantise; use the float32 engine")
        self._ranges = self._measure(model)

    def make(self, keep: Collection[str] = ()) -> bytes:
        """The engine in integers, but for the layers to keep in floating point."""
        if set(self.layers) <= set(keep):
            raise UnbuildableEngine("no layer is left to quantise; use the float32 engine")
        return self._finish(self._quantize(keep))

    def rank_layers(self, *, crops: int = 36) -> list[tuple[str, float]]:
        """Each layer with the loss of cosine (1 - mean over crops) of the features when it alone is quantised, worst
        first."""
        sample = self._crops[:: max(1, len(self._crops) // crops)][:crops]
        wanted = _features(self._model, sample)
        losses = []
        for layer in track(self.layers, "sensitivity of layers", unit="layer"):
            alone = self._quantize([other for other in self.layers if other != layer])
            losses.append((layer, 1 - _mean_cosine(_features(alone, sample), wanted)))
        return sorted(losses, key=lambda pair: -pair[1])

    def _find_layers(self, model: bytes) -> dict[str, str]:
        """Node -> what a person knows it by, first to last."""
        return layers_of(model)

    def _measure(self, model: bytes) -> dict[str, tuple[float, float]]:
        return measure_ranges(model, _batches(self._crops, self.settings.batch), self.settings.quantile)

    def _quantize(self, keep: Collection[str]) -> bytes:
        return quantize(self._model, self._ranges, keep=keep)

    def _finish(self, quantized: bytes) -> bytes:
        """The bias corrected."""
        error = (_features(self._model, self._crops) - _features(quantized, self._crops)).mean(axis=0)  # [width]
        return _add_to_output(quantized, error)


class SymmetricBackbone(QuantizedBackbone):
    """The same for TensorRT: symmetric integers, and float16 where there are none."""

    def _measure(self, model: bytes) -> dict[str, tuple[float, float]]:
        batches = ({"crops": batch} for batch in _batches(self._crops, self.settings.batch))
        return measure_symmetric_ranges(model, batches, quantile=self.settings.quantile)

    def _quantize(self, keep: Collection[str]) -> bytes:
        return make_symmetric_qdq(self._model, self._ranges, keep=keep)

    def _finish(self, quantized: bytes) -> bytes:
        return to_float16(quantized)


class HalfBackbone(QuantizedBackbone):
    """The same in float16, where nothing needs calibration; sums are layers too, since they grow with the residuals."""

    def _find_layers(self, model: bytes) -> dict[str, str]:
        nodes = onnx.load_model_from_string(model).graph.node
        return {node.name: node.input[1] for node in nodes if node.op_type in ("Conv", "Add", "MatMul", "Gemm")}

    def _measure(self, model: bytes) -> dict[str, tuple[float, float]]:  # noqa: ARG002 - nothing is calibrated
        return {}

    def _quantize(self, keep: Collection[str]) -> bytes:
        return to_float16(self._model, keep=keep)

    def _finish(self, quantized: bytes) -> bytes:
        return quantized


def layers_of(model: bytes) -> dict[str, str]:
    """Node -> name of the weights, first to last, of every layer that may be quantised."""
    weights = {
        node.name: node.input[1] for node in onnx.load_model_from_string(model).graph.node if len(node.input) > 1
    }
    return {node: weights[node] for node in quantizable(model)}


def measure_ranges(model: bytes, batches: Iterator[Crops], quantile: float) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of every activation but for the share beyond the quantile: the widest of the batches."""
    proto = onnx.load_model_from_string(model)
    names = sorted({name for node in proto.graph.node if node.op_type != "Cast" for name in node.output})
    shown = {output.name for output in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in shown)
    session = open_session(proto.SerializeToString())
    ranges = dict.fromkeys(names, (0.0, 0.0))  # zero is always inside: padding is made of it
    for batch in batches:
        for name, values in zip(names, session.run(names, {"crops": batch}), strict=True):
            low, high = _quantiles(values, quantile)
            ranges[name] = min(ranges[name][0], low), max(ranges[name][1], high)
    return ranges


def quantize(model: bytes, ranges: Ranges, *, keep: Collection[str] = ()) -> bytes:
    """A float32 model with pairs of quantise and dequantise around all layers but those to keep in float32."""
    tools = require("onnxruntime.quantization.quant_utils", extra="export")
    quantization = require("onnxruntime.quantization", extra="export")
    proto = onnx.load_model_from_string(model)
    tools.add_pre_process_metadata(proto)  # the exporter has done it; without the mark a warning says that it has not
    chosen = _in_integers(proto, [layer for layer in layers_of(model) if layer not in keep])
    with TemporaryDirectory() as folder:
        path, stored = Path(folder) / "quantized.onnx", Path(folder) / "ranges.json"
        _store(ranges, stored)
        quantization.quantize_static(
            proto,
            path,
            None,
            nodes_to_quantize=chosen,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            calibration_cache_path=stored,
        )
        quantized = onnx.load(path)
    pool_channels_last(quantized)
    del quantized.metadata_props[:]
    content: bytes = quantized.SerializeToString(deterministic=True)
    return content


def _in_integers(proto: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """The layers, and the operators whose inputs all come from integers: others would only lose by quantisation."""
    producers = {output: node for node in proto.graph.node for output in node.output}
    integer = set(layers)
    for node in proto.graph.node:
        if node.op_type in QUANTIZED and node.op_type != "Conv":
            before = [producers[name] for name in node.input if name in producers]
            if before and all(parent.name in integer for parent in before):
                integer.add(node.name)
    return [node.name for node in proto.graph.node if node.name in integer]


def _store(ranges: Ranges, path: Path) -> None:
    """Write ranges as ONNX Runtime stores a calibration."""
    calibrate = require("onnxruntime.quantization.calibrate", extra="export")
    data = {name: tuple(np.array(bound, np.float32) for bound in bounds) for name, bounds in ranges.items()}
    calibrate.save_tensors_data(calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, data), path)


def _add_to_output(model: bytes, constant: npt.NDArray[np.float32]) -> bytes:
    """The model with a constant [width] added to its features."""
    proto = onnx.load_model_from_string(model)
    (output,) = proto.graph.output
    inner = f"{output.name}_uncorrected"
    for node in proto.graph.node:
        node.output[:] = [inner if name == output.name else name for name in node.output]
    proto.graph.initializer.append(numpy_helper.from_array(constant.astype(np.float32), "bias_correction"))
    proto.graph.node.append(onnx.helper.make_node("Add", [inner, "bias_correction"], [output.name], "correct_bias"))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _features(model: bytes, crops: Crops) -> npt.NDArray[np.float32]:
    session = open_session(model)
    return np.concatenate([session.run(None, {"crops": batch})[0] for batch in _batches(crops, 18)])


def _batches(crops: Crops, size: int) -> Iterator[Crops]:
    return (crops[start : start + size] for start in range(0, len(crops), size))


def _mean_cosine(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    """In float64: what float16 costs is lost in the rounding of float32. What overflowed counts as zero."""
    first = np.where(np.isfinite(ours), ours, 0).astype(np.float64)
    second = theirs.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(((first * second).sum(axis=1) / np.maximum(lengths, np.finfo(np.float32).tiny)).mean())


def _quantiles(values: npt.NDArray[np.float32], quantile: float) -> tuple[float, float]:
    flat = values.ravel()
    low, high = np.quantile(flat[:: flat.size // MAX_SAMPLES + 1], [1 - quantile, quantile])
    return float(low), float(high)
