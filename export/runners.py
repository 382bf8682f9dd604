"""What executes a bundle: ONNX Runtime, on whatever it has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from chextriev.bundle import EncoderBundle
from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, DamagedArtifact, InvalidSetting, MissingDependency
from chextriev.optional import require
from chextriev.preprocess import region_crops
from chextriev.radiograph import Radiograph

if TYPE_CHECKING:
    from chextriev.train.backbones import Backbone

BATCH = 8
"""Radiographs encoded at once: 144 crops."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

Item = TypeVar("Item")


class OnnxExtractor:
    """Grey crops to backbone features by ONNX Runtime."""

    dtype = "float16"

    def __init__(self, model: Path | bytes, *, backbone: str, backbone_digest: str, device: str = "cpu") -> None:
        self.backbone, self.backbone_digest = backbone, backbone_digest
        self._session = open_session(model, device)
        self.width = int(self._session.get_outputs()[0].shape[-1])

    @classmethod
    def from_backbone(cls, backbone: "Backbone", *, device: str = "cpu") -> "OnnxExtractor":
        """Export a torch backbone and run it by ONNX Runtime, which is several times faster than torch on a CPU."""
        from chextriev.export.build_bundle import write_region_backbone

        with TemporaryDirectory() as folder:
            path = Path(folder) / "region_backbone.onnx"
            write_region_backbone(backbone, path)
            name, digest = backbone.spec.name, backbone.digest
            return cls(path.read_bytes(), backbone=name, backbone_digest=digest, device=device)

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features [n, width] float32 of grey crops [n, 1, size, size] uint8; InvalidSetting for another size."""
        wanted = self._session.get_inputs()[0].shape[1:]
        if list(crops.shape[1:]) != wanted:
            raise InvalidSetting(f"crops are {list(crops.shape[1:])}; {self.backbone} takes {wanted} here")
        (features,) = self._session.run(None, {"crops": crops})
        return np.asarray(features, np.float32)


class OnnxEncoder:
    """A bundle on ONNX Runtime. Sessions are thread-safe, and nothing else here changes after construction."""

    device = "cpu"

    def __init__(self, bundle: EncoderBundle) -> None:
        self.bundle = bundle
        card = bundle.card
        self._extractor = OnnxExtractor(
            bundle.backbone_path, backbone=card.backbone, backbone_digest=card.backbone_digest, device=self.device
        )
        self._session = open_session(bundle.encoder_path, self.device)

    def encode(self, radiographs: Iterable[Radiograph]) -> Embeddings:
        """Encode radiographs in order, a batch at a time."""
        return join_embeddings([self._encode_batch(batch) for batch in batched(radiographs, BATCH)], self.bundle)

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Backbone features [n, width] float32 of grey crops [n, size, size] uint8."""
        return self._extractor.extract(crops[:, np.newaxis])

    def relate(self, features: npt.NDArray[np.float32], image_ids: Iterable[str]) -> Embeddings:
        """Embeddings of backbone features [B, crops, width] float32."""
        names, crops = tuple(image_ids), self.bundle.card.crops.count
        if features.shape != (len(names), crops, self._extractor.width):
            wanted = [len(names), crops, self._extractor.width]
            raise CountMismatch(f"features have shape {list(features.shape)}; {wanted} is needed for {len(names)} ids")
        found = self._session.run(None, {"features": features.astype(np.float32)})
        return as_embeddings(names, dict(zip(self.bundle.card.spec.outputs, found, strict=True)), self.bundle)

    def _encode_batch(self, radiographs: Sequence[Radiograph]) -> Embeddings:
        spec = self.bundle.card.crops
        crops = np.concatenate([region_crops(item.pixels, item.boxes, spec) for item in radiographs])
        features = self.extract(crops).reshape(len(radiographs), spec.count, -1)
        return self.relate(features, (item.image_id for item in radiographs))


class CudaOnnxEncoder(OnnxEncoder):
    """A bundle on ONNX Runtime with CUDA."""

    device = "cuda"


def open_session(model: Path | bytes, device: str = "cpu") -> Any:
    """An ONNX Runtime session on "cpu" or "cuda"; MissingDependency where this ONNX Runtime has no CUDA."""
    onnxruntime = require("onnxruntime", extra="export")
    named = "the model" if isinstance(model, bytes) else str(model)
    faults = onnxruntime.capi.onnxruntime_pybind11_state
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise MissingDependency(f"this ONNX Runtime cannot use {device}; run: pip install 'chextriev[gpu-export]'")
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, providers=[provider])
    except (
        faults.Fail,
        faults.InvalidProtobuf,
        faults.InvalidGraph,
        faults.InvalidArgument,
        faults.RuntimeException,
    ) as error:
        raise DamagedArtifact(f"{named} is not an engine that ONNX Runtime can open") from error


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def as_embeddings(
    image_ids: Iterable[str], outputs: Mapping[str, npt.NDArray[Any]], bundle: EncoderBundle
) -> Embeddings:
    """An encoder engine's outputs, by the names of the card, as embeddings."""
    others = {name: array for name, array in outputs.items() if name != "embedding"}
    return Embeddings(tuple(image_ids), outputs["embedding"], encoder_digest=bundle.digest, **others)


def join_embeddings(parts: Sequence[Embeddings], bundle: EncoderBundle) -> Embeddings:
    """The parts as one, in order; no part at all gives zero rows of the right widths."""
    tensors = {tensor.name: tensor for tensor in bundle.card.tensors["encoder"]["outputs"]}
    joined = {}
    for name, tensor in tensors.items():
        arrays = [getattr(part, "vectors" if name == "embedding" else name) for part in parts]
        joined[name] = np.concatenate(arrays) if arrays else np.empty((0, *map(int, tensor.shape[1:])), tensor.dtype)
    return as_embeddings((name for part in parts for name in part.image_ids), joined, bundle)
