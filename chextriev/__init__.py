"""Anatomy-aware retrieval of chest radiographs: the nouns, and the two doors most programs need.

Not a medical device.
"""

from chextriev.anatomy import Finding, Region
from chextriev.bundle import EncoderBundle, open_bundle
from chextriev.encoder import Embeddings, Encoder, open_encoder
from chextriev.errors import ChextrievError
from chextriev.radiograph import Radiograph, RegionBoxes, read_boxes, read_radiograph
from chextriev.radiograph_image import RadiographImage
from chextriev.reading import ReadSettings, read_image, read_images
from chextriev.study_table import StudyTable, read_study_table
from chextriev.systems import SYSTEMS, SystemSpec, find_system
from chextriev.variants import VARIANTS, VariantSpec

__version__ = "0.1.0"
__all__ = [
    "SYSTEMS",
    "VARIANTS",
    "ChextrievError",
    "Embeddings",
    "Encoder",
    "EncoderBundle",
    "Finding",
    "Radiograph",
    "RadiographImage",
    "ReadSettings",
    "Region",
    "RegionBoxes",
    "StudyTable",
    "SystemSpec",
    "VariantSpec",
    "find_system",
    "open_bundle",
    "open_encoder",
    "read_boxes",
    "read_image",
    "read_images",
    "read_radiograph",
    "read_study_table",
]
