"""Folding changes no answer: grey convolutions with a border map, no norm and no edge projection left to compute."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from chextriev.artifacts import file_digest
from chextriev.bundle import DEFAULT, ENCODER, REFERENCE, REGION_BACKBONE, open_bundle
from chextriev.errors import InvalidSetting
from chextriev.export.build_bundle import relative_difference, write_region_backbone
from chextriev.export.fold import FoldedAttention, GreyConvolution, fold_backbone, fold_encoder
from chextriev.export.torch_weights import read_weights, restore_encoder
from chextriev.study_table import StudyTable
from chextriev.systems import SYSTEMS, new_system
from chextriev.train.backbones import BACKBONES, Backbone, load_backbone, region_extractor
from chextriev.train.graph_transformer import GraphTransformer
from tests.export.tiny_bundle import (
    ATH_SEED,
    TinyBundle,
    fresh_encoder,
    make_bundle,
    random_backbone,
    small_form,
)

TOLERANCE = 1e-5
"""Of the range of the features; the four backbones differ by 2e-7 to 2e-6."""

WIDTH = 24
SHAPES = {
    "resnet50": (64, 112, 112),
    "res2net50": (64, 112, 112),
    "densenet121": (64, 112, 112),
    "efficientnet-lite0": (32, 112, 112),
    "ath": (16, 128, 128),
}
"""Output of each backbone's first convolution."""


def probing_crops(size: int) -> torch.Tensor:
    """[4, 1, size, size] uint8: noise, blocks of a sixteenth, black, white."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.uniform(0, 255, (16, 16)), np.ones((size // 16, size // 16)))
    flat = [np.full((size, size), level) for level in (0, 255)]
    return torch.from_numpy(np.stack([rng.integers(0, 256, (size, size)), blocks, *flat]).astype(np.uint8)[:, None])


def size_of(name: str) -> int:
    return 256 if name == "ath" else 224


def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbones of the same layers but fewer of them, for the exporter takes half a minute for DenseNet-121."""
    narrow = ((16, 2, 1), (32, 1, 2))
    monkeypatch.setattr("chextriev.train.backbones.resnet50.STAGES", narrow)
    monkeypatch.setattr("chextriev.train.backbones.densenet121.BLOCKS", (1, 1))


def grey_convolutions(module: nn.Module) -> list[GreyConvolution]:
    return [part for part in module.modules() if isinstance(part, GreyConvolution)]


@torch.inference_mode()
def differences(backbone: Backbone, size: int) -> tuple[float, float]:
    """Of the features of a folded backbone, with its border map and with none."""
    crops = probing_crops(size)
    wanted, folded = region_extractor(backbone)(crops), fold_backbone(backbone, size)
    whole = relative_difference(folded(crops).numpy(), wanted.numpy())
    for part in grey_convolutions(folded):
        part.border.zero_()
    return whole, relative_difference(folded(crops[:1]).numpy(), wanted[:1].numpy())


@pytest.mark.parametrize("name", ["resnet50", "res2net50", "densenet121", "ath"])
def test_a_folded_backbone_gives_the_same_features(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow(monkeypatch)
    folded, without_border = differences(random_backbone(name, ATH_SEED), size_of(name))
    assert folded <= TOLERANCE < without_border / 20


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_a_whole_folded_backbone_gives_the_same_features(name: str) -> None:
    assert differences(random_backbone(name), 224)[0] <= TOLERANCE


def test_a_trained_backbone_gives_the_same_features() -> None:
    folded, without_border = differences(load_backbone("efficientnet-lite0"), 224)
    assert folded <= TOLERANCE < without_border / 20


def test_crops_of_another_size_have_a_border_of_their_own() -> None:
    backbone = random_backbone("efficientnet-lite0")
    assert differences(backbone, 96)[0] <= TOLERANCE
    assert fold_backbone(backbone, 96).trunk.get_submodule("_conv_stem").border.shape == (1, 32, 48, 48)


@pytest.mark.parametrize("name", SHAPES)
def test_the_border_map_is_zero_but_near_the_border(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow(monkeypatch)
    backbone = random_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.module.state_dict().items()}
    stems = grey_convolutions(fold_backbone(backbone, size_of(name)))
    assert len(stems) == len(backbone.module.stem)
    for stem in stems:
        assert tuple(stem.border.shape) == (1, *SHAPES[name])
        assert stem.convolution.weight.shape[1] == 1
        inside = stem.border[:, :, 2:-2, 2:-2].abs().max()
        edges = [stem.border[:, :, 0], stem.border[:, :, :, 0]]
        assert float(inside) <= 1e-6
        assert min(float(edge.abs().amax()) for edge in edges) > 0.01
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.module.state_dict().items())


@pytest.mark.parametrize("name", ["res2net50", "densenet121"])
def test_engines_see_one_channel_and_have_no_norm_after_a_convolution(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow(monkeypatch)
    write_region_backbone(random_backbone(name), tmp_path / "engine.onnx")
    assert_folded((tmp_path / "engine.onnx").read_bytes(), name)


def test_engines_of_bundles_see_one_channel_and_have_no_norm(ath: TinyBundle, regions_made: TinyBundle) -> None:
    assert_folded(backbone_engine(ath), "ath")
    assert_folded(backbone_engine(regions_made), "resnet50")


def backbone_engine(tiny: TinyBundle) -> bytes:
    bundle = open_bundle(tiny.folder)
    return bundle.read(bundle.engine(DEFAULT).files[REGION_BACKBONE])


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_whole_engines_see_one_channel_and_have_no_norm_after_a_convolution(name: str, tmp_path: Path) -> None:
    write_region_backbone(random_backbone(name), tmp_path / "engine.onnx")
    assert_folded((tmp_path / "engine.onnx").read_bytes(), name)


def assert_folded(engine: bytes, name: str) -> None:
    graph = onnx.load_model_from_string(engine).graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert bool(norms) == (name == "densenet121")  # those before a convolution stay
    assert "Conv" not in {producers[node.input[0]] for node in norms}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    seeing = [node for node in graph.node if node.op_type == "Conv" and producers[node.input[0]] == "Cast"]
    assert len(seeing) == (2 if name == "ath" else 1)
    assert {shapes[node.input[1]][1] for node in seeing} == {1}
    (crops,) = graph.input
    size = size_of(name)
    assert [dim.dim_value for dim in crops.type.tensor_type.shape.dim] == [0, 1, size, size]


def test_efficientnet_sees_one_channel_and_has_no_norm(lite0_engine: bytes) -> None:
    assert_folded(lite0_engine, "efficientnet-lite0")


def test_a_norm_without_statistics_is_refused() -> None:
    backbone = random_backbone("ath")
    backbone.module.block1.inner[1] = nn.BatchNorm2d(16, track_running_stats=False)
    with pytest.raises(InvalidSetting, match="without running statistics"):
        fold_backbone(backbone, 256)


class Unused(nn.Module):
    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the projection of edges was called")


@pytest.mark.parametrize("name", SYSTEMS)
@torch.inference_mode()
def test_a_folded_encoder_projects_no_edge_and_answers_alike(name: str) -> None:
    encoder = fresh_encoder(small_form(SYSTEMS[name]), WIDTH if name != "ath" else 1024)
    folded = fold_encoder(encoder)
    transformer = getattr(encoder, "transformer", None)
    assert (folded is encoder) == (not isinstance(transformer, GraphTransformer))
    if folded is not encoder:
        for layer in folded.transformer.layers:
            assert isinstance(layer.attention, FoldedAttention)
            layer.attention.attention.edge = Unused()
    shape = (2, encoder.spec.crops.count, WIDTH if name != "ath" else 1024)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = folded(features), encoder(features)
    for output in encoder.spec.outputs:
        torch.testing.assert_close(getattr(ours, output), getattr(theirs, output), rtol=0, atol=1e-6)


def test_an_encoders_engine_holds_no_weight_of_the_edge_projection(regions: TinyBundle) -> None:
    bundle = open_bundle(regions.folder)
    engine, weights = (bundle.engine(name).files[ENCODER] for name in (DEFAULT, REFERENCE))
    graph = onnx.load_model_from_string(bundle.read(engine)).graph
    numbers = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    encoder = restore_encoder(bundle.card.spec, read_weights(bundle.read(weights), Path(weights)))
    attention = encoder.transformer.layers[0].attention
    assert not holds(numbers, attention.edge.weight)
    assert holds(numbers, attention.query.weight)  # so the search would find it
    assert holds(numbers, attention.project_edges(encoder.transformer.edge_vectors()))


def holds(arrays: list[np.ndarray], tensor: torch.Tensor) -> bool:
    """Whether an array has these numbers, in any shape and order."""
    wanted = np.sort(tensor.detach().numpy().ravel())
    same_size = (array for array in arrays if array.size == wanted.size)
    return any(np.allclose(np.sort(array.ravel()), wanted, atol=1e-6) for array in same_size)


def test_one_backbone_engine_serves_every_system_on_it(
    regions: TinyBundle, tiny_study: StudyTable, tmp_path: Path
) -> None:
    """As does the file of its weights."""
    other = new_system({"name": "tiny-local", "base": "v0-local", "width": 32})
    made = make_bundle(tmp_path, tiny_study, other, random_backbone("resnet50"))
    bundles = [open_bundle(tiny.folder) for tiny in (regions, made)]
    assert len({bundle.digest for bundle in bundles}) == 2
    for engine in (REFERENCE, DEFAULT):
        digests = [file_digest(item.directory / item.engine(engine).files[REGION_BACKBONE]) for item in bundles]
        assert digests[0] == digests[1]
