"""The encoder protocol: radiographs in, embeddings out, whatever executes it.

Runners register under the entry-point group `chextriev.engines`, so that this module imports none of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chextriev.bundle import DEFAULT, REFERENCE, EncoderBundle, open_bundle
from chextriev.errors import UnknownEngine
from chextriev.radiograph import Radiograph

ENGINE_GROUP = "chextriev.engines"


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What an encoder says about B radiographs.

    vectors: [B, D] float32, the retrieval embedding (compare by cosine). finding_logits: [B, 9] float32.
    region_logits: [B, 18, 9] float32. region_vectors: [B, 18, D] float32, whose mean is the embedding (19 where
    the whole image is one of them).
    hash_bits: [B, D] uint8 of 0 and 1, the signs of the embedding; `np.packbits(hash_bits, axis=1)` is what a binary
    index wants. What a system does not have is None. encoder_digest: the bundle that made them.

    A served encoder of regions also says where it looked: boxes, [B, 18, 4] float32, corners in pixels of the image;
    box_confidence, [B, 18] float32 in 0..1, the IoU that each proposed box is expected to have, NaN for one that was
    sent; boxes_source, in words, who or what drew them, of each radiograph. In this process the radiographs have them.
    """

    image_ids: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    finding_logits: npt.NDArray[np.float32]
    encoder_digest: str
    region_logits: npt.NDArray[np.float32] | None = None
    region_vectors: npt.NDArray[np.float32] | None = None
    hash_bits: npt.NDArray[np.uint8] | None = None
    boxes: npt.NDArray[np.float32] | None = None
    box_confidence: npt.NDArray[np.float32] | None = None
    boxes_source: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def finding_probabilities(self) -> npt.NDArray[np.float32]:
        """[B, 9] float32 in 0..1: the logistic function of the logits."""
        return np.asarray(1.0 / (1.0 + np.exp(-self.finding_logits)), np.float32)


Source = Radiograph | Callable[[], Radiograph]
"""A radiograph, or what reads one when its turn comes."""


class Encoder(Protocol):
    """An opened bundle on an engine. Safe to call from several threads.

    engine: its name. arithmetic: what its numbers depend on, as the processor's instructions or the GPU. What embeds
    (`encode`, `stream`, `relate`) raises InvalidSetting for the bundle of a localizer, which gives `outputs` alone.
    """

    bundle: EncoderBundle
    engine: str
    arithmetic: str

    def encode(self, radiographs: Iterable[Radiograph]) -> Embeddings:
        """Encode radiographs, in order."""

    def stream(self, sources: Iterable[Source], *, batch: int = 8) -> Iterator[Embeddings]:
        """Encode any number of radiographs in bounded memory, in order, `batch` at a time.

        The next ones are read and cropped in threads while the engine works. An error of a source is raised in its
        place, after the batches before it.
        """

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Backbone features [n, width] float32 of grey crops [n, size, size] uint8."""

    def outputs(self, features: npt.NDArray[np.float32]) -> Mapping[str, npt.NDArray[Any]]:
        """The outputs that the card names, each [B, ...], of backbone features [B, crops, width] float32."""

    def relate(self, features: npt.NDArray[np.float32], image_ids: Iterable[str]) -> Embeddings:
        """Embeddings of backbone features [B, crops, width] float32."""


def open_encoder(
    bundle: str | Path | EncoderBundle, *, engine: str = DEFAULT, device: str = "cpu", proven: bool = False
) -> Encoder:
    """Open one engine of a bundle on "cpu" or "cuda".

    proven: refuse an engine that the retrieval gate has not passed on this kind of machine (UnprovenEngine), as serving
    does; PyTorch, which the others are compared with, needs no proof. UnknownEngine names the
    engines of the bundle, or what to install.
    """
    opened = bundle if isinstance(bundle, EncoderBundle) else open_bundle(bundle)
    opened.engine(engine)
    executor = engine.split("-")[0]
    runners = {point.name: point for point in entry_points(group=ENGINE_GROUP)}
    if executor not in runners:
        raise UnknownEngine(executor, sorted(runners) or ["(none installed: pip install 'chextriev[export]')"])
    runner: Encoder = runners[executor].load()(opened, engine=engine, device=device)
    if proven and engine != REFERENCE:
        opened.check_proven(engine, runner.arithmetic)
    return runner
