"""The encoder computes what the paper says it computes."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from chextriev.errors import InvalidSetting, UnknownSystem
from chextriev.systems import find_system, new_system, system_from_dict
from chextriev.train.graph_transformer import EdgeAttention
from chextriev.train.losses import known_binary_cross_entropy
from chextriev.train.region_encoder import RegionEncoder
from chextriev.variants import VARIANTS, VariantSpec

SMALL = {"width": 32, "heads": 2, "head_width": 8}


def small(name: str) -> VariantSpec:
    return replace(VARIANTS[name], **SMALL)


def test_attention_equals_torch_geometric() -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    width, heads, head_width, n = 24, 3, 8, 18
    ours = EdgeAttention(width, heads, head_width)
    theirs = geometric.TransformerConv(width, head_width, heads=heads, edge_dim=width, root_weight=False)
    with torch.no_grad():
        for name, layer in (("query", "lin_query"), ("key", "lin_key"), ("value", "lin_value")):
            getattr(theirs, layer).load_state_dict(getattr(ours, name).state_dict())
        theirs.lin_edge.weight.copy_(ours.edge.weight)
        theirs.lin_key.bias.add_(ours.edge.bias)
        theirs.lin_value.bias.add_(ours.edge.bias)
    regions, edges = torch.randn(n, width), torch.randn(n, n, width)
    target, source = (index.flatten() for index in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    with torch.no_grad():
        expected = ours.out(theirs(regions, torch.stack([source, target]), edges[target, source]))
        found = ours(regions[None], edges)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_gives_the_mean_of_its_region_vectors(name: str) -> None:
    encoder = RegionEncoder(small(name), 12)
    output = encoder(torch.randn(3, 18, 12))
    assert output.finding_logits.shape == (3, 9)
    assert output.region_logits.shape == (3, 18, 9)
    torch.testing.assert_close(output.region_vectors.mean(dim=1), output.embedding)


def test_v2_does_not_see_the_order_of_regions_and_v6_does() -> None:
    order = torch.randperm(18)
    features = torch.randn(2, 18, 12)
    for name, same in (("v2", True), ("v6", False)):
        encoder = RegionEncoder(small(name), 12)
        a, b = encoder(features).embedding, encoder(features[:, order]).embedding
        assert torch.allclose(a, b, atol=1e-5) is same


def test_adjacency_biases_attention_and_never_masks_it() -> None:
    encoder = RegionEncoder(small("v1"), 12, torch.zeros(18, 18))
    features = torch.randn(1, 18, 12, requires_grad=True)
    encoder(features).region_logits[0, 0].sum().backward()
    assert features.grad is not None
    assert bool((features.grad[0].abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize(("edges", "moves"), [("learned", True), ("fixed", False)])
def test_learned_edges_move_and_fixed_ones_do_not(edges: str, moves: bool) -> None:
    encoder = RegionEncoder(replace(small("v6"), edges=edges), 12)
    before = encoder.transformer.edges.detach().clone()
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    encoder(torch.randn(4, 18, 12)).finding_logits.square().mean().backward()
    optimizer.step()
    assert (not torch.equal(before, encoder.transformer.edges)) is moves


def test_a_variant_of_ones_own_starts_from_a_published_one() -> None:
    fixed = new_system({"name": "v6-fixed", "base": "v6", "edges": "fixed"})
    assert fixed == replace(find_system("v6"), name="v6-fixed", edges="fixed")
    assert new_system(find_system("v6").as_dict()) == find_system("v6")
    edges = RegionEncoder(fixed, 12).transformer.edges
    assert float(edges.std()) == pytest.approx((18 * 1024) ** -0.5, rel=0.02)


def test_unknown_findings_carry_no_loss() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5]], requires_grad=True)
    loss = known_binary_cross_entropy(logits, torch.tensor([[1, -1, 0]], dtype=torch.int8))
    known = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, known)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert known_binary_cross_entropy(logits, torch.full((1, 3), -1, dtype=torch.int8)) == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_without_a_graph_the_image_has_a_head_where_a_loss_trains_it(share: float) -> None:
    encoder = RegionEncoder(replace(small("v0-global"), name="mine", region_loss_share=share), 12)
    output = encoder(torch.randn(3, 18, 12))
    assert torch.equal(output.finding_logits, output.region_logits.amax(dim=1)) is (share == 1)
    assert any(name.startswith("finding_head") for name in encoder.state_dict()) is (share < 1)
    ((1 - share) * output.finding_logits.sum() + share * output.region_logits.sum()).backward()
    learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learning)
    heads = [encoder.region_head] if share == 1 else [encoder.region_head, encoder.finding_head]
    assert [head[1].weight.grad is not None for head in heads] == ([share > 0, True] if share < 1 else [True])


def test_variants_are_refused_in_words() -> None:
    with pytest.raises(UnknownSystem, match=r"no system 'v9'; choose one of global-cnn.*v6"):
        find_system("v9")
    with pytest.raises(InvalidSetting, match="heads is 0"):
        replace(find_system("v6"), heads=0)
    with pytest.raises(InvalidSetting, match="hedas"):
        system_from_dict({"name": "mine", "hedas": 4})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "v6", "region_loss_share": "half"}, "region_loss_share is 'half'; a number is needed"),
        ({"base": "v6", "region_loss_share": True}, "region_loss_share is True; a number is needed"),
        ({"base": "v6", "region_loss_share": float("nan")}, "region_loss_share is nan; a number is needed"),
        ({"base": "v6", "region_loss_share": 10**400}, "region_loss_share is 1000"),
        ({"base": "v6", "positions": "nope"}, "positions is 'nope'; true or false is needed"),
        ({"base": "v6", "positions": 1}, "positions is 1; true or false is needed"),
        ({"base": "v6", "layers": True}, "layers is True; a positive integer is needed"),
        ({"base": "v6", "layers": 2.0}, r"layers is 2\.0; a positive integer is needed"),
        ({"base": "v6", "layers": None}, "layers is None; a positive integer is needed"),
        ({"base": "v6", "edges": "some"}, "edges is 'some'; choose one of none, fixed, learned"),
        ({"base": "v6", "edges": ["none"]}, r"edges is \['none'\]; choose one of"),
        ({"base": "ath", "margin": "text"}, "margin is 'text'; a number is needed"),
        ({"base": "ath", "margin": float("inf")}, "margin is inf; a number is needed"),
        ({"base": "ath", "margin": 0}, "margin is 0; a positive number is needed"),
        ({"base": "anaxnet", "hidden": "wide"}, "hidden is 'wide'; a positive integer is needed"),
        ({"base": "global-cnn", "backbone": False}, "backbone is False; choose one of frozen, trained"),
        ({"family": ["ath"]}, r"there is no family \['ath'\] of systems; choose one of variant"),
        ({"base": "v1", "graph": False}, "graph: false needs adjacency: complete; only a graph"),
        ({"base": "v4", "graph": False}, "graph: false needs positions: false, edges: none, residual: global;"),
    ],
)
def test_settings_of_another_kind_are_refused_in_words(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidSetting, match=said):
        new_system({"name": "mine", **settings})


def test_what_is_no_set_of_settings_is_refused_in_words() -> None:
    strange: Any
    for strange in ([("name", "mine")], {"name": "mine", 5: "v6"}, "v6", None):
        for read in (new_system, system_from_dict):
            with pytest.raises(InvalidSetting, match="a system is its settings by name"):
                read(strange)
    for strange in (5, ["mine"], None):
        with pytest.raises(InvalidSetting, match="needs a name"):
            new_system({"name": strange, "base": "v6"})
        with pytest.raises(InvalidSetting, match=r"name is .*; text is needed"):
            VariantSpec(strange)
    for strange in (["v6"], 6, {"v6": 1}):
        with pytest.raises(UnknownSystem, match=r"choose one of global-cnn.*v6"):
            new_system({"name": "mine", "base": strange})
    with pytest.raises(InvalidSetting, match="name is ''; text is needed"):
        new_system({"name": "", "base": "v6"})


def test_whole_numbers_are_numbers() -> None:
    assert new_system({"name": "mine", "base": "v6", "region_loss_share": 1}).as_dict()["region_loss_share"] == 1
