"""A checkpoint becomes an encoder bundle: two ONNX engines, each compared with PyTorch, and the card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.artifacts import Recipe, check_output, file_digest, find_current, publishing, seal
from chextriev.bundle import (
    BACKBONE_FILE,
    CARD_FILE,
    ENCODER_FILE,
    KIND,
    BundleCard,
    EncoderBundle,
    TensorSpec,
    open_bundle,
)
from chextriev.errors import EngineDiffers, OtherBackbone, UnreadableCheckpoint
from chextriev.export.checkpoint import TrainedEncoder, load_checkpoint
from chextriev.export.runners import open_session
from chextriev.export.to_onnx import write_onnx
from chextriev.preprocess import CropSpec
from chextriev.train.backbones import Backbone, load_backbone, region_extractor
from chextriev.train.region_encoder import EncoderOutput
from chextriev.train.run_files import open_run

METHOD = 2
"""Part of every bundle's recipe; raise it when the same checkpoint begins to give other engines."""

PARITY_LIMIT = 1e-4
"""Largest max|engine - PyTorch| / max|PyTorch| of a float32 engine; the demo measures 1e-6 to 6e-6."""


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
    backbone = _matching_backbone(trained, weights)
    with publishing(Path(out), KIND) as scratch:
        write_region_backbone(backbone, scratch / BACKBONE_FILE)
        write_encoder(trained, scratch / ENCODER_FILE)
        parity = measure_parity(scratch, backbone, trained)
        (scratch / CARD_FILE).write_text(_card(trained, parity, facts).to_json())
        seal(scratch, KIND, recipe)
    return open_bundle(out), False


def write_region_backbone(backbone: Backbone, path: Path) -> None:
    """Engine `region_backbone`: crops [n, 1, 224, 224] uint8 -> features [n, width] float32."""
    sample = torch.zeros(2, 1, CropSpec().size, CropSpec().size, dtype=torch.uint8)
    write_onnx(region_extractor(backbone), sample, path, inputs="crops", outputs=["features"])


def write_encoder(trained: TrainedEncoder, path: Path) -> None:
    """Engine `encoder`: features [B, 18, width] float32 -> the tensors of EncoderOutput."""
    sample = torch.zeros(2, N_REGIONS, trained.feature_width)
    write_onnx(trained.encoder, sample, path, inputs="features", outputs=EncoderOutput._fields)


def measure_parity(directory: Path, backbone: Backbone, trained: TrainedEncoder) -> dict[str, float]:
    """Run both engines and PyTorch on the same crops; per output max|engine - PyTorch| / max|PyTorch|.

    The crops are random grey blocks for two radiographs; the features of one engine feed the other, as in service.
    """
    crops = _random_crops()
    with torch.inference_mode():
        features = region_extractor(backbone)(torch.from_numpy(crops))
        expected = trained.encoder(features.unflatten(0, (-1, N_REGIONS)))
    (served,) = open_session(directory / BACKBONE_FILE).run(None, {"crops": crops})
    outputs = open_session(directory / ENCODER_FILE).run(
        None, {"features": served.reshape(-1, N_REGIONS, served.shape[1])}
    )
    pairs = {
        "features": (served, features),
        **dict(zip(EncoderOutput._fields, zip(outputs, expected, strict=True), strict=True)),
    }
    parity = {name: relative_difference(engine, reference.numpy()) for name, (engine, reference) in pairs.items()}
    worst = max(parity, key=lambda name: parity[name])
    if not parity[worst] <= PARITY_LIMIT:
        raise EngineDiffers(
            f"{worst} differs from PyTorch by {parity[worst]:.1e} of its range; {PARITY_LIMIT:.0e} is allowed"
        )
    return parity


def relative_difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """max|a-b| / max|b|."""
    return float(np.abs(a - b).max() / np.abs(b).max())


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
    if trained.provenance["crops_digest"] != CropSpec().digest:
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


def _random_crops() -> npt.NDArray[np.uint8]:
    coarse = np.random.default_rng(0).uniform(0, 255, (2 * N_REGIONS, 1, 14, 14))
    return np.kron(coarse, np.ones((16, 16))).astype(np.uint8)  # [36, 1, 224, 224]


def _card(trained: TrainedEncoder, parity: dict[str, float], facts: Mapping[str, Any]) -> BundleCard:
    spec, provenance = trained.encoder.spec, trained.provenance
    crops = CropSpec()
    return BundleCard(
        system=spec.name,
        variant=spec,
        backbone=provenance["backbone"],
        backbone_digest=provenance["backbone_digest"],
        embedding_width=spec.width,
        crops=crops,
        tensors=_tensors(crops.size, trained.feature_width, spec.width),
        training={
            **{key: provenance[key] for key in ("table_digest", "features_digest")},
            **json.loads(json.dumps(facts)),
        },
        parity=parity,
    )


def _tensors(size: int, width: int, embedding: int) -> dict[str, dict[str, list[TensorSpec]]]:
    features = TensorSpec("features", ("batch", N_REGIONS, width), "float32")
    return {
        "region_backbone": {
            "inputs": [TensorSpec("crops", ("n", 1, size, size), "uint8")],
            "outputs": [TensorSpec("features", ("n", width), "float32")],
        },
        "encoder": {
            "inputs": [features],
            "outputs": [
                TensorSpec("embedding", ("batch", embedding), "float32"),
                TensorSpec("finding_logits", ("batch", N_FINDINGS), "float32"),
                TensorSpec("region_logits", ("batch", N_REGIONS, N_FINDINGS), "float32"),
                TensorSpec("region_vectors", ("batch", N_REGIONS, embedding), "float32"),
            ],
        },
    }
