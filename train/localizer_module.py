"""The Lightning module that trains the anatomy localizer, from whole radiographs and the boxes of their regions."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from chextriev.anatomy import Region
from chextriev.errors import InvalidSetting
from chextriev.systems import LocalizerSpec, find_system, new_system
from chextriev.train.encoders import new_encoder
from chextriev.train.learned_backbone import LearnedBackbone, new_learned_backbone
from chextriev.train.localizer_data import LocalizerData, LocatedBatch
from chextriev.train.localizer_loss import box_iou, located_loss
from chextriev.train.localizer_network import LocalizerOutput
from chextriev.train.system_module import SystemModule

LUNGS = [int(Region.RIGHT_LUNG), int(Region.LEFT_LUNG)]


class LocalizerModule(SystemModule):
    """Train the localizer: AdamW, its rate raised over the first steps and lowered along a cosine to nothing.

    `val_iou` is the mean IoU of the validate split over 18 regions, `val_iou_of_mean_layout` that of the train split's
    mean boxes, `val_confidence_error` the mean distance of each box's confidence from the IoU that it has.

    Args:
        system: "localizer", or the settings of one of your own (`base: localizer`).
        feature_width: taken from the network, whatever is given.
        learning_rate: of the layers that start fresh.
        backbone_share: of that rate, for the convolutions that start from published weights.
        weight_decay: of AdamW.
        warm_up: share of the training over which the rate is raised.
        weights: where the published weights come from, as for `chextriev data features`.
        provenance: digests of the data (taken from the data).
    """

    monitor: ClassVar = "val_iou"

    def __init__(
        self,
        system: str | dict[str, Any] = "localizer",
        feature_width: int = 0,  # noqa: ARG002 - every module is told that of its data
        *,
        learning_rate: float = 1e-3,
        backbone_share: float = 0.3,
        weight_decay: float = 0.05,
        warm_up: float = 0.05,
        weights: str | None = None,
        provenance: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        spec = find_system(system) if isinstance(system, str) else new_system(system)
        if not isinstance(spec, LocalizerSpec):
            raise InvalidSetting(f"system {spec.name} is no localizer; take 'localizer' or base yours on it")
        for name, value in (("backbone_share", backbone_share), ("warm_up", warm_up)):
            if not 0 <= value <= 1:
                raise InvalidSetting(f"{name} is {value!r}; a share from 0 to 1 is needed")
        self.spec, self.learning_rate, self.backbone_share = spec, learning_rate, backbone_share
        self.weight_decay, self.warm_up = weight_decay, warm_up
        self.backbone: LearnedBackbone
        self.backbone, start = new_learned_backbone(spec, name="", weights=weights, recompute=False)
        known = {**(provenance or {}), "backbone": start.spec.name, "backbone_digest": start.digest}
        self.save_hyperparameters(
            {
                "system": spec.as_dict(),
                "feature_width": start.spec.width,
                "learning_rate": learning_rate,
                "provenance": known,
            }
        )
        self.encoder = new_encoder(spec, start.spec.width)

    def forward(self, images: Tensor) -> LocalizerOutput:
        """Grey images [B, 1, size * size] uint8."""
        output: LocalizerOutput = self.encoder(self.backbone(images))
        return output

    def training_step(self, batch: LocatedBatch, _: int) -> Tensor:
        """Loss of one batch."""
        loss = located_loss(self(batch.images), batch.boxes, batch.seen)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.row))
        return loss

    def validation_step(self, batch: LocatedBatch, _: int) -> None:
        """Keep what the metrics need: they are of the whole split, not means of batches."""
        found = self(batch.images)
        self.keep({"row": batch.row, "given": batch.boxes, "boxes": found.region_boxes, "sure": found.box_confidence})

    def on_validation_epoch_end(self) -> None:
        """Loss and IoU over the split, and the IoU of the baseline."""
        split = self.whole_split()
        boxes, given, sure = split["boxes"], split["given"], split["sure"]
        loss = located_loss(LocalizerOutput(boxes, sure), given, torch.ones_like(sure, dtype=torch.bool))
        overlap = box_iou(boxes, given)  # [N, 18]
        layout = self._data.train_layout().expand_as(given)
        self.log("val_iou", overlap.mean(), prog_bar=True, sync_dist=True)
        measured = {
            "val_loss": loss,
            "val_iou_of_lungs": overlap[:, LUNGS].mean(),
            "val_iou_of_mean_layout": box_iou(layout, given).mean(),
            "val_confidence_error": (sure - overlap).abs().mean(),
        }
        of_regions = {f"val_iou/{region.label}": overlap[:, region].mean() for region in Region}
        self.log_dict({**measured, **of_regions}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW in two groups, with its schedule a step."""
        published = [weight for weight in self.backbone.extractor.trunk.lite0.parameters() if weight.requires_grad]  # type: ignore[union-attr]
        known = {id(weight) for weight in published}
        fresh = [weight for weight in self.parameters() if weight.requires_grad and id(weight) not in known]
        groups: list[dict[str, Any]] = [
            {"params": fresh},
            {"params": published, "lr": self.learning_rate * self.backbone_share},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps, self.warm_up))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _data(self) -> LocalizerData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, LocalizerData):
            raise InvalidSetting(f"LocalizerModule trains from LocalizerData, not {type(data).__name__}")
        return data


def _rate(done: float, warm_up: float) -> float:
    """Share of the learning rate after this share of the training."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return (1 + math.cos(math.pi * min((done - warm_up) / max(1 - warm_up, 1e-9), 1.0))) / 2
