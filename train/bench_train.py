"""How fast training is: steps from the feature cache, against a loop that runs the frozen backbone every step.

Both loops take the same training step of the same encoder on as many radiographs. The cached one reads its rows, at
random, from a store on disk that was just written, so the files are in the page cache as they are from a second epoch
on wherever memory suffices; float16 becomes float32 as in training. The published one runs the backbone in eager
PyTorch on grey crops that are in memory already: reading, decoding and cropping its images, which it does in every
step too, is left out, in its favour. So is Lightning, on both sides.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.artifacts import Recipe, digest_of, seal
from chextriev.errors import InvalidSetting
from chextriev.machine import describe_machine, median_ratio, time_in_turn
from chextriev.systems import find_system, trains_backbone
from chextriev.train.backbones import Backbone, load_backbone, region_extractor
from chextriev.train.encoders import new_encoder
from chextriev.train.feature_store import KIND, RegionFeatures, StoreKey, StoreWriter, open_features
from chextriev.train.losses import system_loss

SHARD_ROWS = 64


@dataclass(frozen=True)
class TrainBenchSettings:
    """What is measured: steps of `batch` radiographs, from a cache of `radiographs`.

    A small batch favours the published loop, as an optimiser's step costs the same for any. Random weights do not
    change the speed.
    """

    system: str = "v6"
    backbone: str = "resnet50"
    weights: str | None = "random:0"
    batch: int = 4
    radiographs: int = 256
    repeats: int = 3

    def __post_init__(self) -> None:
        if trains_backbone(find_system(self.system)):
            raise InvalidSetting(f"bench train: system {self.system} trains its backbone, so no cache spares it that")
        if min(self.batch, self.repeats) < 1:
            raise InvalidSetting(f"bench train: batch {self.batch}, repeats {self.repeats}; each is at least 1")
        if self.radiographs < self.batch:
            raise InvalidSetting(
                f"bench train: {self.radiographs} radiographs; at least a batch of {self.batch} is needed"
            )


def bench_train(settings: TrainBenchSettings) -> dict[str, Any]:
    """Radiographs a second of both loops (medians) and their ratio, paired within the run; JSON-able."""
    backbone = load_backbone(settings.backbone, weights=settings.weights)
    with TemporaryDirectory() as folder:
        loops = _Loops(settings, backbone, _write_store(Path(folder), backbone, settings))
        works = {"backbone_every_step": loops.published_step, "cached": loops.cached_step}
        seconds = time_in_turn(works, repeats=settings.repeats)
    return {
        "settings": asdict(settings),
        "machine": {**describe_machine(), "threads": torch.get_num_threads()},
        "radiographs_per_s": {name: settings.batch / median(times) for name, times in seconds.items()},
        "cached_times_faster": median_ratio(seconds["backbone_every_step"], seconds["cached"]),
    }


class _Loops:
    """One step of either loop; they share the encoder and its optimiser."""

    def __init__(self, settings: TrainBenchSettings, backbone: Backbone, features: RegionFeatures) -> None:
        self.spec, self.batch, self.features = find_system(settings.system), settings.batch, features
        self.extractor, self.encoder = region_extractor(backbone), new_encoder(self.spec, backbone.spec.width)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=1e-4)
        self.random = np.random.default_rng(0)
        count, size = self.spec.crops.count, self.spec.crops.size
        crops = self.random.integers(0, 256, (self.batch * count, 1, size, size), np.uint8)
        findings = self.random.integers(0, 2, (len(features), N_REGIONS, N_FINDINGS), np.int8)
        self.crops, self.findings = torch.from_numpy(crops), torch.from_numpy(findings)

    def published_step(self) -> None:
        with torch.no_grad():
            features = self.extractor(self.crops)
        self._train(features.reshape(self.batch, self.spec.crops.count, -1), self._rows())

    def cached_step(self) -> None:
        rows = self._rows()
        self._train(torch.from_numpy(self.features.rows(rows)), rows)

    def _rows(self) -> npt.NDArray[np.int64]:
        return self.random.choice(len(self.features), self.batch, replace=False)

    def _train(self, features: torch.Tensor, rows: npt.NDArray[np.int64]) -> None:
        findings = self.findings[rows]
        self.optimizer.zero_grad()
        torch.autograd.backward(system_loss(self.spec, self.encoder(features), findings.amax(dim=1), findings))
        self.optimizer.step()


def _write_store(folder: Path, backbone: Backbone, settings: TrainBenchSettings) -> RegionFeatures:
    """A store of random features, as large as that of so many radiographs."""
    crops, table = find_system(settings.system).crops, digest_of(["bench train", settings.radiographs])
    key = StoreKey(
        backbone=backbone.spec.name,
        backbone_digest=backbone.digest,
        crops_digest=crops.digest,
        table_digest=table,
        image_ids_digest=table,
        radiographs=settings.radiographs,
        width=backbone.spec.width,
        shard_rows=SHARD_ROWS,
        crops=crops.count,
        dtype="float16",
    )
    random, store = np.random.default_rng(0), StoreWriter(folder / "features", key)
    for shard in range(key.shards):
        store.append(random.random(key.shape_of(shard), np.float32).astype(np.float16), [])
    seal(folder / "features", KIND, Recipe({"crops": asdict(crops)}))
    return open_features(folder / "features")
