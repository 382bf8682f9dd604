"""What the systems are trained on: the published triplets, losses by hand, and that the unknown teaches nothing."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.errors import InvalidSetting
from chextriev.systems import SYSTEMS, AthSpec, GlobalCnnSpec, SystemSpec
from chextriev.train.encoder_output import EncoderOutput
from chextriev.train.losses import known_binary_cross_entropy, mine_triplets, split_loss, system_loss, triplet_loss
from chextriev.variants import VARIANTS

Findings = npt.NDArray[np.int8]


def plain_triplets(findings: Findings) -> tuple[list[int], list[int]]:
    """The published rule in loops: the first of those that share most, and of those that share least."""
    positives, negatives = [], []
    for anchor, own in enumerate(findings):
        best, worst = None, None
        most, fewest = -1, N_FINDINGS + 1
        for row, other in enumerate(findings):
            shared = sum(a == b and a != -1 for a, b in zip(own, other, strict=True))
            if row != anchor and shared > most:
                best, most = row, shared
            if shared < fewest:
                worst, fewest = row, shared
        positives.append(anchor if best is None else best)
        assert worst is not None
        negatives.append(worst)
    return positives, negatives


def mined(findings: Findings) -> tuple[list[int], list[int]]:
    positive, negative = mine_triplets(torch.from_numpy(findings))
    assert positive.dtype == negative.dtype == torch.int64
    return positive.tolist(), negative.tolist()


def batches(values: list[int]) -> st.SearchStrategy[Findings]:
    return st.integers(1, 14).flatmap(
        lambda rows: arrays(np.int8, (rows, N_FINDINGS), elements=st.sampled_from(values))
    )


@settings(deadline=None)
@given(batches([0, 1]))
def test_triplets_are_those_of_the_rule(findings: Findings) -> None:
    assert mined(findings) == plain_triplets(findings)


@settings(deadline=None)
@given(batches([0, 1, -1]))
def test_an_unknown_finding_is_shared_with_nobody(findings: Findings) -> None:
    assert mined(findings) == plain_triplets(findings)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_triplets_of_a_large_batch_are_those_of_the_rule(seed: int) -> None:
    """Large enough that every anchor has many ties."""
    findings = np.random.default_rng(seed).integers(0, 2, (150, N_FINDINGS)).astype(np.int8)
    assert mined(findings) == plain_triplets(findings)


def rows(*texts: str) -> Findings:
    """Findings spelt as digits, ? where unknown, absent to the end."""
    return np.array([[{"?": -1}.get(sign, int(sign == "1")) for sign in text.ljust(9, "0")] for text in texts], np.int8)


@pytest.mark.parametrize(
    ("findings", "positive", "negative"),
    [
        (rows("1", "1", "1"), [1, 0, 0], [0, 0, 0]),  # all tie: the first other one; the first, itself or not
        (rows("1"), [0], [0]),  # alone
        (rows("111111111", "0"), [1, 0], [1, 0]),  # one other: positive and negative at once
        (rows("11", "01", "10", "00"), [1, 0, 0, 1], [3, 2, 1, 0]),  # ties between rows below and above the anchor
        (rows("?????????", "1", "1"), [1, 2, 1], [0, 0, 0]),  # of the first nothing is known, not even to itself
    ],
)
def test_ties_go_to_the_lower_row(findings: Findings, positive: list[int], negative: list[int]) -> None:
    assert mined(findings) == (positive, negative)
    assert plain_triplets(findings) == (positive, negative)


def test_triplet_loss_by_hand() -> None:
    """Anchors 0, 1 and 2 with triplets (0, 1, 2), (1, 0, 2) and (2, 0, 0), in codes of two bits."""
    findings = torch.from_numpy(rows("11", "1", "000111"))
    assert [place.tolist() for place in mine_triplets(findings)] == [[1, 0, 1], [2, 2, 0]]
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    # d(0,1) = 1/2, d(0,2) = 4/2, d(1,2) = (1 + 4)/2; the margin of 0.9 a bit is 1.8
    anchors = [max(0, 0.5 - 2 + 1.8), max(0, 0.5 - 2.5 + 1.8), max(0, 2.5 - 2 + 1.8)]
    assert anchors[1] == 0 < anchors[0]
    assert triplet_loss(codes, findings, margin=0.9).item() == pytest.approx(sum(anchors) / 3, rel=1e-6)


def test_triplet_loss_draws_the_positive_near_and_the_negative_away() -> None:
    findings = torch.from_numpy(rows("11", "1", "000111"))
    codes = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    triplet_loss(codes, findings, margin=0.9).backward()
    stepped = (codes - 0.1 * codes.grad).detach()  # type: ignore[operator]
    before, after = (
        [float((code[0] - code[other]).square().sum()) for other in (1, 2)] for code in (codes.detach(), stepped)
    )
    assert after[0] < before[0]
    assert after[1] > before[1]


def bce(logit: float, target: int) -> float:
    """Binary cross-entropy of one logit."""
    return -math.log(1 / (1 + math.exp(-logit if target else logit)))


def test_cross_entropy_is_the_mean_over_what_is_known() -> None:
    logits = torch.tensor([[0.3, -2.0, 5.0], [1.5, 0.0, -7.0]])
    findings = torch.tensor([[1, 0, -1], [0, -1, 1]], dtype=torch.int8)
    wanted = (bce(0.3, 1) + bce(-2.0, 0) + bce(1.5, 0) + bce(-7.0, 1)) / 4
    assert known_binary_cross_entropy(logits, findings).item() == pytest.approx(wanted, rel=1e-6)


def test_one_known_finding_counts_in_full() -> None:
    logits, findings = torch.tensor([[0.3, -2.0]]), torch.tensor([[1, -1]], dtype=torch.int8)
    assert known_binary_cross_entropy(logits, findings).item() == pytest.approx(bce(0.3, 1), rel=1e-6)


def test_what_is_unknown_has_no_gradient() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    findings = torch.from_numpy(rows("1?", "?01", "", "?????????"))
    known_binary_cross_entropy(logits, findings).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad == 0, findings == -1)


def test_where_nothing_is_known_the_loss_is_zero_and_moves_nothing() -> None:
    logits = torch.randn(2, 9, requires_grad=True)
    loss = known_binary_cross_entropy(logits, torch.full((2, 9), -1, dtype=torch.int8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.fixture
def output() -> EncoderOutput:
    random = torch.Generator().manual_seed(1)
    return EncoderOutput(
        embedding=torch.randn(5, 32, generator=random),
        finding_logits=torch.randn(5, N_FINDINGS, generator=random),
        region_logits=3 * torch.randn(5, N_REGIONS, N_FINDINGS, generator=random),
    )


@pytest.fixture
def labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Of images [5, 9] and of regions [5, 18, 9], some unknown."""
    rng = np.random.default_rng(2)
    image, region = (rng.integers(-1, 2, shape).astype(np.int8) for shape in ((5, 9), (5, 18, 9)))
    return torch.from_numpy(image), torch.from_numpy(region)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_loss_is_shared_between_image_and_regions(
    output: EncoderOutput, labels: tuple[torch.Tensor, torch.Tensor], share: float
) -> None:
    image = known_binary_cross_entropy(output.finding_logits, labels[0])
    assert output.region_logits is not None
    region = known_binary_cross_entropy(output.region_logits, labels[1])
    assert abs(image - region) > 0.01
    found = system_loss(replace(VARIANTS["v6"], name="mine", region_loss_share=share), output, *labels)
    assert found.item() == pytest.approx((1 - share) * image.item() + share * region.item(), rel=1e-6)


def test_published_shares() -> None:
    """V0-local and V4-local learn from the regions alone, every other system from the image."""
    shares = {name: getattr(spec, "region_loss_share", 0) for name, spec in SYSTEMS.items()}
    assert {name for name, share in shares.items() if share} == {"v0-local", "v4-local"}
    assert shares["v0-local"] == shares["v4-local"] == 1


@pytest.mark.parametrize(("share", "ignored"), [(0.0, "region_logits"), (1.0, "finding_logits")])
def test_a_share_of_none_leaves_the_other_head_alone(
    output: EncoderOutput, labels: tuple[torch.Tensor, torch.Tensor], share: float, ignored: str
) -> None:
    spoilt = output._replace(**{ignored: torch.full_like(getattr(output, ignored), torch.nan)})
    assert system_loss(replace(VARIANTS["v6"], name="mine", region_loss_share=share), spoilt, *labels).isfinite()


def test_the_hash_has_a_triplet_loss_on_top(output: EncoderOutput, labels: tuple[torch.Tensor, torch.Tensor]) -> None:
    spec = AthSpec(name="mine", margin=0.25)
    image = known_binary_cross_entropy(output.finding_logits, labels[0])
    triplet = triplet_loss(output.embedding, labels[0], margin=0.25)
    assert triplet > 0.1
    assert system_loss(spec, output, *labels).item() == pytest.approx((image + triplet).item(), rel=1e-6)


def test_systems_without_regions_learn_from_the_image(
    output: EncoderOutput, labels: tuple[torch.Tensor, torch.Tensor]
) -> None:
    bare = output._replace(region_logits=None)
    image = known_binary_cross_entropy(output.finding_logits, labels[0])
    assert torch.equal(system_loss(GlobalCnnSpec(), bare, *labels), image)
    with pytest.raises(InvalidSetting, match="mine has no region logits; region_loss_share must be 0"):
        system_loss(replace(VARIANTS["v6"], name="mine", region_loss_share=0.5), bare, *labels)


def halved(output: EncoderOutput) -> EncoderOutput:
    """The output as a step in bfloat16 gives it."""
    present = {name: tensor.bfloat16() for name, tensor in output._asdict().items() if tensor is not None}
    return output._replace(**present)


@pytest.mark.parametrize(
    "spec", [AthSpec(), GlobalCnnSpec(), replace(VARIANTS["v6"], name="mine", region_loss_share=0.5)]
)
def test_losses_of_bfloat16_are_computed_in_float32(
    output: EncoderOutput, labels: tuple[torch.Tensor, torch.Tensor], spec: SystemSpec
) -> None:
    coarse = halved(output)
    exact = output._replace(**{name: tensor.float() for name, tensor in coarse._asdict().items() if tensor is not None})
    found, wanted = system_loss(spec, coarse, *labels), system_loss(spec, exact, *labels)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


def test_a_sum_of_many_bfloat16_losses_keeps_its_units() -> None:
    logits = torch.full((3000, N_FINDINGS), 1.25, dtype=torch.bfloat16, requires_grad=True)
    loss = known_binary_cross_entropy(logits, torch.ones(3000, N_FINDINGS, dtype=torch.int8))
    assert loss.item() == pytest.approx(bce(1.25, 1), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16


@pytest.fixture
def many() -> tuple[EncoderOutput, torch.Tensor, torch.Tensor]:
    """53 rows, which no block divides."""
    random, rng = torch.Generator().manual_seed(3), np.random.default_rng(4)
    output = EncoderOutput(
        torch.randn(53, 32, generator=random) * 3,
        torch.randn(53, N_FINDINGS, generator=random),
        torch.randn(53, N_REGIONS, N_FINDINGS, generator=random),
    )
    image, region = (rng.integers(-1, 2, shape).astype(np.int8) for shape in ((53, 9), (53, 18, 9)))
    return output, torch.from_numpy(image), torch.from_numpy(region)


@pytest.mark.parametrize("block", [7, 24, 53, 100])
def test_a_split_mines_its_triplets_in_blocks(
    many: tuple[EncoderOutput, torch.Tensor, torch.Tensor], block: int
) -> None:
    spec, (output, findings, regions) = AthSpec(), many
    anchors = []
    for start in range(0, 53, block):
        codes, own = output.embedding[start : start + block], findings[start : start + block]
        for anchor, (positive, negative) in enumerate(zip(*plain_triplets(own.numpy()), strict=True)):
            near, far = ((codes[anchor] - codes[other]).square().mean().item() for other in (positive, negative))
            anchors.append(max(0, near - far + 16))
    image = known_binary_cross_entropy(output.finding_logits, findings).item()
    found = split_loss(spec, output, findings, regions, block=block).item()
    assert found == pytest.approx(image + sum(anchors) / 53, rel=1e-5)
    whole = system_loss(spec, output, findings, regions).item()
    assert (found == pytest.approx(whole, rel=1e-6)) is (block >= 53)


def test_the_split_loss_of_other_systems_knows_no_blocks(
    many: tuple[EncoderOutput, torch.Tensor, torch.Tensor],
) -> None:
    output, *labels = many
    spec = replace(VARIANTS["v6"], name="mine", region_loss_share=0.5)
    assert torch.equal(split_loss(spec, output, *labels, block=7), system_loss(spec, output, *labels))
