"""What executes a bundle: ONNX Runtime, on whatever it has."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.bundle import EncoderBundle
from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, DamagedArtifact, MissingDependency
from chextriev.optional import require
from chextriev.preprocess import region_crops
from chextriev.radiograph import Radiograph

if TYPE_CHECKING:
    from chextriev.train.backbones import Backbone

BATCH = 8
"""Radiographs encoded at once: 144 crops."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_ARRAYS = ("vectors", "finding_logits", "region_logits", "region_vectors")

Item = TypeVar("Item")


class OnnxExtractor:
    """Grey crops to backbone features by ONNX Runtime."""

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
        """Features [n, width] float32 of grey crops [n, 1, 224, 224] uint8."""
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
        """Backbone features [n, width] float32 of grey crops [n, 224, 224] uint8."""
        return self._extractor.extract(crops[:, np.newaxis])

    def relate(self, features: npt.NDArray[np.float32], image_ids: Iterable[str]) -> Embeddings:
        """Embeddings of backbone features [B, 18, width] float32."""
        names = tuple(image_ids)
        if features.shape != (len(names), N_REGIONS, self._extractor.width):
            wanted = [len(names), N_REGIONS, self._extractor.width]
            raise CountMismatch(f"features have shape {list(features.shape)}; {wanted} is needed for {len(names)} ids")
        embedding, findings, regions, vectors = self._session.run(None, {"features": features.astype(np.float32)})
        return Embeddings(names, embedding, findings, regions, vectors, self.bundle.digest)

    def _encode_batch(self, radiographs: Sequence[Radiograph]) -> Embeddings:
        crops = np.concatenate([region_crops(item.pixels, item.boxes, self.bundle.card.crops) for item in radiographs])
        features = self.extract(crops).reshape(len(radiographs), N_REGIONS, -1)
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


def join_embeddings(parts: Sequence[Embeddings], bundle: EncoderBundle) -> Embeddings:
    """The parts as one, in order; no part at all gives zero rows of the right widths."""
    if not parts:
        width = bundle.card.embedding_width
        shapes = ((0, width), (0, N_FINDINGS), (0, N_REGIONS, N_FINDINGS), (0, N_REGIONS, width))
        arrays = [np.empty(shape, np.float32) for shape in shapes]
    else:
        arrays = [np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS]
    ids = tuple(name for part in parts for name in part.image_ids)
    return Embeddings(ids, **dict(zip(_ARRAYS, arrays, strict=True)), encoder_digest=bundle.digest)
