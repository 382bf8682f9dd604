"""Settings of reading: limits that a damaged or hostile file cannot pass, and the key of its identifiers."""

from dataclasses import dataclass, field, fields

from chextriev.errors import InvalidSetting
from chextriev.radiograph import MAX_PIXELS
from chextriev.uid_key import UidKey


@dataclass(frozen=True)
class ReadSettings:
    """What is read, and how much of it.

    max_file_bytes: of a file or of an archive's member, unpacked. max_pixels: of an image. max_inflated_bytes: of a
    DICOM file of the deflated transfer syntax, inflated. max_elements: of a DICOM data set. max_members,
    max_archive_bytes: files of a folder or archive, and their bytes unpacked in all. max_ratio: unpacked bytes a packed
    one, of a member of an archive. decode_timeout_s, decode_memory_bytes: for one DICOM file, in a process of its own.
    key: of the hashes that stand for a DICOM file's identifiers; where None, one that ends with this process. strict:
    refuse DICOM files that do not say body part and view, which are taken as frontal chest otherwise.
    """

    max_file_bytes: int = 256 * 2**20
    max_pixels: int = MAX_PIXELS
    max_inflated_bytes: int = 512 * 2**20
    max_elements: int = 20_000
    max_members: int = 100_000
    max_archive_bytes: int = 64 * 2**30
    max_ratio: int = 250
    decode_timeout_s: float = 60.0
    decode_memory_bytes: int = 2 * 2**30
    key: UidKey | None = field(default=None, repr=False)
    strict: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name not in ("key", "strict") and not value > 0:
                raise InvalidSetting(f"reading: {item.name} is {value!r}; a positive number is needed")
        if self.max_pixels > MAX_PIXELS:
            raise InvalidSetting(f"reading: max_pixels is {self.max_pixels:,}; at most {MAX_PIXELS:,} are read")
        if self.key is not None and not isinstance(self.key, UidKey):
            raise InvalidSetting("reading: key is no UidKey; UidKey.read opens one, UidKey.create makes one")


DEFAULTS = ReadSettings()
"""The settings that are used where none are given."""
