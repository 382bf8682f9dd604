"""Bundles small enough for a test: ATH, which is small by itself, and a narrow graph transformer on a narrow ResNet.

The fixtures are those of `tests/conftest.py`; a bundle that a test changes is copied first.
"""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from chextriev.preprocess import CropSpec, region_crops
from chextriev.study_table import StudyTable, read_study_table
from chextriev.systems import SystemSpec, find_system, new_system
from tests.made_once import made_once
from tests.tiny import write_tiny_table

if TYPE_CHECKING:
    import torch

    from chextriev.train.backbones import Backbone

SMALL = {"width": 32, "heads": 2, "head_width": 8, "layers": 1}
NARROW = ((8, 1, 1), (16, 1, 2), (32, 1, 2), (512, 1, 2))
"""Stages of a ResNet with a block each that ends in as many features as ResNet-50."""

SYSTEM = "tiny-v6"
PER_SPLIT = (8, 14, 2)
ATH_SEED = 9
"""Of random weights whose units are not all dead: the embeddings of the tiny radiographs have cosines of -.05 to 1."""


@dataclass(frozen=True)
class TinyBundle:
    """A bundle and what it was made of; study: the table of its radiographs."""

    folder: Path
    checkpoint: Path
    study: Path

    def copy_to(self, folder: Path) -> Path:
        """One that a test may change."""
        return Path(shutil.copytree(self.folder, folder))

    @property
    def table(self) -> StudyTable:
        """The radiographs."""
        return read_study_table(self.study)


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """Two dozen small radiographs in three splits."""
    made = made_once(tmp_path_factory, "study", lambda folder: write_tiny_table(folder / "tiny", per_split=PER_SPLIT))
    return read_study_table(made / "tiny" / "study")


@pytest.fixture(scope="session")
def ath(tiny_study: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """ATH with random weights: one crop a radiograph, milliseconds an engine."""
    from chextriev.train.ath import ATH_BACKBONE

    def make(folder: Path) -> None:
        make_bundle(folder, tiny_study, find_system("ath"), random_backbone(ATH_BACKBONE.name, ATH_SEED))

    return bundle_in(made_once(tmp_path_factory, "ath", make), tiny_study)


@pytest.fixture(scope="session")
def lite0_engine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The float32 engine of efficientnet-lite0 with its ImageNet weights."""
    from chextriev.train.backbones import load_backbone

    path = tmp_path_factory.mktemp("lite0") / "region_backbone.onnx"
    with pytest.MonkeyPatch.context() as patch:
        export_once(tmp_path_factory, patch)(load_backbone("efficientnet-lite0"), path)
    return path.read_bytes()


@pytest.fixture
def exported_once(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same convolutions become an engine once in a whole run of the tests: for those of what is made of engines.

    That of efficientnet-lite0 takes 10 s.
    """
    export_once(tmp_path_factory, monkeypatch)


def export_once(factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Patch what writes engines; the function that writes them now."""
    from chextriev.export import build_bundle

    write = build_bundle.write_region_backbone

    def copy(backbone: "Backbone", path: Path, crops: CropSpec | None = None) -> None:
        made = made_once(
            factory, engine_name(backbone, crops), lambda folder: write(backbone, folder / "engine.onnx", crops)
        )
        shutil.copyfile(made / "engine.onnx", path)

    patch.setattr(build_bundle, "write_region_backbone", copy)
    return copy


def engine_name(backbone: "Backbone", crops: CropSpec | None) -> str:
    """A name for all that an engine depends on."""
    from chextriev.train.backbones.weights import weights_digest

    size = (crops or CropSpec()).size
    parts = [backbone.spec, type(backbone.module).__qualname__, weights_digest(backbone.module), size]
    return f"engine-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


@pytest.fixture(scope="session")
def regions_made(tiny_study: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """A narrow V6 on a narrow ResNet: 18 crops a radiograph."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            narrow(patch)
            system = new_system({"name": SYSTEM, "base": "v6", **SMALL})
            make_bundle(folder, tiny_study, system, random_backbone("resnet50"))

    return bundle_in(made_once(tmp_path_factory, "regions", make), tiny_study)


@pytest.fixture
def regions(regions_made: TinyBundle, monkeypatch: pytest.MonkeyPatch) -> TinyBundle:
    """The same, while the package's ResNet is the narrow one."""
    narrow(monkeypatch)
    return regions_made


def narrow(patch: pytest.MonkeyPatch) -> None:
    """Let ResNets be narrow."""
    patch.setattr("chextriev.train.backbones.resnet50.STAGES", NARROW)


def random_backbone(name: str, seed: int = 0) -> "Backbone":
    """Untrained, with statistics of batch norm as training leaves them: neither 0 nor 1."""
    import torch

    from chextriev.train.backbones import Backbone, backbone_digest
    from chextriev.train.backbones import weights as stored
    from chextriev.train.encoders import find_backbone_spec

    spec = find_backbone_spec(name)
    module = spec.network()
    module.load_state_dict(stored.random_state(module, seed))
    generator = torch.Generator().manual_seed(seed)
    for norm in (part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        for tensor, low, high in (
            (norm.running_mean, -0.3, 0.3),
            (norm.running_var, 0.5, 2),
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.2, 0.4),
        ):
            tensor.data.uniform_(low, high, generator=generator)
    return Backbone(module.freeze(), spec, backbone_digest(spec, module, "made up"), "made up")


def make_bundle(folder: Path, table: StudyTable, system: SystemSpec, backbone: "Backbone") -> TinyBundle:
    """Write a checkpoint as training does, and export it."""
    from chextriev.export.build_bundle import build_bundle

    checkpoint = write_checkpoint(folder / "best.ckpt", table, system, backbone)
    build_bundle(checkpoint, folder / "bundle", weights=folder / "backbone.pth")
    return bundle_in(folder, table)


def bundle_in(folder: Path, table: StudyTable) -> TinyBundle:
    """What `make_bundle` left in a folder."""
    return TinyBundle(folder / "bundle", folder / "best.ckpt", table.image_root / "study")


def write_checkpoint(path: Path, table: StudyTable, system: SystemSpec, backbone: "Backbone") -> Path:
    """A checkpoint of an untrained encoder, and the weights of its backbone beside it."""
    import torch

    from chextriev.systems import trains_backbone
    from chextriev.train.backbones import backbone_digest

    width = backbone.spec.width
    state = {f"encoder.{name}": tensor for name, tensor in fresh_encoder(system, width).state_dict().items()}
    if trains_backbone(system):
        weights = backbone.module.state_dict()
        state |= {f"backbone.extractor.trunk.{name}": tensor for name, tensor in weights.items()}
    provenance = {
        "backbone": backbone.spec.name,
        "backbone_digest": backbone_digest(backbone.spec, backbone.module, "trained"),
        "crops_digest": system.crops.digest,
        "features_digest": "f" * 64,
        "table_digest": table.digest,
    }
    settings = {"system": system.as_dict(), "feature_width": width, "provenance": provenance}
    torch.save({"hyper_parameters": settings, "state_dict": state}, path)
    torch.save(backbone.module.state_dict(), path.with_name("backbone.pth"))
    return path


def fresh_encoder(system: SystemSpec, width: int, seed: int = 0) -> "torch.nn.Module":
    """An untrained encoder that depends on the seed alone."""
    import torch

    from chextriev.train.encoders import new_encoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return new_encoder(system, width).eval()


def small_form(system: SystemSpec) -> SystemSpec:
    """The system, narrow where it can be."""
    if hasattr(system, "heads"):
        return replace(system, name="tiny", **{**SMALL, "layers": system.layers})
    return replace(system, name="tiny", hidden=32) if hasattr(system, "hidden") else system


def crops_of(table: StudyTable, rows: range, spec: CropSpec | None = None) -> npt.NDArray[np.uint8]:
    """[n, 1, size, size] of these radiographs."""
    read = (table.radiograph(row) for row in rows)
    return np.concatenate([region_crops(item.pixels, item.boxes, spec) for item in read])[:, np.newaxis]
