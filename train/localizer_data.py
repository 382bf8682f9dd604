"""Whole radiographs and the boxes of their regions as a Lightning data module."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from chextriev.errors import InvalidValue
from chextriev.study_table import StudyTable
from chextriev.train.feature_data import FeatureData
from chextriev.train.features import RegionFeatures
from chextriev.train.localizer_augmentation import DEFAULT_AUGMENTATION, Augmentation, augment

_ALIKE = 1e-3


class LocatedBatch(NamedTuple):
    """images [B, 1, size * size] uint8. boxes [B, 18, 4] float32, fractions of width and height. seen [B, 18] bool:
    which boxes count. row [B] int64 of the study table.
    """

    images: Tensor
    boxes: Tensor
    seen: Tensor
    row: Tensor


class LocatedDataset(Dataset[LocatedBatch]):
    """Whole batches of one split: an index is a list of positions."""

    def __init__(self, table: StudyTable, features: RegionFeatures, rows: npt.NDArray[np.int64]) -> None:
        self.table, self.features, self.rows = table, features, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: list[int]) -> LocatedBatch:
        rows = self.rows[positions]
        boxes = torch.from_numpy(box_fractions(self.table, rows))
        return LocatedBatch(
            images=torch.from_numpy(self.features.rows(rows)),
            boxes=boxes,
            seen=torch.ones(boxes.shape[:2], dtype=torch.bool),
            row=torch.from_numpy(rows),
        )


def box_fractions(table: StudyTable, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """[n, 18, 4] float32: the boxes of these rows as fractions of width and height, cut at the border."""
    width, height = table.width[rows], table.height[rows]
    sides = np.stack([width, height, width, height], axis=1)[:, None]
    return (table.boxes_xyxy[rows] / sides).clip(0, 1).astype(np.float32)


class LocalizerData(FeatureData):
    """Batches of whole radiographs from a cache of pixels and the study table it was computed from.

    Args:
        features: directory of the pixels (`chextriev data features TABLE OUT --backbone pixels --area image`).
        table: directory of the study table.
        batch_size: radiographs a step.
        seed: of the order of the train split, and of how its radiographs are changed.
        augmentation: how far they are changed.
    """

    def __init__(
        self,
        features: Path,
        table: Path,
        batch_size: int = 16,
        seed: int = 0,
        augmentation: Augmentation = DEFAULT_AUGMENTATION,
    ) -> None:
        super().__init__(features, table, batch_size, seed)
        self.augmentation = augmentation

    def setup(self, stage: str) -> None:
        """Refuse to learn from boxes that nobody drew: those of a mean layout are the same in every radiograph."""
        boxes = box_fractions(self.table, self._rows("train"))
        if stage == "fit" and len(boxes) > 1 and (np.ptp(boxes, axis=0) < _ALIKE).all():
            raise InvalidValue(
                f"the {len(boxes)} radiographs of the train split have the same boxes, as a mean layout proposes them;"
                " a localizer learns from boxes that were drawn or found in each image"
            )

    def train_layout(self) -> Tensor:
        """[18, 4] float32: the mean box of each region over the train split, what a localizer is measured against."""
        return torch.from_numpy(box_fractions(self.table, self._rows("train")).mean(axis=0))

    def on_after_batch_transfer(self, batch: LocatedBatch, dataloader_idx: int) -> LocatedBatch:  # noqa: ARG002
        """Batches of the train split are changed, each epoch in another way; on the processor, whatever the device."""
        if self.trainer is None or not self.trainer.training:
            return batch
        keys = [(self.seed, self.trainer.current_epoch, row) for row in batch.row.tolist()]
        size, device = round(batch.images.shape[-1] ** 0.5), batch.images.device
        images, boxes = batch.images.reshape(-1, size, size).cpu(), batch.boxes.cpu()
        changed = augment(images, boxes, keys, self.augmentation)
        flat = changed.images.reshape(batch.images.shape)
        return LocatedBatch(flat.to(device), changed.boxes.to(device), changed.seen.to(device), batch.row)

    def _dataset(self, rows: npt.NDArray[np.int64]) -> Dataset[Any]:
        return LocatedDataset(self.table, self.features, rows)
