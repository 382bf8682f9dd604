"""A checkpoint becomes an encoder bundle: its weights, the ONNX engine in float32 beside PyTorch, and the card."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.artifacts import Recipe, check_output, digest_of, file_digest, find_current, publishing, seal
from chextriev.bundle import (
    CARD_FILE,
    DEFAULT,
    ENCODER,
    KIND,
    PARTS,
    REFERENCE,
    REGION_BACKBONE,
    BundleCard,
    EncoderBundle,
    EngineRecord,
    TensorSpec,
    open_bundle,
)
from chextriev.errors import EngineDiffers, OtherBackbone, UnreadableCheckpoint
from chextriev.export.checkpoint import TrainedEncoder, load_checkpoint
from chextriev.export.fold import fold_backbone, fold_encoder
from chextriev.export.onnx_runner import open_session
from chextriev.export.to_onnx import OPSET, write_onnx
from chextriev.export.torch_weights import write_weights
from chextriev.preprocess import CropSpec
from chextriev.systems import LocalizerSpec, SystemSpec, trains_backbone
from chextriev.train.backbones import Backbone, load_backbone, region_extractor
from chextriev.train.backbones.weights import weights_digest
from chextriev.train.encoders import SystemEncoder
from chextriev.train.run_files import open_run
from chextriev.variants import VariantSpec

METHOD = 5
"""Part of every bundle's recipe; raise it when the same checkpoint begins to give other engines or another card."""

PARITY_LIMIT = 1e-4
"""Largest max|engine - PyTorch| / max|PyTorch| of a float32 engine; the demo measures 1e-6 to 6e-6."""

FILES = {
    engine: {part: f"{engine}/{part}{suffix}" for part in PARTS}
    for engine, suffix in ((REFERENCE, ".pt"), (DEFAULT, ".onnx"))
}
"""Of the two engines that every bundle has."""


def build_bundle(
    checkpoint: str | Path, out: str | Path, *, weights: str | Path | None = None
) -> tuple[EncoderBundle, bool]:
    """Export a training run (its best checkpoint) or a `.ckpt` file of one; and say whether it was there already.

    weights: where the backbone's weights come from, as for `chextriev data features`. OtherBackbone if they are not
    those that the encoder was trained on; EngineDiffers if an engine strays from PyTorch; nothing is written then.
    """
    path, facts, parents = _locate(Path(checkpoint))
    recipe = Recipe({"format": "onnx-fp32", "method": METHOD}, parents)
    if find_current(Path(out), KIND, recipe) is not None:
        return open_bundle(out), True
    check_output(Path(out), KIND)
    trained = load_checkpoint(path)
    backbone = trained.backbone or _matching_backbone(trained, weights)
    digests = {key: trained.provenance[key] for key in ("table_digest", "features_digest")}
    publish_bundle(Path(out), recipe, trained, backbone, training={**digests, **json.loads(json.dumps(facts))})
    return open_bundle(out), False


def publish_bundle(
    out: Path, recipe: Recipe, trained: TrainedEncoder, backbone: Backbone, *, training: Mapping[str, Any]
) -> None:
    """Write both engines, compare them with PyTorch and publish the bundle. training: what the card says of origins."""
    with publishing(out, KIND) as scratch:
        weights, engines = ({part: scratch / FILES[name][part] for part in PARTS} for name in FILES)
        for path in (*weights.values(), *engines.values()):
            path.parent.mkdir(exist_ok=True)
        write_weights(trained, backbone, weights[REGION_BACKBONE], weights[ENCODER])
        write_region_backbone(backbone, engines[REGION_BACKBONE], trained.spec.crops)
        write_encoder(trained, engines[ENCODER])
        parity = measure_parity(engines, backbone, trained)
        card = _card(trained, backbone, parity, training)
        (scratch / CARD_FILE).write_text(card.to_json())
        seal(scratch, KIND, recipe)


def write_region_backbone(backbone: Backbone, path: Path, crops: CropSpec | None = None) -> None:
    """Engine part `region_backbone`: crops [n, 1, size, size] uint8 -> features [n, width] float32."""
    size = (crops or CropSpec()).size
    sample = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    write_onnx(fold_backbone(backbone, size), sample, path, inputs="crops", outputs=["features"])


def write_encoder(trained: TrainedEncoder, path: Path) -> None:
    """Engine part `encoder`: features [B, crops, width] float32 -> the outputs that the system has."""
    sample = torch.zeros(2, trained.spec.crops.count, trained.feature_width)
    folded = _Served(fold_encoder(trained.encoder))
    write_onnx(folded, sample, path, inputs="features", outputs=trained.spec.outputs)


class _Served(torch.nn.Module):
    """An encoder that gives what its system has, without the places of what it has not."""

    def __init__(self, encoder: SystemEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features [B, crops, width] -> the outputs in the order of the specification."""
        output = self.encoder(features)
        return tuple(getattr(output, name) for name in self.encoder.spec.outputs)


def measure_parity(paths: Mapping[str, Path], backbone: Backbone, trained: TrainedEncoder) -> dict[str, float]:
    """Run both parts of an ONNX engine and PyTorch on the same crops; per output max|engine - PyTorch| / max|PyTorch|.

    The crops are random grey blocks for two radiographs; the features of one part feed the other, as in service.
    """
    spec = trained.spec
    crops = _random_crops(spec.crops)
    with torch.inference_mode():
        features = region_extractor(backbone)(torch.from_numpy(crops))
        expected = _Served(trained.encoder)(features.unflatten(0, (-1, spec.crops.count)))
    (served,) = open_session(paths[REGION_BACKBONE].read_bytes()).run(None, {"crops": crops})
    outputs = open_session(paths[ENCODER].read_bytes()).run(
        None, {"features": served.reshape(-1, spec.crops.count, served.shape[1])}
    )
    pairs = {
        "features": (served, features),
        **dict(zip(spec.outputs, zip(outputs, expected, strict=True), strict=True)),
    }
    parity = {
        name: relative_difference(engine, reference.numpy())
        for name, (engine, reference) in pairs.items()
        if name != "hash_bits"  # signs of the embedding: a code of zero may fall on either side
    }
    worst = max(parity, key=lambda name: parity[name])
    if not parity[worst] <= PARITY_LIMIT:
        raise EngineDiffers(
            f"{worst} differs from PyTorch by {parity[worst]:.1e} of its range; {PARITY_LIMIT:.0e} is allowed"
        )
    return parity


def relative_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """max|a-b| / max|b|; of two that are zero throughout 0, and infinite where b alone is."""
    difference, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    return difference / scale if scale else math.inf if difference else 0.0


def _locate(path: Path) -> tuple[Path, Mapping[str, Any], dict[str, str]]:
    """The checkpoint file; for a run directory also what was measured in training; and the recipe's parent."""
    if path.is_dir():
        best, manifest = open_run(path)
        return best, manifest.facts, {"training run": manifest.digest}
    if not path.is_file():
        raise UnreadableCheckpoint(f"there is no checkpoint {path}; give a training run or a .ckpt file")
    return path, {}, {"checkpoint": file_digest(path)}


def _matching_backbone(trained: TrainedEncoder, weights: str | Path | None) -> Backbone:
    name, digest = trained.provenance["backbone"], trained.provenance["backbone_digest"]
    if trained.provenance["crops_digest"] != trained.spec.crops.digest:
        raise OtherBackbone(
            "the encoder was trained on crops of another preprocessing; compute features and train again"
        )
    backbone = load_backbone(name, weights=weights)
    if backbone.digest != digest:
        raise OtherBackbone(
            f"the encoder was trained on features of {name} with digest {digest[:12]}; these weights have digest"
            f" {backbone.digest[:12]}; give the same weights with --weights"
        )
    return backbone


def _random_crops(spec: CropSpec) -> npt.NDArray[np.uint8]:
    """[2 * count, 1, size, size]: blocks of a sixteenth."""
    coarse = np.random.default_rng(0).uniform(0, 255, (2 * spec.count, 1, spec.size // 16, spec.size // 16))
    return np.kron(coarse, np.ones((16, 16))).astype(np.uint8)


def _card(
    trained: TrainedEncoder, backbone: Backbone, parity: dict[str, float], training: Mapping[str, Any]
) -> BundleCard:
    spec = trained.spec
    return BundleCard(
        encoder_digest=encoder_digest(trained, backbone),
        system=spec.name,
        spec=spec,
        backbone=f"{backbone.spec.name}, trained with the encoder" if trains_backbone(spec) else backbone.spec.name,
        backbone_digest=backbone.digest,
        embedding_width=spec.embedding_width(trained.feature_width),
        crops=spec.crops,
        tensors=_tensors(spec, trained.feature_width),
        training=dict(training),
        parity=parity,
        engines={name: EngineRecord(files, _made_by(name)) for name, files in FILES.items()},
        adjacency=_stated_adjacency(trained),
        notes=_notes(spec),
    )


def encoder_digest(trained: TrainedEncoder, backbone: Backbone) -> str:
    """Identity of what an encoder computes: system, crops, backbone and weights."""
    return digest_of(
        {
            "system": trained.spec.as_dict(),
            "crops": trained.spec.crops.digest,
            "backbone": backbone.digest,
            "weights": weights_digest(trained.encoder),
        }
    )


def _made_by(engine: str) -> dict[str, str]:
    if engine == REFERENCE:
        return {"torch": torch.__version__}
    return {"torch": torch.__version__, "onnx opset": str(OPSET)}


def _notes(spec: SystemSpec) -> list[str]:
    """What to know of a localizer's boxes, and of the logits of a variant without a graph, which has two heads."""
    if isinstance(spec, LocalizerSpec):
        return [
            "region_boxes are proposals, as fractions of width and height: chextriev.localizer.valid_boxes makes them"
            " boxes in pixels, inside the image and in the order of anatomy"
        ]
    if not isinstance(spec, VariantSpec) or spec.graph or 0 < spec.region_loss_share < 1:
        return []
    if spec.region_loss_share == 0:
        return ["region_logits come from a head that no loss has trained: they say nothing about the regions"]
    return ["finding_logits are the largest of the regions' logits: no loss trains a head of the whole image"]


def _stated_adjacency(trained: TrainedEncoder) -> list[list[float]] | None:
    """None where every pair is linked by definition, or where there is no graph."""
    adjacency, computed = trained.encoder.adjacency, getattr(trained.spec, "adjacency", "") == "co-occurrence"
    if adjacency is None or (not computed and bool((adjacency == 1).all())):
        return None
    whole = adjacency.int()
    stated: list[list[float]] = (whole if torch.equal(whole.to(adjacency), adjacency) else adjacency).tolist()
    return stated


def _tensors(spec: SystemSpec, width: int) -> dict[str, dict[str, list[TensorSpec]]]:
    crops, embedding = spec.crops, spec.embedding_width(width)
    shapes: dict[str, tuple[str | int, ...]] = {
        "embedding": ("batch", embedding),
        "finding_logits": ("batch", N_FINDINGS),
        "region_logits": ("batch", N_REGIONS, N_FINDINGS),
        "region_vectors": ("batch", crops.count, embedding),
        "hash_bits": ("batch", embedding),
        "region_boxes": ("batch", N_REGIONS, 4),
        "box_confidence": ("batch", N_REGIONS),
    }
    outputs = [TensorSpec(name, shapes[name], "uint8" if name == "hash_bits" else "float32") for name in spec.outputs]
    return {
        REGION_BACKBONE: {
            "inputs": [TensorSpec("crops", ("n", 1, crops.size, crops.size), "uint8")],
            "outputs": [TensorSpec("features", ("n", width), "float32")],
        },
        ENCODER: {"inputs": [TensorSpec("features", ("batch", crops.count, width), "float32")], "outputs": outputs},
    }
