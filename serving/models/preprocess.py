"""Model `radiograph_preprocess`: the bytes of image files and their boxes to the grey crops that a backbone takes."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage
from chextriev.preprocess import CropSpec, region_crops
from chextriev.radiograph import RegionBoxes
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.models.answers import Tensors, answer_each, check_numpy, read_tensor
from chextriev.serving.wire import BOXES, CROPS, IMAGE, MAX_IMAGE_BYTES, canary


class RadiographPreprocess:
    """Decodes and crops the radiographs of a request side by side.

    image [B, 1] bytes, boxes [B, 18, 4] float32 in pixels of the original image -> crops [B, n, 1, size, size] uint8.
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
        return answer_each(requests, self._crops)

    def finalize(self) -> None:
        """Triton's call before the process ends."""
        self._pool.shutdown()

    def _crops(self, request: Any) -> Tensors:
        files = read_files(read_tensor(request, IMAGE), read_tensor(request, BOXES))
        return {CROPS: np.stack(list(self._pool.map(lambda file: cut(file, self._spec), files)))}


def read_files(images: npt.NDArray[np.object_], boxes: npt.NDArray[np.float32]) -> list[RadiographFile]:
    """The radiographs of a request, named by their row; errors say which row is refused and why."""
    files = []
    for row, (content, corners) in enumerate(zip(images[:, 0], boxes, strict=True)):
        if len(content) > MAX_IMAGE_BYTES:
            size = f"{len(content):,} bytes"
            raise UnreadableImage(f"image {row}: {size}; at most {MAX_IMAGE_BYTES:,} are read")
        files.append(RadiographFile(str(row), bytes(content), RegionBoxes.from_rows(corners, where=f"image {row}")))
    return files


def cut(file: RadiographFile, spec: CropSpec) -> npt.NDArray[np.uint8]:
    """The crops [n, 1, size, size] uint8 of one radiograph."""
    radiograph = file.decode()
    return region_crops(radiograph.pixels, radiograph.boxes, spec)[:, np.newaxis]
