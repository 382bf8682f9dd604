"""An encoder in this process behind the interface of a server: what tests, notebooks and comparisons use."""

from collections.abc import Iterator

from chextriev.bundle import ENCODER
from chextriev.encoder import Encoder
from chextriev.errors import InputError, RequestRefused, UnknownModel, UnreadableImage
from chextriev.radiograph import Radiograph, RegionBoxes
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client.deadline import Deadline
from chextriev.serving.client.statuses import new_error
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.wire import BOXES, IMAGE, MAX_BATCH, MAX_IMAGE_BYTES, ensemble_name


class InProcessTransport:
    """An opened encoder as a server that has one ensemble and decodes the same bytes.

    encoder: of `open_encoder`; closing leaves it open. A deadline counts until the encoding begins.
    """

    address = "in this process"

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        card = encoder.bundle.card
        parameters = {
            "encoder_digest": encoder.bundle.digest,
            "system": card.system,
            "engine": encoder.engine,
            "embedding_width": str(card.embedding_width),
        }
        outputs = tuple(card.tensors[ENCODER]["outputs"])
        self._model = ModelDescription(ensemble_name(card.system), outputs, parameters)

    def describe(self, model: str, timeout_s: float) -> ModelDescription:  # noqa: ARG002 - nothing to wait for
        """The one ensemble; UnknownModel for any other name."""
        if model != self._model.name:
            words = f"there is no model {model!r}; the encoder is {self._model.name}"
            raise UnknownModel(f"{self.address}: {words}")
        return self._model

    def infer(self, call: Call, timeout_s: float) -> Tensors:
        """Decode and encode; RequestRefused with the words that a server would use."""
        countdown = Deadline(timeout_s).start()
        if not 1 <= call.rows <= MAX_BATCH:
            words = f"{call.rows} radiographs in one request; 1 to {MAX_BATCH} are taken"
            raise new_error(RequestRefused, words, self.address)
        try:
            radiographs = list(_decoded(call.inputs))
        except InputError as error:
            raise new_error(RequestRefused, f"{type(error).__name__}: {error}", self.address) from None
        countdown.remaining_s()
        found = self._encoder.encode(radiographs)
        names = {output.name for output in self._model.outputs} - {"embedding"}
        return {"embedding": found.vectors, **{name: getattr(found, name) for name in names}}

    def close(self) -> None:
        """Nothing to end."""


def _decoded(inputs: Tensors) -> Iterator[Radiograph]:
    for row, (content, corners) in enumerate(zip(inputs[IMAGE][:, 0], inputs[BOXES], strict=True)):
        if len(content) > MAX_IMAGE_BYTES:
            raise UnreadableImage(f"image {row}: {len(content):,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
        boxes = RegionBoxes.from_rows(corners, where=f"image {row}")
        yield RadiographFile(str(row), bytes(content), boxes).decode()
