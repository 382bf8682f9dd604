"""Models `radiograph_preprocess`, `localizer_preprocess` and `radiograph_preprocess_located`: files to grey crops.

Where boxes are proposed, a file is decoded twice, by the second and by the third: that takes less time than its pixels
would need from one to the other (12 against 18 ms for a JPEG of 2500 x 3000), and no more memory than one does.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage
from chextriev.preprocess import CropSpec, region_crops
from chextriev.radiograph import RegionBoxes, decode_pixels
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.models.answers import Tensors, answer_each, check_numpy, read_tensor
from chextriev.serving.wire import (
    BOXES,
    CONFIDENCE,
    CROPS,
    IMAGE,
    MAX_IMAGE_BYTES,
    PROPOSED_CONFIDENCE,
    REGION_BOXES,
    canary,
)
from chextriev.valid_boxes import valid_boxes, valid_confidence

Item = TypeVar("Item")
Array = npt.NDArray[np.uint8]


class RadiographPreprocess:
    """Decodes and crops the radiographs of a request side by side.

    image [B, 1] bytes, boxes [B, 18, 4] float32 in pixels of the original image -> crops [B, n, 1, size, size] uint8.
    Where only the whole image is cropped, the boxes are not looked at.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's call before the first request."""
        check_numpy()
        parameters = json.loads(args["model_config"])["parameters"]
        self._spec = CropSpec(**json.loads(parameters["crops"]["string_value"]))
        self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))
        cut(canary(), self._spec)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's call for the requests of one batch."""
        return answer_each(requests, self._answer)

    def finalize(self) -> None:
        """Triton's call before the process ends."""
        self._pool.shutdown()

    def _answer(self, request: Any) -> Tensors:
        images = read_tensor(request, IMAGE)
        files = read_images(images) if self._spec.area == "image" else read_files(images, read_tensor(request, BOXES))
        return {CROPS: self._stack(lambda file: cut(file, self._spec), files)}

    def _stack(self, work: Callable[[Item], Array], items: Iterable[Item]) -> Array:
        return np.stack(list(self._pool.map(work, items)))


class LocalizerPreprocess(RadiographPreprocess):
    """image [B, 1] bytes -> crops [B, 1, 1, size, size] uint8 of the whole image."""

    def _answer(self, request: Any) -> Tensors:
        return {CROPS: self._stack(lambda file: cut(file, self._spec), read_images(read_tensor(request, IMAGE)))}


class LocatedPreprocess(RadiographPreprocess):
    """The crops of proposed boxes, and these as they are cropped.

    image [B, 1] bytes; region_boxes [B, 18, 4] and proposed_confidence [B, 18] float32, as a localizer gives them and
    in fractions of the image -> crops [B, n, 1, size, size] uint8, boxes [B, 18, 4] float32 in pixels of the image,
    box_confidence [B, 18] float32 in 0..1.
    """

    def _answer(self, request: Any) -> Tensors:
        files, proposed = read_images(read_tensor(request, IMAGE)), read_tensor(request, REGION_BOXES)
        confidence = valid_confidence(read_tensor(request, PROPOSED_CONFIDENCE), proposed)
        found = list(self._pool.map(lambda file, boxes: cut_located(file, boxes, self._spec), files, proposed))
        crops, boxes = (np.stack([each[place] for each in found]) for place in range(2))
        return {CROPS: crops, BOXES: boxes, CONFIDENCE: confidence}


def read_images(images: npt.NDArray[np.object_]) -> list[RadiographFile]:
    """The radiographs of a request, named by their row, without boxes; errors say which row is refused and why."""
    for row, content in enumerate(images[:, 0]):
        if len(content) > MAX_IMAGE_BYTES:
            size = f"{len(content):,} bytes"
            raise UnreadableImage(f"image {row}: {size}; at most {MAX_IMAGE_BYTES:,} are read")
    return [RadiographFile(str(row), bytes(content), None) for row, content in enumerate(images[:, 0])]


def read_files(images: npt.NDArray[np.object_], boxes: npt.NDArray[np.float32]) -> list[RadiographFile]:
    """`read_images` with their boxes."""
    return [
        replace(file, boxes=RegionBoxes.from_rows(corners, where=f"image {file.image_id}"))
        for file, corners in zip(read_images(images), boxes, strict=True)
    ]


def cut(file: RadiographFile, spec: CropSpec) -> npt.NDArray[np.uint8]:
    """The crops [n, 1, size, size] uint8 of one radiograph."""
    where = f"image {file.image_id}"
    pixels = decode_pixels(file.content, where=where)
    if file.boxes is not None and spec.area != "image":
        file.boxes.check_inside(pixels.shape[1], pixels.shape[0], where=where)
    return region_crops(pixels, file.boxes, spec)[:, np.newaxis]


def cut_located(
    file: RadiographFile, proposed: npt.NDArray[np.float32], spec: CropSpec
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """The crops of one radiograph, and the boxes [18, 4] float32 in its pixels that proposals become."""
    pixels = decode_pixels(file.content, where=f"image {file.image_id}")
    boxes = valid_boxes(proposed, width=pixels.shape[1], height=pixels.shape[0])
    return region_crops(pixels, boxes, spec)[:, np.newaxis], boxes.xyxy
