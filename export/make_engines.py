"""How each engine of a bundle is made from its float32 ONNX engine."""

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import digest_of
from chextriev.bundle import DEFAULT, ENCODER, PARTS, REGION_BACKBONE, EncoderBundle, EngineRecord
from chextriev.errors import EmptySplit
from chextriev.export.qdq_for_tensorrt import to_float16
from chextriev.export.quantize import CalibrationSettings, HalfBackbone, QuantizedBackbone, SymmetricBackbone
from chextriev.export.tensorrt_machine import this_machine
from chextriev.export.tensorrt_runner import plan_entry
from chextriev.export.to_tensorrt import backbone_settings, build_plan, encoder_settings
from chextriev.optional import require
from chextriev.progress import track
from chextriev.refusals import Refusal
from chextriev.study_table import StudyTable
from chextriev.train.crop_stream import FeatureSettings, crops_in_order

Files = dict[str, bytes]

METHODS = {
    HalfBackbone: "float16, weights included; inputs and outputs as in float32",
    QuantizedBackbone: "static QDQ: unsigned 8-bit activations, 7-bit weights per channel, bias corrected",
    SymmetricBackbone: "static QDQ, symmetric: 8-bit activations and weights per channel; float16 elsewhere",
}
"""As the card tells it."""


class EngineMaker:
    """Makes one engine: `attempts` yields it small first, then with more and more layers in full precision.

    Each attempt is a record and the files that the bundle does not have yet. worst_layers: filled when the layers had
    to be ranked.
    """

    STEPS = (1, 2, 4, 8, 16, 24, 32)
    """Layers that keep their precision, the most sensitive first, until the engine passes."""

    def __init__(
        self, name: str, bundle: EncoderBundle, table: StudyTable, calibration: CalibrationSettings | None = None
    ) -> None:
        self.name, self._bundle, self._table = name, bundle, table
        self._executor, self._precision = name.split("-")
        self._calibration = calibration or CalibrationSettings()
        self.worst_layers: list[dict[str, Any]] = []

    def attempts(self) -> Iterator[tuple[EngineRecord, Files]]:
        """The engine, most compact form first; the caller stops when one passes."""
        if self._precision == "fp32":
            yield self._bundle.engine(self.name), {}
            return
        crops, drawn = self._calibration_crops()
        reduced = self._kind()(self._float32(REGION_BACKBONE), crops, self._calibration)
        for keep in self._kept(reduced):
            made_by = {
                "method": METHODS[type(reduced)],
                "calibration": {**asdict(self._calibration), **drawn, "crops": len(crops)},
                "layers reduced": len(reduced.layers) - len(keep),
                "layers that keep their precision": [reduced.layers[layer] for layer in keep],
            }
            yield self._finished(self._parts(reduced, keep), made_by)

    def planned(self, record: EngineRecord) -> tuple[EngineRecord, Files]:
        """An engine of TensorRT with plans for this machine, built from its ONNX files."""
        return self._with_plans(record, {part: self._bundle.read(name) for part, name in record.files.items()})

    def _kind(self) -> type[QuantizedBackbone]:
        if self._precision == "fp16":
            return HalfBackbone
        return SymmetricBackbone if self._executor == "tensorrt" else QuantizedBackbone

    def _kept(self, reduced: QuantizedBackbone) -> Iterator[list[str]]:
        yield []
        ranked = reduced.rank_layers()
        self.worst_layers = [
            {"layer": reduced.layers[layer], "loss_of_cosine": loss} for layer, loss in ranked[: max(self.STEPS[:4])]
        ]
        for count in self.STEPS:
            if count < len(ranked):
                yield [layer for layer, _ in ranked[:count]]

    def _parts(self, reduced: QuantizedBackbone, keep: Collection[str]) -> Files:
        """The graph layers are a few per cent of the time, so they stay in floating point where others are integers."""
        parts = {REGION_BACKBONE: reduced.make(keep)}
        if self._precision == "fp16" or self._executor == "tensorrt":
            parts[ENCODER] = to_float16(self._float32(ENCODER))
        return parts

    def _finished(self, parts: Files, made_by: dict[str, Any]) -> tuple[EngineRecord, Files]:
        """The record of an engine of these parts; what is not among them is that of the float32 engine."""
        own = {part: f"{self.name}/{part}.onnx" for part in parts}
        versions = {"onnxruntime": str(require("onnxruntime", extra="export").__version__)}
        record = EngineRecord({**self._bundle.engine(DEFAULT).files, **own}, {**made_by, **versions})
        if self._executor == "tensorrt":
            return self._with_plans(record, parts)
        return record, {own[part]: content for part, content in parts.items()}

    def _with_plans(self, record: EngineRecord, parts: Files) -> tuple[EngineRecord, Files]:
        here = this_machine()
        settings = {REGION_BACKBONE: backbone_settings(self._bundle.card.crops.count), ENCODER: encoder_settings()}
        files = {part: f"{self.name}/{here.folder}/{part}.plan" for part in PARTS}
        plans = {files[part]: build_plan(parts[part], settings[part]) for part in PARTS}
        sources = {record.files[part]: content for part, content in parts.items()}
        return replace(record, plans={**record.plans, here.folder: plan_entry(here, files)}), sources | plans

    def _float32(self, part: str) -> bytes:
        return self._bundle.read(self._bundle.engine(DEFAULT).files[part])

    def _calibration_crops(self) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """[n, 1, size, size] uint8 of radiographs of the train split, and which they were."""
        spec, train = self._bundle.card.crops, self._table.of_split("train")
        count = min(len(train), -(-self._calibration.crops // spec.count))
        rows = np.random.default_rng(self._calibration.seed).choice(len(train), count, replace=False)
        chosen = train.take(np.sort(rows))
        with closing(crops_in_order(chosen, range(count), FeatureSettings(crops=spec))) as stream:
            shown = track(stream, "calibration crops", total=count, unit="radiograph")
            read = [crops for _, crops in shown if not isinstance(crops, Refusal)]
        if not read:
            raise EmptySplit("no radiograph of the train split can be read; ranges cannot be calibrated")
        drawn = {
            "split": "train",
            "study table": self._table.digest,
            "radiographs": len(read),
            "image ids": digest_of([str(name) for name in chosen.image_id]),
        }
        return np.concatenate(read)[:, np.newaxis], drawn
