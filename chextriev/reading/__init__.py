"""Reading radiographs: DICOM, JPEG and PNG files, folders and zip archives of them, by what they hold."""

from chextriev.reading.opened import read_image, read_images
from chextriev.reading.settings import DEFAULTS, ReadSettings

__all__ = ["DEFAULTS", "ReadSettings", "read_image", "read_images"]
