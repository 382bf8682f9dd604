"""What every executor of a bundle has in common: radiographs to crops, crops to features, features to embeddings."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from chextriev.ahead import map_ahead
from chextriev.bundle import ENCODER, EncoderBundle
from chextriev.encoder import Embeddings, Source
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.preprocess import region_crops
from chextriev.radiograph import Radiograph

BATCH = 8
"""Radiographs encoded at once: 144 crops."""

CROPS_AT_ONCE = {"cpu": 18, "cuda": 576}
"""Crops that a backbone sees at once, by device: a processor gains nothing from more than those of one radiograph, and
memory grows with them."""

Item = TypeVar("Item")
Array = npt.NDArray[Any]


class EngineEncoder(ABC):
    """A bundle on one engine. Nothing here changes after construction, so several threads may share it.

    Subclasses run the two parts; `arithmetic` says what their numbers depend on.
    """

    arithmetic: str

    def __init__(self, bundle: EncoderBundle, *, engine: str, device: str) -> None:
        if device not in CROPS_AT_ONCE:
            raise InvalidSetting(f"device {device!r}; choose one of {', '.join(CROPS_AT_ONCE)}")
        self.bundle, self.engine, self.device = bundle, engine, device

    @abstractmethod
    def _features(self, crops: npt.NDArray[np.uint8]) -> Array:
        """[n, width] float32 of crops [n, 1, size, size] uint8."""

    @abstractmethod
    def _outputs(self, features: npt.NDArray[np.float32]) -> Mapping[str, Array]:
        """The outputs that the card names, of features [B, crops, width] float32."""

    def encode(self, radiographs: Iterable[Radiograph]) -> Embeddings:
        """Encode radiographs, in order."""
        return join_embeddings(list(self.stream(radiographs)), self.bundle)

    def stream(self, sources: Iterable[Source], *, batch: int = BATCH) -> Iterator[Embeddings]:
        """Encode any number of radiographs in order, `batch` at a time; at most twice as many are in memory."""
        if batch < 1:
            raise InvalidSetting(f"batch is {batch}; at least 1 radiograph is needed")
        self.bundle.check_embeds()
        with closing(map_ahead(self._read, sources, ahead=batch + 1)) as crops:
            for read in batched(crops, batch):
                yield self._encode([name for name, _ in read], np.concatenate([cut for _, cut in read]))

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Backbone features [n, width] float32 of grey crops [n, size, size] uint8."""
        size = self.bundle.card.crops.size
        if crops.shape[1:] != (size, size) or crops.dtype != np.uint8:
            found = f"{list(crops.shape)} {crops.dtype}"
            raise InvalidSetting(f"crops are {found}; {self.bundle.card.backbone} takes [n, {size}, {size}] uint8 here")
        return in_parts(self._features, crops[:, np.newaxis], CROPS_AT_ONCE[self.device], self.bundle.feature_width)

    def outputs(self, features: npt.NDArray[np.float32]) -> Mapping[str, Array]:
        """The outputs that the card names, each [B, ...], of backbone features [B, crops, width] float32."""
        wanted = (self.bundle.card.crops.count, self.bundle.feature_width)
        if features.shape[1:] != wanted or not len(features):
            shapes = f"features have shape {list(features.shape)}; [B, {wanted[0]}, {wanted[1]}]"
            raise CountMismatch(f"{shapes} is needed, for one radiograph or more")
        return self._outputs(features.astype(np.float32, copy=False))

    def relate(self, features: npt.NDArray[np.float32], image_ids: Iterable[str]) -> Embeddings:
        """Embeddings of backbone features [B, crops, width] float32."""
        self.bundle.check_embeds()
        names = tuple(image_ids)
        wanted = (len(names), self.bundle.card.crops.count, self.bundle.feature_width)
        if features.shape != wanted:
            shapes = f"features have shape {list(features.shape)}; {list(wanted)}"
            raise CountMismatch(f"{shapes} is needed for {len(names)} ids")
        if not names:
            return join_embeddings([], self.bundle)
        return as_embeddings(names, self.outputs(features), self.bundle)

    def _read(self, source: Source) -> tuple[str, npt.NDArray[np.uint8]]:
        radiograph = source if isinstance(source, Radiograph) else source()
        return radiograph.image_id, region_crops(radiograph.pixels, radiograph.boxes, self.bundle.card.crops)

    def _encode(self, names: Sequence[str], crops: npt.NDArray[np.uint8]) -> Embeddings:
        return self.relate(self.extract(crops).reshape(len(names), -1, self.bundle.feature_width), names)


def in_parts(run: Any, rows: Array, size: int, width: int) -> npt.NDArray[np.float32]:
    """`run` over at most `size` rows at a time: [n, width] float32, also for no row."""
    parts = [run(rows[start : start + size]) for start in range(0, len(rows), size)]
    if len(parts) == 1:
        return np.asarray(parts[0], np.float32)
    return np.concatenate(parts, dtype=np.float32) if parts else np.empty((0, width), np.float32)


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def as_embeddings(image_ids: Iterable[str], outputs: Mapping[str, Array], bundle: EncoderBundle) -> Embeddings:
    """An encoder engine's outputs, by the names of the card, as embeddings."""
    others: dict[str, Any] = {name: array for name, array in outputs.items() if name != "embedding"}
    return Embeddings(tuple(image_ids), outputs["embedding"], encoder_digest=bundle.digest, **others)


def join_embeddings(parts: Sequence[Embeddings], bundle: EncoderBundle) -> Embeddings:
    """The parts as one, in order; no part at all gives zero rows of the right widths."""
    tensors = {tensor.name: tensor for tensor in bundle.card.tensors[ENCODER]["outputs"]}
    joined = {}
    for name, tensor in tensors.items():
        arrays = [getattr(part, "vectors" if name == "embedding" else name) for part in parts]
        joined[name] = np.concatenate(arrays) if arrays else np.empty((0, *map(int, tensor.shape[1:])), tensor.dtype)
    return as_embeddings((name for part in parts for name in part.image_ids), joined, bundle)
