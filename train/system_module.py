"""What the Lightning modules of all systems have in common: how they are measured, and what they learn from."""

from abc import abstractmethod
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from chextriev.errors import OtherBackbone
from chextriev.preprocess import CropSpec
from chextriev.systems import SystemSpec, trains_backbone
from chextriev.train.features import PIXELS, RegionFeatures
from chextriev.train.gather import gather_rows


class SystemModule(pl.LightningModule):
    """A system that is trained. Its metrics are of a whole split, in every process, and never means of batches.

    monitor: the metric whose highest value makes a checkpoint the best.
    """

    monitor: ClassVar[str]
    spec: SystemSpec

    def __init__(self) -> None:
        super().__init__()
        self._measured: list[dict[str, Tensor]] = []

    def keep(self, batch: dict[str, Tensor]) -> None:
        """Hold what the metrics need of one batch, on the processor."""
        self._measured.append({name: on_cpu(tensor) for name, tensor in batch.items()})

    def whole_split(self) -> dict[str, Tensor]:
        """What was kept of all batches of all processes, by rows; it is forgotten here."""
        own = {name: torch.cat([part[name] for part in self._measured]) for name in self._measured[0]}
        self._measured.clear()
        return gather_rows(own)

    @abstractmethod
    def validation_step(self, batch: Any, index: int) -> None:
        """Keep what the metrics need."""

    @abstractmethod
    def on_validation_epoch_end(self) -> None:
        """Measure the whole split."""

    def test_step(self, batch: Any, index: int) -> None:
        """As validation."""
        self.validation_step(batch, index)

    def on_test_epoch_end(self) -> None:
        """As validation."""
        self.on_validation_epoch_end()

    def check_features(self, features: RegionFeatures) -> None:
        """OtherBackbone, with the command that is needed, where the cache is not what this system learns from."""
        spec = self.spec
        if features.crops_digest == spec.crops.digest and (features.backbone == PIXELS) == trains_backbone(spec):
            return
        name = PIXELS if trains_backbone(spec) else "NAME"
        have = CropSpec(**features.crops)
        raise OtherBackbone(
            f"system {spec.name} does not learn from these features ({features.backbone}, {have.area} at"
            f" {have.size} pixels); run: chextriev data features TABLE OUT --backbone {name} --area {spec.crops.area}"
            f" --size {spec.crops.size}"
        )


def on_cpu(tensor: Tensor) -> Tensor:
    """A copy on the processor, in full precision."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu()
