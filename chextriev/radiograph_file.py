"""A radiograph as it travels: the bytes of its file and the boxes of its regions, not yet decoded."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import MissingFile
from chextriev.radiograph import Radiograph, RegionBoxes, decode_pixels, raw_image, read_boxes


@dataclass(frozen=True, eq=False)
class RadiographFile:
    """What a client sends and a server decodes.

    content: the bytes of a JPEG or PNG file, or raw pixels as `raw_image` writes them. A tenth to a fiftieth of the
    crops that an encoder needs, which the server cuts.
    """

    image_id: str
    content: bytes
    boxes: RegionBoxes

    @classmethod
    def from_path(
        cls, path: str | Path, boxes: RegionBoxes | str | Path, *, image_id: str | None = None
    ) -> "RadiographFile":
        """A file with its boxes, or the file that holds them (see `read_boxes`); the id is its stem unless given."""
        path = Path(path)
        name = image_id or path.stem
        region_boxes = boxes if isinstance(boxes, RegionBoxes) else read_boxes(boxes, image_id=name)
        try:
            return cls(name, path.read_bytes(), region_boxes)
        except OSError as error:
            raise MissingFile(f"{path}: {error.strerror}; give a JPEG or PNG file") from None

    @classmethod
    def from_radiograph(cls, radiograph: Radiograph) -> "RadiographFile":
        """A decoded radiograph, its pixels sent as they are."""
        return cls(radiograph.image_id, raw_image(radiograph.pixels), radiograph.boxes)

    def decode(self) -> Radiograph:
        """The radiograph; UnreadableImage, EmptyImage or BoxOutside where it is none."""
        return Radiograph(self.image_id, decode_pixels(self.content, where=f"image {self.image_id}"), self.boxes)
