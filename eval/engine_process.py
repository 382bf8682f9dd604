"""A fresh process that opens one engine and encodes radiographs, one at a time, to measure its start and its memory.

Run by `chextriev.eval.engine_speed` as `python -m chextriev.eval.engine_process`: a JSON request on standard input, a
JSON answer as the last line of standard output, status 2 and words on standard error where the engine is refused.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class ImageRequest:
    """A radiograph on disk. boxes_xyxy: 18 rows of four numbers, pixels of the image."""

    image_id: str
    path: str
    boxes_xyxy: Sequence[Sequence[float]]


@dataclass(frozen=True)
class ProcessRequest:
    """What to measure. begun_s: `time.monotonic()` of the parent just before it started this process."""

    bundle: str
    engine: str
    device: str
    images: Sequence[ImageRequest]
    begun_s: float

    @classmethod
    def from_json(cls, text: str) -> "ProcessRequest":
        """The reverse of `json.dumps(asdict(request))`."""
        fields = json.loads(text)
        return cls(**{**fields, "images": [ImageRequest(**image) for image in fields["images"]]})


@dataclass(frozen=True)
class ProcessAnswer:
    """cold_start_s: from the start of the process to the first embedding. peak_memory_bytes: of the whole process."""

    cold_start_s: float
    peak_memory_bytes: int


def measure_process(request: ProcessRequest) -> ProcessAnswer:
    """Open the engine, encode the first radiograph, look at the clock, encode the others."""
    from chextriev.encoder import open_encoder
    from chextriev.machine import peak_memory_bytes
    from chextriev.radiograph import RegionBoxes, read_radiograph

    encoder = open_encoder(request.bundle, engine=request.engine, device=request.device)
    cold_start_s = 0.0
    for image in request.images:
        boxes = RegionBoxes.from_rows(image.boxes_xyxy, where=f"image {image.image_id}")
        encoder.encode([read_radiograph(image.path, boxes, image_id=image.image_id)])
        cold_start_s = cold_start_s or time.monotonic() - request.begun_s
    return ProcessAnswer(cold_start_s, peak_memory_bytes())


def main() -> int:
    """Answer the request on standard input."""
    from chextriev.errors import ChextrievError

    try:
        answer = measure_process(ProcessRequest.from_json(sys.stdin.read()))
    except ChextrievError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    sys.stdout.write(json.dumps(asdict(answer)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
