"""Every system trains from its shipped configuration, a new one included, and becomes a bundle that agrees with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from chextriev import find_system, open_encoder
from chextriev.errors import InvalidSetting, OtherBackbone, UnknownSystem
from chextriev.export.build_bundle import build_bundle
from chextriev.export.checkpoint import load_checkpoint
from chextriev.export.embed import embed_table
from chextriev.preprocess import CropSpec
from chextriev.study_table import StudyTable
from chextriev.systems import SYSTEMS, SystemSpec, new_system, trains_backbone
from chextriev.train.backbones import RegionExtractor, load_backbone
from chextriev.train.configs import config_path
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.encoders import new_encoder
from chextriev.train.features import (
    FeatureExtractor,
    FeatureSettings,
    PixelExtractor,
    TorchExtractor,
    compute_features,
    open_features,
)
from chextriev.train.fit import run_train
from chextriev.train.learned_backbone import LearnedBackbone
from tests.tiny import write_tiny_table
from tests.train.tiny_training import QUIET, data_words

CONFIGS = sorted(config_path("v6").parent.glob("*.yaml"))
SMALL = {"width": 32, "heads": 2, "head_width": 8}
SMALLER: dict[str, dict[str, int]] = {"variant": SMALL, "localizer": {"size": 64}}
BACKBONE = "efficientnet-lite0"
EPOCH = ["--trainer.max_epochs", "1"]


@dataclass(frozen=True)
class Data:
    """A dozen radiographs and, by name, the features that the systems learn from."""

    folder: Path
    table: StudyTable

    def features(self, spec: SystemSpec) -> str:
        """The cache that this system needs, computed once."""
        name = f"features-{spec.crops.area}-{spec.crops.size}-{'pixels' if trains_backbone(spec) else 'frozen'}"
        if not (self.folder / name).exists():
            extractor: FeatureExtractor = PixelExtractor(spec.crops)
            if not trains_backbone(spec):
                extractor = TorchExtractor(load_backbone(BACKBONE))
            compute_features(self.table, self.folder / name, extractor, settings=FeatureSettings(spec.crops))
        return name


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("systems")
    return Data(folder, write_tiny_table(folder, per_split=(2, 2, 2)))


def small_system(path: Path) -> tuple[dict[str, Any], SystemSpec]:
    """The system of a configuration, made small where it can be; its settings and its specification."""
    stated = yaml.safe_load(path.read_text())["model"]["system"]
    settings = {"base": stated} if isinstance(stated, str) else dict(stated)
    family = new_system({**settings, "name": "tiny"}).family
    settings = {**settings, "name": "tiny", **SMALLER.get(family, {})}
    return settings, new_system(settings)


def fit(data: Data, path: Path, out: Path) -> SystemSpec:
    """Train the small form of a configuration for a step."""
    settings, spec = small_system(path)
    words = ["--config", str(path), "--model.system", str(settings), "--data.batch_size", "2"]
    words += [*EPOCH, "--trainer.accumulate_grad_batches", "1", "--trainer.val_check_interval", "1.0"]
    if spec.as_dict().get("backbone") == "trained" and spec.family != "localizer":
        words += ["--model.backbone", BACKBONE]
    command = run_train(["fit", *words, *data_words(data.folder, data.features(spec)), *QUIET, "--out", str(out)])
    assert command.manifest.facts["steps"] == 1
    return spec


# One of each family always; the others differ from these by settings that their own tests hold, and v6-e2e trains
# convolutions for 15 s.
ALWAYS = {"global-cnn", "ath", "anaxnet", "v0-local", "v1", "v6"}
TRAINED = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem not in ALWAYS), id=path.stem) for path in CONFIGS]


@pytest.mark.parametrize("path", TRAINED)
def test_shipped_configurations_train_a_step(data: Data, path: Path, tmp_path: Path) -> None:
    spec = fit(data, path, tmp_path / "run")
    trained = load_checkpoint(tmp_path / "run" / "best.ckpt")
    assert trained.spec == spec
    assert (trained.backbone is not None) is trains_backbone(spec)


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize("system", ["global-cnn", "ath", "anaxnet", pytest.param("v6-e2e", marks=pytest.mark.slow)])
def test_every_family_becomes_a_bundle(data: Data, system: str, tmp_path: Path) -> None:
    spec = fit(data, config_path(system), tmp_path / "run")
    bundle, _ = build_bundle(tmp_path / "run", tmp_path / "bundle")
    assert bundle.card.spec == spec
    assert (bundle.card.adjacency is None) is (system != "anaxnet")
    encoder = open_encoder(bundle)
    found = encoder.encode([data.table.radiograph(0)])
    assert found.vectors.shape == (1, bundle.card.embedding_width)
    for name in ("finding_logits", "region_logits", "region_vectors", "hash_bits"):
        assert (getattr(found, name) is not None) is (name in spec.outputs)
    features = open_features(data.folder / data.features(spec))
    manifest, _ = embed_table(encoder, data.table, tmp_path / "embeddings", features=features)
    from_cache = np.load(tmp_path / "embeddings" / "embeddings.npy")[0]
    assert manifest.facts["n"] == len(data.table)
    assert np.abs(from_cache - found.vectors[0]).max() <= 2e-3 * np.abs(from_cache).max()  # the cache is float16


def test_every_system_has_a_configuration_and_two_are_of_no_paper() -> None:
    names = {path.stem for path in CONFIGS}
    assert names - set(SYSTEMS) == {"v6-regions", "localizer"}
    assert set(SYSTEMS) <= names
    for path in CONFIGS:
        stated = yaml.safe_load(path.read_text())["model"]["system"]
        assert (stated if isinstance(stated, str) else stated["name"]) == path.stem


def test_features_of_another_kind_are_refused_with_the_command_that_makes_them(data: Data, tmp_path: Path) -> None:
    places = data_words(data.folder, data.features(find_system("v6")))
    for system, wanted in (
        ("ath", "--backbone pixels --area image --size 256"),
        ("global-cnn", "--backbone NAME --area image --size 224"),
    ):
        with pytest.raises(OtherBackbone, match=wanted):
            run_train(["fit", "--model.system", system, *places, *QUIET, *EPOCH, "--out", str(tmp_path / "run")])


def test_only_the_backbone_that_learns_moves(data: Data) -> None:
    torch.manual_seed(0)
    module = EncoderModule({"name": "tiny", "base": "v6-e2e", **SMALL}, backbone=BACKBONE)
    assert module.backbone is not None
    module.train()
    before = {name: tensor.clone() for name, tensor in module.backbone.state_dict().items()}
    crops = torch.from_numpy(open_features(data.folder / data.features(find_system("v6-e2e"))).rows([0]))
    module(crops).finding_logits.square().mean().backward()
    module.configure_optimizers()["optimizer"].step()
    moved = {name for name, tensor in module.backbone.state_dict().items() if not torch.equal(before[name], tensor)}
    assert len(moved) > 100
    assert not any("running" in name for name in moved)  # batch norm keeps its statistics


def test_recomputed_activations_give_the_same_gradients() -> None:
    crops = torch.randint(0, 256, (3, 18, 32 * 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (True, False):
        extractor = RegionExtractor(load_backbone(BACKBONE))
        extractor.trunk.fine_tune()
        features = LearnedBackbone(extractor, size=32, recompute=recompute).train()(crops)
        assert features.shape == (3, 18, 1280)
        features.square().mean().backward()
        gradients.append([parameter.grad for parameter in extractor.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def test_the_whole_image_may_be_a_nineteenth_vector() -> None:
    spec = new_system({"name": "nineteen", "base": "v0-global", "whole_image": True})
    assert spec.crops == CropSpec(area="regions+image")
    torch.manual_seed(0)
    encoder, plain = new_encoder(spec, 12), new_encoder(find_system("v0-global"), 12)
    plain.load_state_dict(encoder.state_dict())
    features = torch.randn(2, 19, 12)
    ours, published = encoder(features), plain(features[:, :18])
    assert ours.region_vectors is not None
    assert ours.region_vectors.shape == (2, 19, 1024)
    torch.testing.assert_close(ours.embedding, ours.region_vectors.mean(dim=1))
    torch.testing.assert_close(ours.finding_logits, published.finding_logits)
    torch.testing.assert_close(ours.region_logits, published.region_logits)
    with pytest.raises(InvalidSetting, match="whole_image needs graph: false"):
        new_system({"name": "nineteen", "base": "v6", "whole_image": True})


def test_global_cnn_embeds_by_the_backbone_or_the_hidden_layer() -> None:
    feature = torch.randn(2, 1, 20)
    output = new_encoder(find_system("global-cnn"), 20)(feature)
    assert torch.equal(output.embedding, feature[:, 0])
    hidden = new_system({"name": "mine", "base": "global-cnn", "embedding": "hidden"})
    assert new_encoder(hidden, 20)(feature).embedding.shape == (2, 1024)
    assert output.region_logits is None


def test_ath_gives_a_real_code_and_its_bits() -> None:
    output = new_encoder(find_system("ath"), 1024)(torch.randn(3, 1, 1024))
    assert output.hash is output.embedding
    assert output.hash_bits is not None
    assert output.hash_bits.dtype == torch.uint8
    assert torch.equal(output.hash_bits.bool(), output.embedding > 0)


def test_systems_are_refused_in_words() -> None:
    with pytest.raises(UnknownSystem, match=r"no system 'v9'; choose one of global-cnn, ath.*v6-e2e"):
        find_system("v9")
    with pytest.raises(InvalidSetting, match="system mine: bits is 0; a positive integer"):
        new_system({"name": "mine", "base": "ath", "bits": 0})
    with pytest.raises(InvalidSetting, match=r"a system has a name and the settings name, bits.*got.*heads"):
        new_system({"name": "mine", "base": "ath", "heads": 2})
    with pytest.raises(InvalidSetting, match=r"region_loss_share is 1\.5; 0 to 1"):
        new_system({"name": "mine", "base": "v6", "region_loss_share": 1.5})
