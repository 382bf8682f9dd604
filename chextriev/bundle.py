"""An encoder bundle: the exported engines of one encoder and the card that says what they are.

A directory of kind "encoder bundle": `region_backbone.onnx` (grey uint8 crops of the regions, or of the whole image, ->
features), `encoder.onnx` (features -> embedding, findings and what else the system has), `card.json` and a manifest
that lists every file with size and sha256.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chextriev.artifacts import open_artifact
from chextriev.errors import DamagedArtifact
from chextriev.preprocess import CropSpec
from chextriev.systems import SystemSpec, system_from_dict

KIND = "encoder bundle"
CARD_FILE = "card.json"
BACKBONE_FILE = "region_backbone.onnx"
ENCODER_FILE = "encoder.onnx"


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (a string where the dimension is free) and dtype of an engine's input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class BundleCard:
    """What a person or program must know to use, trust and trace a bundle.

    system: the name of spec. adjacency: which regions are linked, [18][18] of 0 and 1, as computed from the train
    split or imported (an imported AnaXNet may have weights); None where every pair is or where there is no graph.
    parity: per output tensor, max|engine - PyTorch| / max|PyTorch|, measured when the bundle was made.
    """

    system: str
    spec: SystemSpec
    backbone: str
    backbone_digest: str
    embedding_width: int
    crops: CropSpec
    tensors: dict[str, dict[str, list[TensorSpec]]]  # engine -> "inputs"/"outputs" -> tensors
    training: dict[str, Any]  # digests of study table and features, best epoch, validation metrics
    parity: dict[str, float]
    adjacency: list[list[float]] | None = None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of `card.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "BundleCard":
        """Read `card.json`."""
        content = json.loads(text)
        content["spec"] = system_from_dict(content["spec"])
        content["crops"] = CropSpec(**content["crops"])
        content["tensors"] = {
            engine: {role: [_tensor(spec) for spec in specs] for role, specs in roles.items()}
            for engine, roles in content["tensors"].items()
        }
        return cls(**content)


@dataclass(frozen=True)
class EncoderBundle:
    """An opened bundle whose files agree with the manifest."""

    directory: Path
    card: BundleCard
    digest: str

    @property
    def backbone_path(self) -> Path:
        """The ONNX file of the region backbone."""
        return self.directory / BACKBONE_FILE

    @property
    def feature_width(self) -> int:
        """Features a crop."""
        (features,) = self.card.tensors["region_backbone"]["outputs"]
        return int(features.shape[1])

    @property
    def encoder_path(self) -> Path:
        """The ONNX file of the encoder."""
        return self.directory / ENCODER_FILE


def open_bundle(directory: str | Path) -> EncoderBundle:
    """Open a bundle, every file verified before anything parses it."""
    directory = Path(directory)
    manifest = open_artifact(directory, KIND)
    try:
        card = BundleCard.from_json((directory / CARD_FILE).read_text())
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedArtifact(
            f"{directory / CARD_FILE} is not a bundle card ({error}); export the bundle again"
        ) from error
    return EncoderBundle(directory, card, manifest.digest)


def _tensor(content: dict[str, Any]) -> TensorSpec:
    return TensorSpec(content["name"], tuple(content["shape"]), content["dtype"])
