"""Compute the features of every region of every radiograph once, with a frozen backbone; resumable.

`chextriev.train.feature_store` says what is on disk. Memory does not grow with the number of radiographs.
"""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from chextriev.artifacts import MANIFEST, Manifest, Recipe, check_output, digest_of, seal
from chextriev.errors import CountMismatch, InvalidSetting, InvalidValue
from chextriev.preprocess import CropSpec
from chextriev.progress import track
from chextriev.refusals import Refusal
from chextriev.study_table import StudyTable
from chextriev.train.backbones import Backbone, region_extractor
from chextriev.train.crop_stream import Crops, FeatureSettings, crops_in_order
from chextriev.train.feature_store import KIND, RegionFeatures, Row, Shard, StoreKey, StoreWriter, open_features

__all__ = [
    "DeferredExtractor",
    "FeatureExtractor",
    "FeatureSettings",
    "PixelExtractor",
    "RegionFeatures",
    "TorchExtractor",
    "check_frozen_crops",
    "compute_features",
    "open_features",
]


class FeatureExtractor(Protocol):
    """A backbone on some engine.

    backbone: its name. backbone_digest: of name, normalisation and weights. dtype: as what the features are stored.
    """

    backbone: str
    backbone_digest: str
    width: int
    dtype: str

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Features [n, width] float32 of grey crops [n, 1, size, size] uint8."""


PIXELS = "pixels"
"""In place of a backbone: the grey crops themselves."""

PIXEL_SIZES = 16, 1024
"""Smallest and largest crops that are kept as they are; below, nothing is left of a finding, and 18 larger ones fill
several megabytes a radiograph with more than systems learn from.
"""


class PixelExtractor:
    """Keeps the crops as they are, for systems that train their own convolutions: 231,528 x 18 x 224^2 are 209 GB."""

    backbone, dtype = PIXELS, "uint8"
    backbone_digest = digest_of({"backbone": PIXELS})

    def __init__(self, crops: CropSpec) -> None:
        low, high = PIXEL_SIZES
        if not low <= crops.size <= high:
            raise InvalidSetting(f"crops of {crops.size} pixels; {low} to {high} are possible")
        self.width = crops.size**2

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[n, size * size] uint8 of grey crops [n, 1, size, size] uint8."""
        return crops.reshape(len(crops), -1)


class TorchExtractor:
    """A backbone on PyTorch."""

    dtype = "float16"

    def __init__(self, backbone: Backbone, *, device: str = "cpu") -> None:
        try:
            self._device = torch.device(device)
            module = copy.deepcopy(region_extractor(backbone)).to(self._device)  # the caller's stays where it is
        except (RuntimeError, AssertionError) as error:
            raise InvalidSetting(f"device {device!r} cannot be used by this PyTorch ({error})") from None
        module.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module = module
        self.backbone, self.backbone_digest = backbone.spec.name, backbone.digest
        self.width = backbone.spec.width

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features [n, width] float32 of grey crops [n, 1, 224, 224] uint8."""
        with torch.inference_mode():
            features: torch.Tensor = self._module(torch.from_numpy(crops).to(self._device))
            return np.asarray(features.cpu().numpy(), np.float32)


class DeferredExtractor:
    """A backbone on an engine that is made when the first crops come: a complete store needs none."""

    dtype = "float16"

    def __init__(self, backbone: Backbone, make: Callable[[Backbone], FeatureExtractor]) -> None:
        self.backbone, self.backbone_digest = backbone.spec.name, backbone.digest
        self.width = backbone.spec.width
        self._made = cache(lambda: make(backbone))

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features [n, width] float32 of grey crops [n, 1, 224, 224] uint8."""
        return self._made().extract(crops)


def check_frozen_crops(backbone: str, crops: CropSpec) -> None:
    """Raise InvalidSetting for crops of a size that the weights of frozen backbones are not made for."""
    published = CropSpec().size
    if crops.size != published:
        raise InvalidSetting(
            f"crops of {crops.size} pixels for {backbone}; its weights expect {published}, other sizes go with the"
            f" backbone {PIXELS} alone"
        )


def compute_features(
    table: StudyTable, out: Path, extractor: FeatureExtractor, *, settings: FeatureSettings | None = None
) -> Manifest:
    """Fill the store at `out`, going on where an earlier run stopped; the manifest's facts say how much was reused.

    A radiograph that cannot be read is quarantined with its reason, and read again by the next run. Raises
    OtherBackbone or OtherStudyTable where the store was begun with another key, UnreadableImage where no radiograph can
    be read.
    """
    out, settings = Path(out), settings or FeatureSettings()
    key = _key(table, extractor, settings)
    begun = time.perf_counter()
    whole = _open_whole(out, key)
    store = StoreWriter(out, key)
    mended = _retry(store, table, extractor, settings)
    if whole is not None and (out / MANIFEST).exists():  # amending drops it
        return replace(whole, facts={**whole.facts, "computed": 0, "reused": len(table), "seconds": 0.0})
    rows = range(store.next_row, len(table))
    _fill(store, _features_in_order(table, rows, extractor, settings), rows)
    recipe = Recipe(
        {"backbone": key.backbone, "width": key.width, "crops": asdict(settings.crops), "dtype": key.dtype},
        {"study table": key.table_digest, "backbone": key.backbone_digest},
    )
    facts = {
        "radiographs": len(table),
        "computed": len(rows) + mended,
        "reused": len(table) - len(rows) - mended,
        "quarantined": len(store.refusals),
        "seconds": round(time.perf_counter() - begun, 3),
    }
    return seal(out, KIND, recipe, facts)


def _key(table: StudyTable, extractor: FeatureExtractor, settings: FeatureSettings) -> StoreKey:
    if not table.digest or not len(table):
        raise InvalidValue(
            f"features need a study table read from disk, with at least one radiograph (digest {table.digest!r},"
            f" {len(table)} radiographs)"
        )
    row_bytes = settings.crops.count * extractor.width * np.dtype(extractor.dtype).itemsize
    return StoreKey(
        backbone=extractor.backbone,
        backbone_digest=extractor.backbone_digest,
        crops_digest=settings.crops.digest,
        table_digest=table.digest,
        image_ids_digest=digest_of([str(image_id) for image_id in table.image_id]),
        radiographs=len(table),
        width=extractor.width,
        shard_rows=settings.rows_a_shard(len(table), row_bytes),
        crops=settings.crops.count,
        dtype=extractor.dtype,
    )


def _open_whole(out: Path, key: StoreKey) -> Manifest | None:
    """The manifest of a complete store, every file verified."""
    if not (out / MANIFEST).exists():
        return None
    check_output(out, KIND)
    features = open_features(out)
    features.key.check_same(key, out)
    return features.manifest


def _retry(store: StoreWriter, table: StudyTable, extractor: FeatureExtractor, settings: FeatureSettings) -> int:
    """Read the radiographs in quarantine again, a shard at a time; how many have features now."""
    mended, refusals = 0, list(store.refusals)
    shown = track(refusals, "radiographs in quarantine", unit="radiograph") if refusals else iter(refusals)
    for shard, refused in groupby(shown, key=lambda refusal: refusal.row // store.key.shard_rows):
        changed: dict[int, Row | Refusal] = {}
        for before in refused:
            one = range(before.row, before.row + 1)
            for row, result in _features_in_order(table, one, extractor, settings):
                if not (isinstance(result, Refusal) and result.reason == before.reason):
                    changed[row] = result
        if changed:
            store.amend(shard, changed)
        mended += sum(not isinstance(result, Refusal) for result in changed.values())
    return mended


def _fill(store: StoreWriter, features: Iterator[tuple[int, Row | Refusal]], rows: range) -> None:
    shard, refusals = _empty_shard(store), list[Refusal]()
    for row, result in track(features, "region features", total=len(rows), unit="radiograph"):
        position = row - store.next_row
        if isinstance(result, Refusal):
            refusals.append(result)
        else:
            shard[position] = result
        if position + 1 == len(shard):
            store.append(shard, refusals)
            shard, refusals = _empty_shard(store), []


def _empty_shard(store: StoreWriter) -> Shard:
    key = store.key
    shape = (max(key.shape_of(store.next_shard)[0], 0), key.crops, key.width)
    return np.zeros(shape, np.uint8) if key.dtype == "uint8" else np.full(shape, np.nan, np.float16)


def _features_in_order(
    table: StudyTable, rows: range, extractor: FeatureExtractor, settings: FeatureSettings
) -> Iterator[tuple[int, Row | Refusal]]:
    """Yield each row with its features [crops, width], or why there are none."""
    with closing(crops_in_order(table, rows, settings)) as stream:
        while batch := list(islice(stream, settings.batch)):
            features = iter(_extract([crops for _, crops in batch if not isinstance(crops, Refusal)], extractor))
            for row, result in batch:
                yield row, result if isinstance(result, Refusal) else next(features)


def _extract(crops: list[Crops], extractor: FeatureExtractor) -> Shard:
    """[n, crops, width] of n radiographs' crops, as they are stored."""
    if not crops:
        return np.empty((0, 0, extractor.width), np.float16)
    features = extractor.extract(np.concatenate(crops)[:, None])
    wanted = (len(crops) * len(crops[0]), extractor.width)
    if features.shape != wanted:
        raise CountMismatch(f"{extractor.backbone} gave features {list(features.shape)}; {list(wanted)} is needed")
    with np.errstate(over="ignore"):
        stored: Shard = features.astype(extractor.dtype, copy=False)
    if not np.isfinite(stored).all():
        raise InvalidValue(
            f"{extractor.backbone} gave features up to {np.abs(features).max():.3g}; the cache holds 65,504 at most"
        )
    return stored.reshape(len(crops), -1, extractor.width)
