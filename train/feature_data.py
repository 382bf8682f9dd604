"""Region features and findings as a Lightning data module."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from chextriev.errors import DigestMismatch, EmptySplit, InvalidSetting
from chextriev.study_table import SPLITS, StudyTable, read_study_table
from chextriev.train.features import RegionFeatures, open_features


class Batch(NamedTuple):
    """features [B, crops, width] float32 (uint8 of pixels); image_findings [B, 9] and region_findings [B, 18, 9] int8;
    row [B] int64 of the study table.
    """

    features: Tensor
    image_findings: Tensor
    region_findings: Tensor
    row: Tensor


class FeatureDataset(Dataset[Batch]):
    """Whole batches of one split, read from the cache: an index is a list of positions."""

    def __init__(self, table: StudyTable, features: RegionFeatures, rows: npt.NDArray[np.int64]) -> None:
        self.table, self.features, self.rows = table, features, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: list[int]) -> Batch:
        rows = self.rows[positions]
        return Batch(
            features=torch.from_numpy(self.features.rows(rows)),
            image_findings=torch.from_numpy(self.table.image_findings[rows]),
            region_findings=torch.from_numpy(self.table.region_findings[rows]),
            row=torch.from_numpy(rows),
        )


@dataclass(frozen=True)
class Share:
    """Which of the processes that train together this one is."""

    rank: int = 0
    processes: int = 1


class Batches(Sampler[list[int]]):
    """Positions of each batch of one process, in order or shuffled.

    The shuffled order depends on seed and epoch alone, so that a resumed run sees what an unbroken one would. Each step
    deals `size` positions to every process; the last one divides what is left, and repeats a position for a process
    that would get none, because all must take the same number of steps.
    """

    def __init__(self, length: int, size: int, *, seed: int | None = None, share: Share | None = None) -> None:
        self.length, self.size, self.seed, self.epoch = length, size, seed, 0
        self.share = share or Share()

    def __len__(self) -> int:
        return -(-self.length // (self.size * self.share.processes))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        step = self.size * self.share.processes
        for start in range(0, self.length, step):
            dealt = order[start : start + step]
            own = np.array_split(dealt, self.share.processes)[self.share.rank]
            yield (own if len(own) else dealt[:1]).tolist()

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, on the loader's sampler."""
        self.epoch = epoch


class FeatureData(pl.LightningDataModule):
    """Batches from a feature cache and the study table it was computed from.

    Args:
        features: directory of region features.
        table: directory of the study table.
        batch_size: radiographs a step.
        seed: of the order of the train split.
    """

    def __init__(self, features: Path, table: Path, batch_size: int = 16, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise InvalidSetting(f"batch size {batch_size}; at least 1 is needed")
        self.batch_size, self.seed = batch_size, seed
        self.features, self.table = open_features(features), read_study_table(table)
        if self.features.table_digest != self.table.digest:
            raise DigestMismatch(
                f"features {features} were computed from study table {self.features.table_digest[:12]}, {table} is"
                f" {self.table.digest[:12]}; compute the features again"
            )

    @property
    def feature_width(self) -> int:
        """Numbers a crop."""
        return self.features.width

    @property
    def provenance(self) -> dict[str, str]:
        """What a checkpoint must remember of its data."""
        return {
            "backbone": self.features.backbone,
            "backbone_digest": self.features.backbone_digest,
            "crops_digest": self.features.crops_digest,
            "features_digest": self.features.digest,
            "table_digest": self.table.digest,
        }

    def train_region_findings(self) -> npt.NDArray[np.int8]:
        """[N, 18, 9] int8 of the train split alone: the adjacency must not see other labels."""
        return self.table.region_findings[self._rows("train")]

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the train split."""
        return self._loader("train", seed=self.seed)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validate split, in table order."""
        return self._loader("validate")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test split, in table order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Every radiograph with features, in table order."""
        return self._loader_of(np.flatnonzero(self.features.available))

    def _rows(self, split: str) -> npt.NDArray[np.int64]:
        rows = np.flatnonzero((self.table.split == split) & self.features.available)
        if not len(rows):
            counts = ", ".join(f"{name} {int((self.table.split == name).sum())}" for name in SPLITS)
            raise EmptySplit(f"no radiograph with features in split {split!r} (the study table has {counts})")
        return rows

    def _loader(self, split: str, *, seed: int | None = None) -> DataLoader[Batch]:
        return self._loader_of(self._rows(split), seed=seed)

    def _loader_of(self, rows: npt.NDArray[np.int64], *, seed: int | None = None) -> DataLoader[Batch]:
        share = Share(self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else None
        batches = Batches(len(rows), self.batch_size, seed=seed, share=share)
        return DataLoader(self._dataset(rows), sampler=batches, batch_size=None)

    def _dataset(self, rows: npt.NDArray[np.int64]) -> Dataset[Any]:
        return FeatureDataset(self.table, self.features, rows)
