"""What travels between a client and Triton: the names of models and tensors, the same for every target.

An ensemble takes `image` and `boxes` and answers with the outputs that the encoder has. Its configuration carries the
encoder's digest, so that a client can refuse an index of another encoder. A located ensemble takes `image` alone, has
the boxes proposed by a localizer beside it, and answers with them too: Triton's ensembles have no optional inputs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS
from chextriev.radiograph import RegionBoxes, raw_image
from chextriev.radiograph_file import RadiographFile

IMAGE, BOXES, CROPS, FEATURES = "image", "boxes", "crops", "features"
OUTPUTS = ("embedding", "finding_logits", "region_logits", "region_vectors", "hash_bits")
"""Of an ensemble, those that its encoder has."""
REGION_BOXES, PROPOSED_CONFIDENCE, CONFIDENCE = "region_boxes", "proposed_confidence", "box_confidence"
LOCATED_OUTPUTS = (BOXES, CONFIDENCE)
"""What a located ensemble gives beside them: the boxes in pixels that it encoded, and the IoU expected of each."""
LOCATED = "_located"
"""At the end of the name of a located ensemble, and of nothing else that takes an image from a client."""
LOCALIZER_MODELS = ("localizer_preprocess", "localizer_backbone", "localizer")
VECTORS, K, IMAGE_IDS, PATIENT_IDS, HITS = "vectors", "k", "image_ids", "patient_ids", "hits"
MAX_BATCH = 32
"""Radiographs in one request, and in one batch."""
MAX_IMAGE_BYTES = 96_000_000
"""Of one image: raw pixels of the largest radiograph that is read."""
MAX_HITS = 10_000
"""Of one query to a served index."""


def ensemble_name(system: str) -> str:
    """The model that encodes radiographs: `chextriev_v6`, but `global_cnn` and `ath`."""
    return {"global-cnn": "global_cnn", "ath": "ath"}.get(system, f"chextriev_{system}")


def located_name(system: str) -> str:
    """The model that encodes radiographs without boxes: `chextriev_v6_located`."""
    return ensemble_name(system) + LOCATED


def takes_boxes(ensemble: str) -> bool:
    """Whether an ensemble of this name takes boxes, or has them proposed."""
    return not ensemble.endswith(LOCATED)


def encoder_name(system: str) -> str:
    """The model that relates the features of one radiograph: `encoder_v6`, `encoder_global_cnn`."""
    return f"encoder_{system.replace('global-cnn', 'global_cnn')}"


def index_name(system: str) -> str:
    """The model that searches: `index_v6`."""
    return f"index_{system.replace('global-cnn', 'global_cnn')}"


def request_tensors(files: list[RadiographFile]) -> Mapping[str, npt.NDArray[Any]]:
    """The inputs of an ensemble: `image` [B, 1] of bytes and `boxes` [B, 18, 4] float32, pixels of the images.

    Boxes that are not there are zeros, which an ensemble of regions refuses and one of the whole image does not see.
    """
    boxes = [np.zeros((N_REGIONS, 4)) if file.boxes is None else file.boxes.xyxy for file in files]
    return {**image_tensors(files), BOXES: np.array(boxes, np.float32).reshape(-1, N_REGIONS, 4)}


def image_tensors(files: list[RadiographFile]) -> Mapping[str, npt.NDArray[Any]]:
    """The inputs of a located ensemble: `image` [B, 1] of bytes."""
    images = np.empty((len(files), 1), np.object_)
    images[:, 0] = [file.content for file in files]
    return {IMAGE: images}


def ensemble_tensors(ensemble: str, files: list[RadiographFile]) -> Mapping[str, npt.NDArray[Any]]:
    """The inputs of the ensemble of this name."""
    return request_tensors(files) if takes_boxes(ensemble) else image_tensors(files)


def canary() -> RadiographFile:
    """A small image that every server must be able to encode: a ramp of grey levels and 18 boxes in it."""
    ramp = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.uint8)
    corners = np.arange(N_REGIONS, dtype=np.float32)[:, np.newaxis] + np.array([0, 0, 40, 40], np.float32)
    return RadiographFile("canary", raw_image(ramp), RegionBoxes(corners))
