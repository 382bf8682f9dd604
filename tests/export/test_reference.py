"""Checkpoints of the published code give what the published code computes, whatever else they hold."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from chextriev.errors import MismatchedWeights
from chextriev.export.reference import ImportedEncoder, import_checkpoint
from chextriev.systems import SYSTEMS
from chextriev.train.anaxnet import GraphConvolution
from chextriev.train.backbones import BACKBONES, load_backbone
from tests import golden_rule
from tests.golden_rule import ADJACENCY, OUTPUTS, golden, make_state, reference_input, write_reference

TOLERANCE = 1e-5
LIKE = {
    "v0-local": "v0-global",
    "v2": "v1",
    "v4": "v6",
    "v4-local": "v6",
    "v5": "v6",
    "v6-e2e": "v6",
    **{name: name for name in golden_rule.SYSTEMS},
}
"""A golden file that has the names of each system."""

State = dict[str, torch.Tensor]


@cache
def _golden_state(system: str) -> State:
    return golden_rule.reference_state(system)


def state_of(system: str) -> State:
    """The golden state, a dictionary of one's own."""
    return dict(_golden_state(system))


def global_cnn_state() -> State:
    """The head of the global CNN, which has no golden file."""
    return make_state({"fc1.weight": (1024, 2048), "fc1.bias": (1024,), "fc2.weight": (9, 1024), "fc2.bias": (9,)})


def trunk_state(backbone: str, prefix: str) -> State:
    """A backbone by the rule; the names of ours are those of its authors."""
    shapes = {prefix + name: tuple(item.shape) for name, item in BACKBONES[backbone].network().state_dict().items()}
    return make_state(shapes)


def imported(folder: Path, state: State, system: str) -> ImportedEncoder:
    """Through a file, which is large and does not stay."""
    path = write_reference(folder / "published.ckpt", state)
    try:
        return import_checkpoint(path, system)
    finally:
        path.unlink()


def difference(ours: torch.Tensor, published: np.ndarray) -> float:
    return float(np.abs(ours.numpy() - published).max() / np.abs(published).max())


@pytest.mark.parametrize("system", golden_rule.SYSTEMS)
def test_equals_the_published_code(tmp_path: Path, system: str) -> None:
    fields = golden(system)
    output = imported(tmp_path, state_of(system), system)(reference_input(system))
    stored = [name for name in OUTPUTS if name in fields]
    assert len(stored) == (2 if system in ("ath", "anaxnet") else 3)
    for name in stored:
        assert difference(getattr(output, name), fields[name]) <= TOLERANCE, name
    assert (output.region_logits is None) is (system in ("ath", "anaxnet"))
    assert (output.hash is None) is (system != "ath")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_imports_in_eval_mode(tmp_path: Path, system: str) -> None:
    state = global_cnn_state() if system == "global-cnn" else state_of(LIKE[system])
    if system == "v5":
        state = {name: tensor for name, tensor in state.items() if not name.endswith("pos_emb.weight")}
    encoder = imported(tmp_path, state, system)
    assert isinstance(encoder, torch.nn.Module)
    assert not any(module.training for module in encoder.modules())
    assert encoder.spec == SYSTEMS[system]
    assert (encoder.trunk is None) is (system != "ath")
    assert encoder.unused == sorted(encoder.unused)


def test_the_global_cnn_embeds_the_feature_and_classifies_it_by_two_layers(tmp_path: Path) -> None:
    state = global_cnn_state()
    features = torch.randn(3, 2048)
    encoder = imported(tmp_path, state, "global-cnn")
    for given in (features, features[:, None]):
        output = encoder(given)
        hidden = torch.relu(features @ state["fc1.weight"].T + state["fc1.bias"])
        torch.testing.assert_close(output.finding_logits, hidden @ state["fc2.weight"].T + state["fc2.bias"])
        torch.testing.assert_close(output.embedding, features)
        assert output.region_logits is None
        assert output.hash is None


def test_the_system_decides_what_of_the_same_file_is_used(tmp_path: Path) -> None:
    features = reference_input("v6")
    state = state_of("v6")
    alias = [f"model.layers.{layer}.0.0.fn.pos_emb.weight" for layer in range(2)]
    positions = [*alias, "model.pos_emb.weight"]
    found = {system: imported(tmp_path, state, system) for system in ("v4", "v4-local")}
    alone = {system: encoder(features).embedding for system, encoder in found.items()}
    assert difference(alone["v4-local"], golden("v6")["embedding"]) <= TOLERANCE
    assert difference(alone["v4"], golden("v6")["embedding"]) > 0.01
    assert found["v4"].unused == alias
    without = {name: tensor for name, tensor in state.items() if name not in positions}
    silent = {**state, "model.pos_emb.weight": torch.zeros(64, 1024)}
    v5, v6 = imported(tmp_path, without, "v5")(features), imported(tmp_path, silent, "v6")(features)
    assert difference(v5.embedding, v6.embedding.numpy()) <= TOLERANCE
    with pytest.raises(
        MismatchedWeights, match=r"extra: model\.layers\.0\.0\.0\.fn\.pos_emb\.weight, model\.layers\.1"
    ):
        imported(tmp_path, state, "v5")
    with pytest.raises(MismatchedWeights, match="extra: edges, "):
        imported(tmp_path, state, "v2")


def test_what_the_published_v0_never_uses_is_accepted_and_listed(tmp_path: Path) -> None:
    state = state_of("v0-global")
    idle = [name for name in state if not name.startswith(("cnn.", "model.fc_node."))]
    state |= {"model.anatomy_inp_tensor": torch.eye(18), "model.node_attn_layers.0.mask": torch.ones(1, 1, 18, 19)}
    encoder = imported(tmp_path, state, "v0-local")
    assert encoder.unused == sorted([*idle, "model.anatomy_inp_tensor", "model.node_attn_layers.0.mask"])
    fields, output = golden("v0-global"), encoder(reference_input("v0-global"))
    assert difference(output.embedding, fields["embedding"]) <= TOLERANCE
    assert difference(output.region_logits, fields["region_logits"]) <= TOLERANCE
    # The published loss trains the head of the regions alone: the image has what its regions have.
    assert torch.equal(output.finding_logits, output.region_logits.amax(dim=1))
    whole = imported(tmp_path, state, "v0-global")
    assert whole.unused == [name for name in encoder.unused if not name.startswith("model.fc_graph.")]


def test_ath_has_as_many_weights_as_published(tmp_path: Path) -> None:
    assert sum(item.numel() for item in imported(tmp_path, state_of("ath"), "ath").parameters()) == 48_394


@pytest.mark.parametrize(("system", "kind"), [("v1", torch.int32), ("v1", torch.float32), ("anaxnet", torch.float32)])
def test_the_adjacency_is_the_files_or_complete(tmp_path: Path, system: str, kind: torch.dtype) -> None:
    state = state_of(system)
    name = ADJACENCY[system]
    own = state[name]
    state[name] = own.to(kind)
    assert torch.equal(imported(tmp_path, state, system).encoder.adjacency.int(), own.int())
    del state[name]
    assert bool((imported(tmp_path, state, system).encoder.adjacency == 1).all())


def test_anaxnet_propagates_as_torch_geometric_does() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    ours = GraphConvolution(12, 20)
    theirs = geometric.GCNConv(12, 20, normalize=False, add_self_loops=False, bias=False)
    adjacency, regions = torch.rand(18, 18), torch.randn(18, 12)  # of weights, and not symmetric
    with torch.no_grad():
        theirs.lin.weight.copy_(ours.weight.T)
        target, source = (item.flatten() for item in torch.meshgrid(torch.arange(18), torch.arange(18), indexing="ij"))
        expected = theirs(regions, torch.stack([source, target]), adjacency[target, source])
        torch.testing.assert_close(ours(regions[None], adjacency)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("system", "backbone", "prefix", "classifier"),
    [
        ("v0-global", "res2net50", "cnn.", None),
        ("global-cnn", "resnet50", "model.", "model.fc.weight"),
        ("anaxnet", "densenet121", "cnn.", "cnn.classifier.weight"),
    ],
)
def test_the_backbone_of_the_file_is_used(
    tmp_path: Path, system: str, backbone: str, prefix: str, classifier: str | None
) -> None:
    trunk = {name: item for name, item in trunk_state(backbone, prefix).items() if "num_batches" not in name}
    state = {**(global_cnn_state() if system == "global-cnn" else state_of(system)), **trunk}
    if classifier is not None:
        state[classifier] = torch.zeros(1000, 1024)
    found = imported(tmp_path, state, system)
    torch.save({name.removeprefix(prefix): item for name, item in trunk.items()}, tmp_path / "trunk.pth")
    expected = load_backbone(backbone, weights=tmp_path / "trunk.pth")
    (tmp_path / "trunk.pth").unlink()
    images = torch.randn(1, 3, 64, 64)
    assert found.backbone is not None
    assert found.trunk is not None
    assert found.backbone.spec.name == backbone
    assert torch.equal(found.trunk(images), expected.module(images))
    assert (classifier in found.unused) is (classifier is not None)


def test_the_head_tells_the_width_of_its_backbone(tmp_path: Path) -> None:
    state = state_of("v1")
    for width in (1024, 1280):
        state["cnn.fc.0.weight"] = torch.randn(1024, width)
        encoder = imported(tmp_path, state, "v1")
        assert encoder.feature_width == width
        assert encoder(torch.randn(1, 18, width)).embedding.shape == (1, 1024)
