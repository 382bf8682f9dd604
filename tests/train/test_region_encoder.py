"""The encoder computes what the paper says it computes."""

from dataclasses import replace

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


def test_variants_are_refused_in_words() -> None:
    with pytest.raises(UnknownSystem, match=r"no system 'v9'; choose one of global-cnn.*v6"):
        find_system("v9")
    with pytest.raises(InvalidSetting, match="heads is 0"):
        replace(find_system("v6"), heads=0)
    with pytest.raises(InvalidSetting, match="hedas"):
        system_from_dict({"name": "mine", "hedas": 4})
