"""Radiographs without boxes: which model has them proposed, and what an answer says of the boxes that were encoded."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from chextriev.anatomy import N_REGIONS
from chextriev.encoder import Embeddings
from chextriev.errors import RequestRefused, UnknownModel
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client.transport import ModelDescription, Tensors
from chextriev.serving.wire import BOXES, CONFIDENCE, LOCATED_OUTPUTS, takes_boxes

CROP_AREA, BOXES_SOURCE = "crop_area", "boxes_source"
FIELDS = (*LOCATED_OUTPUTS, BOXES_SOURCE)
"""Of embeddings, what is said of boxes."""


def needs_proposals(files: Sequence[RadiographFile], model: ModelDescription) -> bool:
    """Whether radiographs that are encoded by this model lack the boxes that it looks at."""
    return files[0].boxes is None and looks_at_regions(model)


def looks_at_regions(model: ModelDescription) -> bool:
    """Whether an ensemble needs boxes; those of former releases do not say, and take them."""
    return model.parameters.get(CROP_AREA) != "image"


def no_localizer(system: str, error: UnknownModel) -> RequestRefused:
    """The refusal of a radiograph without boxes by a server that has no localizer."""
    return RequestRefused(
        f"no boxes, and this server has no localizer of {system} to propose them ({error}); give the boxes, make its"
        " repository with `chextriev export repository BUNDLE OUT --localizer LOCALIZER`, or have them proposed here:"
        " read_image(PATH).located(open_localizer(LOCALIZER)), or .located() for the mean layout",
        request=error.request,
    )


def of_boxes(model: ModelDescription, files: Sequence[RadiographFile], answer: Tensors) -> dict[str, Any]:
    """The fields of embeddings that tell of boxes: those that came back, or those that were sent; none without."""
    if not takes_boxes(model.name):
        source = model.parameters.get(BOXES_SOURCE, "the server's localizer")
        return {BOXES: answer[BOXES], CONFIDENCE: answer[CONFIDENCE], BOXES_SOURCE: (source,) * len(files)}
    if not looks_at_regions(model):
        return {}
    sent = np.stack([file.region_boxes.xyxy for file in files])
    unknown = np.full((len(files), N_REGIONS), np.nan, np.float32)
    return {BOXES: sent, CONFIDENCE: unknown, BOXES_SOURCE: tuple(file.boxes_source for file in files)}


def joined(parts: Sequence[Embeddings]) -> dict[str, Any]:
    """The same fields for several parts of one model, in order."""
    if not parts or any(part.boxes is None for part in parts):
        return {}
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in LOCATED_OUTPUTS}
    return {**arrays, BOXES_SOURCE: tuple(source for part in parts for source in part.boxes_source)}


def row_of(embeddings: Embeddings, row: int) -> dict[str, Any]:
    """The same fields for one radiograph of several."""
    if embeddings.boxes is None:
        return {}
    return {name: getattr(embeddings, name)[row : row + 1] for name in FIELDS}
