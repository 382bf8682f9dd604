"""A radiograph without boxes: what a file yields, before anybody or a localizer says where the regions are."""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from chextriev.errors import UnreadableImage
from chextriev.radiograph import GIVEN, Radiograph, RegionBoxes, View

if TYPE_CHECKING:
    from chextriev.localizer import Localizer
    from chextriev.uid_key import UidKey


@dataclass(frozen=True, eq=False)
class RadiographImage:
    """One frontal chest image and what its file says of it that no person can be known by.

    pixels: [height, width] uint8, air dark. study_id, patient_id: keyed hashes (`chextriev.uid_key`) of what a DICOM
    file says, None for pictures. sex: "F" or "M". age: in years, the lower end of the band of ten years, 90 for 90 and
    above. None where unknown. remarks: what a reader should know of the file, a sentence each.
    """

    image_id: str
    pixels: npt.NDArray[np.uint8]
    study_id: str | None = None
    patient_id: str | None = None
    view: View | None = None
    sex: str | None = None
    age: int | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype != np.uint8:
            kind = f"{list(self.pixels.shape)} {self.pixels.dtype}"
            raise UnreadableImage(f"image {self.image_id}: pixels are {kind}; [height, width] uint8 is needed")

    @property
    def is_picture(self) -> bool:
        """Whether its file says nothing of a patient or a study, as JPEG and PNG files do not."""
        return self.study_id is None and self.patient_id is None

    def named_by(self, key: "UidKey") -> "RadiographImage":
        """The same image; of a picture with a keyed hash of its pixels as id, which is that of no file's name."""
        if not self.is_picture:
            return self
        digest = hashlib.sha256(f"{self.pixels.shape} ".encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return replace(self, image_id=key.hash(digest.hexdigest(), kind="image"))

    def with_boxes(self, boxes: RegionBoxes, source: str = GIVEN) -> Radiograph:
        """The radiograph with these boxes, in pixels of the image; source: in words, who or what drew them."""
        return Radiograph(
            image_id=self.image_id,
            pixels=self.pixels,
            boxes=boxes,
            study_id=self.study_id,
            patient_id=self.patient_id,
            view=self.view,
            sex=self.sex,
            age=self.age,
            boxes_source=source,
            remarks=self.remarks,
        )

    def located(self, localizer: "Localizer | None" = None) -> Radiograph:
        """The radiograph with the boxes that a localizer proposes, or the mean layout where there is none."""
        from chextriev.localizer import MeanLayout  # that module imports much

        found = (localizer or MeanLayout()).locate([self.pixels])
        return self.with_boxes(found.boxes[0], found.source)
