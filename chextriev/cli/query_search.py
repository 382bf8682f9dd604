"""The similar cases of one radiograph: by an encoder of this process, or by a server."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from chextriev.cli.encoders import open_chosen
from chextriev.cli.index_backend import opened
from chextriev.cli.reading import check_fit, chosen_localizer
from chextriev.errors import InvalidSetting
from chextriev.hits import Hit

if TYPE_CHECKING:
    from chextriev.encoder import Embeddings
    from chextriev.localizer import Located
    from chextriev.quality import Quality
    from chextriev.radiograph import RegionBoxes
    from chextriev.radiograph_file import RadiographFile
    from chextriev.radiograph_image import RadiographImage

UNKNOWN = "neither this image nor its patient is in the index, so nothing was left out"
SERVED = "served"
WHOLE_IMAGE = "none needed: this encoder sees the whole image"


@dataclass(frozen=True, eq=False)
class Case:
    """The radiograph that is asked about, and its boxes where somebody gave them.

    file: as it travels to a server. content: the DICOM file that a report refers to, where one was asked for.
    """

    image: "RadiographImage"
    file: "RadiographFile"
    boxes: "RegionBoxes | None"
    patient_id: str | None
    content: bytes | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """Similar cases, and what they rest on.

    boxes: None where the encoder sees the whole image. located: those that were proposed, None where they were given.
    """

    hits: Sequence[Hit]
    encoder_digest: str
    boxes: "RegionBoxes | None"
    located: "Located | None"
    quality: "Quality"
    remarks: tuple[str, ...]

    @property
    def boxes_source(self) -> str:
        """Who or what drew the boxes."""
        if self.located is not None:
            return self.located.source
        return WHOLE_IMAGE if self.boxes is None else "given"

    @property
    def confidence(self) -> npt.NDArray[np.float32] | None:
        """[18] float32, the IoU that is expected of each proposed box."""
        return None if self.located is None else self.located.confidence[0]


def search_here(options: argparse.Namespace, case: Case, regions: Mapping[str, float] | None) -> Found:
    """Locate, check, encode and search in this process."""
    from chextriev.quality import check_quality

    encoder = open_chosen(options)
    whole = encoder.bundle.card.crops.area == "image"
    located = None if whole or case.boxes is not None else chosen_localizer(options).locate([case.image.pixels])
    quality = check_quality(case.image.pixels, located=located)
    check_fit(quality, options)
    boxes = located.boxes[0] if located is not None else case.boxes
    radiograph = case.image.located() if boxes is None else case.image.with_boxes(boxes)
    with opened(options) as index:
        embeddings = encoder.encode([radiograph])
        patients = [case.patient_id] if case.patient_id else None
        (hits,) = index.search(embeddings, options.k, patient_ids=patients, where=options.where, regions=regions)
        known = index.holds(case.image.image_id, case.patient_id)
    remarks = () if known else (UNKNOWN,)
    return Found(hits, embeddings.encoder_digest, None if whole else boxes, located, quality, remarks)


def search_served(options: argparse.Namespace, case: Case, regions: Mapping[str, float] | None) -> Found:
    """Check here; have a server propose the boxes that nobody gave, encode, and search its index or one of ours."""
    from chextriev.quality import check_quality
    from chextriev.serving.client import Client

    if options.localizer is not None:
        raise InvalidSetting("--localizer is of this process; a server has its own: serve --localizer BUNDLE")
    check_fit(check_quality(case.image.pixels), options)  # before it travels
    file = replace(case.file, boxes=case.boxes)
    ranking: dict[str, Any] = {"where": options.where} if options.where else {}
    ranking |= {"regions": regions} if regions else {}
    with ExitStack() as stack:
        index: Any = SERVED if options.index is None else stack.enter_context(opened(options))
        client = stack.enter_context(Client(options.server, system=options.system, index=index))
        embeddings = client.embed(file)
        (hits,) = client.search_embeddings(embeddings, options.k, patient_ids=[case.patient_id], **ranking)
        known = index == SERVED or index.holds(case.image.image_id, case.patient_id)
    located = None if case.boxes is not None else _located(embeddings)
    quality = check_quality(case.image.pixels, located=located)
    check_fit(quality, options)
    boxes = located.boxes[0] if located is not None else case.boxes
    return Found(hits, embeddings.encoder_digest, boxes, located, quality, () if known else (UNKNOWN,))


def _located(embeddings: "Embeddings") -> "Located | None":
    """What a server's localizer proposed for the one radiograph; None for an encoder of the whole image."""
    from chextriev.localizer import Located
    from chextriev.radiograph import RegionBoxes

    if embeddings.boxes is None or embeddings.box_confidence is None:
        return None
    boxes = RegionBoxes.from_rows(embeddings.boxes[0], where="the server's boxes")
    return Located((boxes,), embeddings.box_confidence, embeddings.boxes_source[0])
