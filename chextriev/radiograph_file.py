"""A radiograph as it travels: the bytes of its file and the boxes of its regions, not yet decoded."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import MissingFile, MissingRegion
from chextriev.radiograph import GIVEN, Radiograph, RegionBoxes, decode_pixels, raw_image, read_boxes
from chextriev.radiograph_image import RadiographImage
from chextriev.reading import DEFAULTS, ReadSettings
from chextriev.reading.opened import travelling


@dataclass(frozen=True, eq=False)
class RadiographFile:
    """What a client sends and a server decodes.

    content: the bytes of a JPEG or PNG file, or raw pixels as `raw_image` writes them. A tenth to a fiftieth of the
    crops that an encoder needs, which the server cuts. boxes: None where the server's localizer is to propose them.
    boxes_source: in words, who or what drew them, if there are any.
    """

    image_id: str
    content: bytes
    boxes: RegionBoxes | None = None
    boxes_source: str = GIVEN

    @classmethod
    def from_path(
        cls,
        path: str | Path,
        boxes: RegionBoxes | str | Path | None = None,
        *,
        image_id: str | None = None,
        settings: ReadSettings = DEFAULTS,
    ) -> "RadiographFile":
        """A file with its boxes, or the file that holds them (see `read_boxes`).

        A JPEG or PNG file of 8 bits travels as it is. A DICOM file never travels: it is decoded here and its pixels are
        sent, as are those of other pictures. The id is the file's stem, or for DICOM a keyed hash, unless given.
        """
        path = Path(path)
        if not path.exists():
            raise MissingFile(f"{path}: No such file or directory; give a DICOM, JPEG or PNG file")
        name, content = travelling(path, image_id=image_id, settings=settings)
        given = boxes if isinstance(boxes, RegionBoxes | None) else read_boxes(boxes, image_id=name)
        return cls(name, content, given)

    @classmethod
    def from_bytes(
        cls,
        content: bytes,
        boxes: RegionBoxes | None = None,
        *,
        image_id: str | None = None,
        settings: ReadSettings = DEFAULTS,
    ) -> "RadiographFile":
        """`from_path` of a file's bytes; the id is "image", or for DICOM a keyed hash, unless given."""
        name, sent = travelling(content, image_id=image_id, settings=settings)
        return cls(name, sent, boxes)

    @classmethod
    def from_radiograph(cls, radiograph: Radiograph | RadiographImage) -> "RadiographFile":
        """A decoded radiograph, its pixels sent as they are, and without identifiers but the image's."""
        content = raw_image(radiograph.pixels)
        if isinstance(radiograph, Radiograph):
            return cls(radiograph.image_id, content, radiograph.boxes, radiograph.boxes_source)
        return cls(radiograph.image_id, content)

    @property
    def region_boxes(self) -> RegionBoxes:
        """The boxes; MissingRegion where there are none."""
        if self.boxes is None:
            raise MissingRegion(f"image {self.image_id}: no boxes; give those of all 18 regions")
        return self.boxes

    def decode_image(self) -> RadiographImage:
        """The radiograph without its boxes; UnreadableImage or EmptyImage where it is none."""
        return RadiographImage(self.image_id, decode_pixels(self.content, where=f"image {self.image_id}"))

    def decode(self) -> Radiograph:
        """The radiograph; UnreadableImage, EmptyImage, MissingRegion or BoxOutside where it is none."""
        return self.decode_image().with_boxes(self.region_boxes, self.boxes_source)
