"""DICOM files: read in a process of their own, and named by keyed hashes."""

import hashlib
from functools import cache

import numpy as np

from chextriev import errors
from chextriev.errors import UnreadableImage
from chextriev.radiograph_image import RadiographImage
from chextriev.reading.decoders import DECODERS
from chextriev.reading.facts import Facts
from chextriev.reading.settings import ReadSettings
from chextriev.uid_key import UidKey

NO_KEY = (
    "its identifiers are hashed with a key of this process alone: its patient is known again within it, not in an index"
    " or another run"
)
_PASSED_ON = ("UnreadableImage", "UnsuitableImage", "EmptyImage", "MissingDependency")


def read_dicom(content: bytes, settings: ReadSettings, *, where: str, image_id: str | None = None) -> RadiographImage:
    """The radiograph of a DICOM file; ImageError, in words that hold none of its values, where it is none."""
    try:
        header, raw = DECODERS.ask(content, settings)
    except UnreadableImage as error:
        raise UnreadableImage(f"{where}: {error}") from None
    if (name := header.get("error")) in _PASSED_ON:
        raise getattr(errors, name)(f"{where}: {header['words']}")
    facts = Facts(**header["facts"])
    key = settings.key or process_key()
    return RadiographImage(
        image_id=image_id or key.hash(facts.image or hashlib.sha256(content).hexdigest(), kind="image"),
        pixels=np.frombuffer(raw, np.uint8).reshape(header["shape"]),
        study_id=key.hash(facts.study, kind="study") if facts.study else None,
        patient_id=key.hash(facts.patient, kind="patient") if facts.patient else None,
        view=facts.view,
        sex=facts.sex,
        age=facts.age,
        remarks=(*facts.remarks, *(() if settings.key else (NO_KEY,))),
    )


@cache
def process_key() -> UidKey:
    """The key of those who give none."""
    return UidKey.random()
