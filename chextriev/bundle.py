"""An encoder bundle: the engines of one encoder and the card that says what they are and whether they are proven.

A directory of kind "encoder bundle": a folder an engine, `card.json` and a manifest that lists every file with size and
sha256. An engine has two parts: `region_backbone` (grey uint8 crops of the regions, or of the whole image, -> features)
and `encoder` (features -> embedding, findings and what else the system has). `torch-fp32` holds the weights as they
were trained: what every other engine is measured against. Engines may share a file.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from chextriev.artifacts import Manifest, check_contents, read_manifest, read_verified
from chextriev.errors import DamagedArtifact, InvalidSetting, UnknownEngine, UnprovenEngine
from chextriev.preprocess import CropSpec
from chextriev.signature import read_signed_manifest
from chextriev.systems import LocalizerSpec, SystemSpec, system_from_dict

KIND = "encoder bundle"
CARD_FILE = "card.json"
PARTS = REGION_BACKBONE, ENCODER = "region_backbone", "encoder"
REFERENCE, DEFAULT = "torch-fp32", "onnx-fp32"
ENGINES = (REFERENCE, DEFAULT, "onnx-int8", "onnx-fp16", "tensorrt-fp16", "tensorrt-int8")
"""Executor and precision of every engine that can be made."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (a string where the dimension is free) and dtype of an engine's input or output."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class EngineRecord:
    """An engine of a bundle.

    files: part -> file in the bundle. made_by: how, as method, calibration and library versions. plans: of TensorRT,
    for each version and GPU that built one: part -> file, and the runtime, version and gpu that it belongs to.
    """

    files: dict[str, str]
    made_by: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, dict[str, str]] = field(default_factory=dict)


Status = Literal["proven", "failed", "unproven"]


@dataclass(frozen=True)
class Verdict:
    """What the retrieval gate found of one engine on one kind of machine.

    status: "proven", "failed" (kept out of the bundle) or "unproven" (in it by force, or not measured). arithmetic:
    what the numbers depend on, as the processor's instructions or the GPU. budget, measured: by measure. data: digest,
    split, radiographs compared and those left out as unreadable. command: repeats it. worst_layers: of an engine that
    failed before some layers kept their precision, what reducing each layer alone does to the features. files: sha256
    of each file that was measured.
    """

    engine: str
    status: Status
    arithmetic: str
    machine: dict[str, Any]
    command: str
    budget: dict[str, float] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    worst_layers: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BundleCard:
    """What a person or program must know to use, trust and trace a bundle.

    encoder_digest: identity of what the encoder computes: system, crops and weights, whatever executes them; indexes
    and embeddings name it. system: the name of spec. adjacency: which regions are linked, [18][18] of 0 and 1, as
    computed from the train split or imported (an imported AnaXNet may have weights); None where every pair is or where
    there is no graph. parity: per output tensor, max|onnx-fp32 - PyTorch| / max|PyTorch|, measured when the bundle was
    made. verdicts: at most one for each engine and kind of machine, also of engines that were kept out.
    """

    encoder_digest: str
    system: str
    spec: SystemSpec
    backbone: str
    backbone_digest: str
    embedding_width: int
    crops: CropSpec
    tensors: dict[str, dict[str, list[TensorSpec]]]  # engine -> "inputs"/"outputs" -> tensors
    training: dict[str, Any]  # digests of study table and features, best epoch, validation metrics
    parity: dict[str, float]
    engines: dict[str, EngineRecord]
    verdicts: list[Verdict] = field(default_factory=list)
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
            part: {role: [_tensor(spec) for spec in content["tensors"][part][role]] for role in ("inputs", "outputs")}
            for part in PARTS
        }
        content["engines"] = {name: _engine(record) for name, record in content["engines"].items()}
        content["verdicts"] = [Verdict(**verdict) for verdict in content["verdicts"]]
        return cls(**content)

    def with_engine(self, name: str, record: EngineRecord | None) -> "BundleCard":
        """The card with this engine, or without it where the record is None."""
        engines = {key: kept for key, kept in self.engines.items() if key != name}
        return replace(self, engines=engines if record is None else {**engines, name: record})

    def with_verdict(self, verdict: Verdict) -> "BundleCard":
        """The card with this verdict in place of an earlier one of the same engine and arithmetic."""
        key = verdict.engine, verdict.arithmetic
        others = [kept for kept in self.verdicts if (kept.engine, kept.arithmetic) != key]
        return replace(self, verdicts=[*others, verdict])


@dataclass(frozen=True)
class EncoderBundle:
    """An opened bundle: its card, and its files, each verified when it is read."""

    directory: Path
    card: BundleCard
    manifest: Manifest

    @property
    def digest(self) -> str:
        """Identity of the encoder, the same for all of its engines."""
        return self.card.encoder_digest

    @property
    def feature_width(self) -> int:
        """Features a crop."""
        (features,) = self.card.tensors[REGION_BACKBONE]["outputs"]
        return int(features.shape[1])

    @property
    def locates(self) -> bool:
        """Whether it proposes boxes, and embeds nothing."""
        return isinstance(self.card.spec, LocalizerSpec)

    def check_embeds(self) -> None:
        """InvalidSetting for the bundle of a localizer."""
        if self.locates:
            raise InvalidSetting(
                f"{self.directory} is the bundle of a localizer, which proposes boxes and embeds nothing; the bundle of"
                " an encoder, such as v6, is needed here"
            )

    def check_locates(self) -> None:
        """InvalidSetting for the bundle of an encoder."""
        if not self.locates:
            raise InvalidSetting(
                f"{self.directory} is the bundle of the encoder {self.card.system}, which proposes no boxes; the bundle"
                " of a localizer is needed here"
            )

    def engine(self, name: str) -> EngineRecord:
        """An engine's record; UnknownEngine says which there are, and why a failed one is not among them."""
        if name not in self.card.engines:
            failed = [verdict for verdict in self.card.verdicts if verdict.engine == name]
            where = (
                f"{self.directory}, which was kept out on {failed[-1].arithmetic}" if failed else f"{self.directory}"
            )
            raise UnknownEngine(name, self.card.engines, where=where)
        return self.card.engines[name]

    def read(self, name: str) -> bytes:
        """A file of the bundle, its size and sha256 compared with the manifest; DamagedArtifact otherwise."""
        return read_verified(self.directory, self.manifest, name)

    def verify(self) -> None:
        """Compare every file with the manifest; DamagedArtifact names the first that differs."""
        for name in self.manifest.files:
            self.read(name)

    def size(self, engine: str) -> int:
        """Bytes of an engine's files."""
        return sum(int(self.manifest.files[name]["size"]) for name in set(self.engine(engine).files.values()))

    def engine_files(self, name: str) -> dict[str, str]:
        """sha256 (hex) of each file of an engine, without TensorRT's plans."""
        return {file: str(self.manifest.files[file]["sha256"]) for file in self.engine(name).files.values()}

    def check_proven(self, name: str, arithmetic: str) -> Verdict:
        """The verdict that lets an engine serve on this kind of machine; UnprovenEngine where there is none."""
        files = self.engine_files(name)
        verdicts: Mapping[str, Verdict] = {
            verdict.arithmetic: verdict for verdict in self.card.verdicts if verdict.engine == name
        }
        found = verdicts.get(arithmetic)
        if found is None or found.status != "proven" or found.files != files:
            others = ", ".join(key for key, verdict in verdicts.items() if verdict.status == "proven")
            known = f"it is proven on {others or 'no machine'}"
            if found is not None:
                known = f"it is {found.status} here" if found.status != "proven" else "other files of it were proven"
            raise UnprovenEngine(
                f"engine {name} of {self.directory} may not serve on {arithmetic}: {known}; prove it on this machine:"
                f" chextriev export engines BUNDLE DATA --engines {name}"
            )
        return found


def open_bundle(directory: str | Path, *, signed_by: str | Path | None = None) -> EncoderBundle:
    """Open a bundle: manifest and card are verified now, every other file when it is read and before it is parsed.

    signed_by: the PEM file of an ed25519 public key; the manifest must bear its signature. Raises NotAnArtifact,
    DamagedArtifact (also for a file that the manifest does not name), UnsignedArtifact or ForgedSignature.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, KIND) if signed_by is None else read_signed_manifest(directory, KIND, signed_by)
    check_contents(directory, manifest)
    try:
        card = BundleCard.from_json(read_verified(directory, manifest, CARD_FILE).decode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedArtifact(
            f"{directory / CARD_FILE} is not a bundle card of this release ({error!s:.200}); export the bundle again"
        ) from error
    return EncoderBundle(directory, card, manifest)


def _engine(content: dict[str, Any]) -> EngineRecord:
    record = EngineRecord(**content)
    if set(record.files) != set(PARTS) or not all(isinstance(name, str) for name in record.files.values()):
        raise TypeError(f"an engine has a file for each of {', '.join(PARTS)}")
    return record


def _tensor(content: dict[str, Any]) -> TensorSpec:
    return TensorSpec(content["name"], tuple(content["shape"]), content["dtype"])
