"""How fast training is: steps from cached features, against a loop that runs the frozen backbone every step."""

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.errors import InvalidSetting
from chextriev.machine import describe_machine, median_ratio, time_in_turn
from chextriev.systems import find_system
from chextriev.train.backbones import load_backbone, region_extractor
from chextriev.train.encoders import new_encoder
from chextriev.train.losses import system_loss


@dataclass(frozen=True)
class TrainBenchSettings:
    """What is measured: steps of `batch` radiographs. Random weights do not change the speed."""

    system: str = "v6"
    backbone: str = "resnet50"
    weights: str | None = "random:0"
    batch: int = 4
    repeats: int = 3

    def __post_init__(self) -> None:
        if min(self.batch, self.repeats) < 1:
            raise InvalidSetting(f"bench train: batch {self.batch}, repeats {self.repeats}; each is at least 1")


def bench_train(settings: TrainBenchSettings) -> dict[str, Any]:
    """Radiographs a second of both loops (medians) and their ratio; JSON-able."""
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    extractor = region_extractor(backbone)
    spec = find_system(settings.system)
    encoder = new_encoder(spec, backbone.spec.width)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 255, (settings.batch * N_REGIONS, 1, 224, 224), generator=generator, dtype=torch.uint8)
    findings = torch.randint(0, 2, (settings.batch, N_REGIONS, N_FINDINGS), generator=generator, dtype=torch.int8)

    def features() -> torch.Tensor:
        with torch.no_grad():
            return torch.reshape(extractor(crops), (settings.batch, N_REGIONS, -1))

    def step(batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss = system_loss(spec, encoder(batch), findings.amax(dim=1), findings)
        torch.autograd.backward(loss)
        optimizer.step()

    cached = features()
    seconds = time_in_turn(
        {"backbone_every_step": lambda: step(features()), "cached": lambda: step(cached)}, repeats=settings.repeats
    )
    return {
        "settings": asdict(settings),
        "machine": describe_machine(),
        "radiographs_per_s": {name: settings.batch / median(times) for name, times in seconds.items()},
        "cached_times_faster": median_ratio(seconds["backbone_every_step"], seconds["cached"]),
    }
