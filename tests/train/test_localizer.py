"""The localizer's network, loss and augmentation: boxes have an area, votes learn, and boxes stay on their content."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from chextriev.anatomy import N_REGIONS
from chextriev.errors import InvalidSetting
from chextriev.export.fold import fold_backbone
from chextriev.localizer import MEAN_LAYOUT
from chextriev.systems import LocalizerSpec
from chextriev.train.backbones import Backbone, region_extractor
from chextriev.train.encoders import find_backbone_spec, new_encoder
from chextriev.train.localizer_augmentation import DEFAULT_AUGMENTATION, Augmentation, augment
from chextriev.train.localizer_loss import box_giou, box_iou, located_loss
from chextriev.train.localizer_network import CHANNELS, LocalizerHead, LocalizerOutput, localizer_backbone

SIZE = 64
STILL = Augmentation(**dict.fromkeys(DEFAULT_AUGMENTATION.__dict__, 0))


@pytest.fixture
def head() -> LocalizerHead:
    torch.manual_seed(0)
    made = new_encoder(LocalizerSpec(), localizer_backbone().width)
    assert isinstance(made, LocalizerHead)
    return made


def test_a_fresh_localizer_looks_near_the_mean_layout(head: LocalizerHead) -> None:
    found: LocalizerOutput = head(torch.zeros(2, 1, localizer_backbone().width))
    assert found.region_boxes.shape == (2, N_REGIONS, 4)
    assert found.box_confidence.shape == (2, N_REGIONS)
    middle = found.region_boxes[0].reshape(N_REGIONS, 2, 2).mean(dim=1)
    assert (middle - torch.from_numpy(MEAN_LAYOUT).reshape(N_REGIONS, 2, 2).mean(dim=1)).abs().max() < 0.06


def test_boxes_have_an_area_whatever_the_features(head: LocalizerHead) -> None:
    torch.nn.init.normal_(head.step.weight, std=0.1)  # votes far apart, sides in any order
    torch.nn.init.normal_(head.weigh.weight)
    boxes = head(torch.randn(8, 1, localizer_backbone().width)).region_boxes
    assert (boxes[..., 2:] > boxes[..., :2]).all()
    assert (boxes[..., 2:] - boxes[..., :2]).min() < 0.01  # such as would have crossed


def test_the_confidence_teaches_neither_boxes_nor_convolutions(head: LocalizerHead) -> None:
    features = torch.randn(2, 1, localizer_backbone().width, requires_grad=True)
    head(features).box_confidence.sum().backward()
    taught = {name for name, weight in head.named_parameters() if weight.grad is not None}
    assert features.grad is None
    assert taught == {"sure.weight", "sure.bias", "sure_of_votes"}


@pytest.mark.slow
def test_the_head_learns_where_things_are() -> None:
    """A bright spot says where every box is: the boxes follow it."""
    torch.manual_seed(0)
    head, grid = LocalizerHead(LocalizerSpec(), CHANNELS * 14 * 14), (torch.arange(14) + 0.5) / 14

    def batch(places: Tensor) -> tuple[Tensor, Tensor]:
        x, y = (-((places[:, axis, None] - grid) ** 2) / 0.005 for axis in (0, 1))
        spots = torch.exp(y[:, :, None] + x[:, None, :]).flatten(1)
        features = spots[:, None].expand(-1, CHANNELS, -1).reshape(len(places), 1, -1)
        return features, torch.cat([places - 0.1, places + 0.1], dim=1)[:, None].expand(-1, N_REGIONS, -1)

    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    seen = torch.ones(16, N_REGIONS, dtype=torch.bool)
    for _ in range(80):
        features, boxes = batch(0.3 + 0.4 * torch.rand(16, 2))
        optimizer.zero_grad()
        located_loss(head(features), boxes, seen).backward()
        optimizer.step()
    features, boxes = batch(torch.tensor([[0.35, 0.6], [0.6, 0.35]]))
    found = head(features)
    assert box_iou(found.region_boxes, boxes).mean() > 0.5  # fresh: .05
    assert (found.box_confidence - box_iou(found.region_boxes, boxes)).abs().mean() < 0.3


def test_the_trunk_folds_to_grey_levels() -> None:
    torch.manual_seed(0)
    spec = find_backbone_spec(f"localizer-{SIZE}")
    assert spec.width == CHANNELS * 4 * 4
    backbone = Backbone(spec.network().freeze(), spec, digest="", weights_note="")
    crops = torch.randint(0, 256, (2, 1, SIZE, SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = region_extractor(backbone)(crops)
        assert wanted.shape == (2, spec.width)
        assert (fold_backbone(backbone, SIZE)(crops) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_overlap_of_known_boxes() -> None:
    one = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    other = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert box_iou(one, other).tolist() == pytest.approx([1 / 7, 0, 1])
    assert box_giou(one, other).tolist() == pytest.approx([1 / 7 - 2 / 9, -1 / 3, 1])


def test_the_loss_has_finite_slopes_for_boxes_apart_and_counts_what_is_seen() -> None:
    boxes = torch.tensor([0.6, 0.6, 0.8, 0.8]).repeat(1, N_REGIONS, 1)
    found = torch.tensor([0.1, 0.1, 0.2, 0.2]).repeat(1, N_REGIONS, 1).requires_grad_()
    seen = torch.zeros(1, N_REGIONS, dtype=torch.bool)
    output = LocalizerOutput(found, torch.full((1, N_REGIONS), 0.5))
    assert located_loss(output, boxes, seen) == 0
    seen[0, 3] = True
    located_loss(output, boxes, seen).backward()
    assert found.grad is not None
    assert torch.isfinite(found.grad).all()
    slope = found.grad.abs().sum(dim=2)[0]
    assert slope[3] > 0
    assert (slope > 0).sum() == 1


def ellipses() -> tuple[Tensor, Tensor]:
    """Bright ellipses on black [3, 96, 96] uint8, and the box of each, in place of all regions."""
    size, wanted = 96, torch.tensor([[0.25, 0.4, 0.6, 0.75], [0.4, 0.3, 0.7, 0.55], [0.35, 0.35, 0.5, 0.7]])
    y, x = np.mgrid[:size, :size] / size + 0.5 / size
    low, high = wanted[:, :2, None, None].numpy(), wanted[:, 2:, None, None].numpy()
    centre, half = (low + high) / 2, (high - low) / 2
    inside = ((x - centre[:, 0]) / half[:, 0]) ** 2 + ((y - centre[:, 1]) / half[:, 1]) ** 2 <= 1
    return torch.from_numpy(inside.astype(np.uint8) * 255), wanted[:, None].expand(-1, N_REGIONS, -1).contiguous()


def bounds(image: npt.NDArray[np.uint8]) -> list[float]:
    y, x = np.nonzero(image > 127)
    return [x.min() / 96, y.min() / 96, (x.max() + 1) / 96, (y.max() + 1) / 96]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(STILL, id="none"),
        pytest.param(replace(STILL, zoom=0.3, stretch=0.2), id="scaled"),
        pytest.param(replace(STILL, shift=0.1), id="moved"),
        pytest.param(replace(STILL, turn=20), id="turned"),
        pytest.param(replace(STILL, zoom=0.2, stretch=0.2, shift=0.05, turn=15), id="all"),
    ],
)
def test_boxes_stay_on_their_content(change: Augmentation) -> None:
    images, boxes = ellipses()
    changed = augment(images, boxes, [(0, 1, row) for row in range(3)], change)
    for image, box in zip(changed.images.numpy(), changed.boxes[:, 0].tolist(), strict=True):
        assert box == pytest.approx(bounds(image), abs=1.5 / 96)
    moved = (changed.boxes - boxes).abs().max() > 0.01
    assert moved == (change != STILL)


def test_a_region_that_leaves_the_image_is_cut_and_does_not_count() -> None:
    images = torch.full((40, 32, 32), 90, dtype=torch.uint8)
    boxes = torch.tensor([0.0, 0.4, 0.2, 0.6]).repeat(40, N_REGIONS, 1)
    changed = augment(images, boxes, [(0, 0, row) for row in range(40)], replace(STILL, shift=0.2))
    assert changed.boxes.min() >= 0
    assert changed.boxes.max() <= 1
    width = changed.boxes[:, 0, 2] - changed.boxes[:, 0, 0]
    assert (changed.seen[:, 0] == (width >= 0.7 * 0.2 - 1e-6)).all()
    assert 5 < changed.seen[:, 0].sum() < 35


def test_what_an_image_becomes_depends_on_its_key_alone() -> None:
    images = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    boxes = torch.tensor([0.2, 0.2, 0.8, 0.8]).repeat(3, N_REGIONS, 1)
    whole = augment(images, boxes, [(0, 5, 0), (0, 5, 1), (0, 5, 2)], DEFAULT_AUGMENTATION)
    alone = augment(images[1:2], boxes[1:2], [(0, 5, 1)], DEFAULT_AUGMENTATION)
    assert torch.equal(whole.images[1], alone.images[0])
    torch.testing.assert_close(whole.boxes[1], alone.boxes[0])
    later = augment(images[1:2], boxes[1:2], [(0, 6, 1)], DEFAULT_AUGMENTATION)
    assert not torch.equal(whole.images[1], later.images[0])
    assert whole.images.dtype == torch.uint8


def test_exposure_and_covers_change_levels_and_no_box() -> None:
    images = torch.randint(60, 200, (3, 32, 32), dtype=torch.uint8)
    boxes = torch.tensor([0.2, 0.2, 0.8, 0.8]).repeat(3, N_REGIONS, 1)
    for name in ("brightness", "contrast", "gamma", "noise", "blur", "covers"):
        change = replace(STILL, **{name: getattr(DEFAULT_AUGMENTATION, name)})
        changed = augment(images, boxes, [(0, 2, row) for row in range(3)], change)
        assert not torch.equal(changed.images, images), name
        torch.testing.assert_close(changed.boxes, boxes)


@pytest.mark.parametrize(("name", "value"), [("zoom", -0.1), ("turn", 90), ("covers", 9), ("blur", 1.5)])
def test_changes_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidSetting, match=f"augmentation: {name} is {value}; 0 to"):
        Augmentation(**{name: value})
