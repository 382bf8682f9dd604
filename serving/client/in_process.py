"""An encoder in this process behind the interface of a server: what tests, notebooks and comparisons use."""

import numpy as np

from chextriev.anatomy import N_REGIONS
from chextriev.bundle import ENCODER, TensorSpec
from chextriev.encoder import Encoder
from chextriev.errors import InputError, RequestRefused, UnknownModel, UnreadableImage
from chextriev.localizer import Localizer, MeanLayout
from chextriev.radiograph import Radiograph, RegionBoxes
from chextriev.radiograph_file import RadiographFile
from chextriev.radiograph_image import RadiographImage
from chextriev.serving.client.deadline import Deadline
from chextriev.serving.client.located import BOXES_SOURCE, CROP_AREA
from chextriev.serving.client.statuses import new_error
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.wire import BOXES, CONFIDENCE, IMAGE, MAX_BATCH, MAX_IMAGE_BYTES, ensemble_name, located_name

_PROPOSALS = (
    TensorSpec(BOXES, ("batch", N_REGIONS, 4), "float32"),
    TensorSpec(CONFIDENCE, ("batch", N_REGIONS), "float32"),
)


class InProcessTransport:
    """An opened encoder as a server that has its ensemble and decodes the same bytes.

    encoder: of `open_encoder`; closing leaves it open. localizer: of `open_localizer`; with it there is the located
    ensemble too. A deadline counts until the encoding begins.
    """

    address = "in this process"

    def __init__(self, encoder: Encoder, localizer: Localizer | None = None) -> None:
        self._encoder, self._localizer = encoder, localizer
        card = encoder.bundle.card
        self._regions = card.crops.area != "image"
        parameters = {
            "encoder_digest": encoder.bundle.digest,
            "system": card.system,
            "engine": encoder.engine,
            "embedding_width": str(card.embedding_width),
            CROP_AREA: card.crops.area,
        }
        outputs = tuple(card.tensors[ENCODER]["outputs"])
        models = [ModelDescription(ensemble_name(card.system), outputs, parameters)]
        if localizer is not None and self._regions:
            said = parameters | {"localizer_digest": localizer.digest, BOXES_SOURCE: localizer.source}
            models.append(ModelDescription(located_name(card.system), (*outputs, *_PROPOSALS), said))
        self._models = {model.name: model for model in models}

    def describe(self, model: str, timeout_s: float) -> ModelDescription:  # noqa: ARG002 - nothing to wait for
        """An ensemble; UnknownModel for any other name."""
        if model not in self._models:
            words = f"there is no model {model!r}; the encoder is {next(iter(self._models))}"
            raise UnknownModel(f"{self.address}: {words}")
        return self._models[model]

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """Decode and encode; RequestRefused with the words that a server would use."""
        countdown = Deadline(timeout_s).start()
        if not 1 <= call.rows <= MAX_BATCH:
            words = f"{call.rows} radiographs in one request; 1 to {MAX_BATCH} are taken"
            raise new_error(RequestRefused, words, self.address)
        try:
            images = [_image(row, bytes(content)) for row, content in enumerate(call.inputs[IMAGE][:, 0])]
            radiographs = self._given(images, call.inputs) if BOXES in call.inputs else None
        except InputError as error:
            raise new_error(RequestRefused, f"{type(error).__name__}: {error}", self.address) from None
        countdown.remaining_s()
        if radiographs is not None:
            return self._encode(radiographs)
        proposed = (self._localizer or MeanLayout()).locate([image.pixels for image in images])
        boxed = [image.with_boxes(boxes, proposed.source) for image, boxes in zip(images, proposed.boxes, strict=True)]
        beside = {BOXES: np.stack([boxes.xyxy for boxes in proposed.boxes]), CONFIDENCE: proposed.confidence}
        return {**self._encode(boxed), **beside}

    def _given(self, images: list[RadiographImage], inputs: Tensors) -> list[Radiograph]:
        """The radiographs with the boxes that came with them; an encoder of the whole image does not look at any."""
        if not self._regions:
            return [image.located() for image in images]
        return [
            image.with_boxes(RegionBoxes.from_rows(corners, where=f"image {image.image_id}"))
            for image, corners in zip(images, inputs[BOXES], strict=True)
        ]

    def _encode(self, radiographs: list[Radiograph]) -> Tensors:
        found = self._encoder.encode(radiographs)
        names = [output.name for output in self._encoder.bundle.card.tensors[ENCODER]["outputs"]]
        return {name: found.vectors if name == "embedding" else getattr(found, name) for name in names}

    def close(self) -> None:
        """Nothing to end."""


def _image(row: int, content: bytes) -> RadiographImage:
    if len(content) > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"image {row}: {len(content):,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
    return RadiographFile(str(row), content).decode_image()
