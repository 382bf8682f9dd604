"""Identifiers planted in radiographs, and a search for them in whatever bytes somebody wrote."""

import base64
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset

from tests.dicom_files import JPEG_LS, as_bytes, chest, data_set

ROOT = "1.2.826.0.1.3680043.77.88123"
ELEMENTS = {
    "PatientName": "Quisenberry^Thaddeus^Zoltan",
    "PatientID": "MRN-QX4471309",
    "IssuerOfPatientID": "Sanktblasius-Register",
    "OtherPatientIDs": "ALT-QX5523",
    "PatientBirthDate": "19230417",
    "PatientAddress": "Holunderweg 7731, Entenhausen",
    "PatientTelephoneNumbers": "+49-555-0199321",
    "EthnicGroup": "Planted-group",
    "PatientComments": "lives with his sister Wilhelmine",
    "AccessionNumber": "ACCQX90871",
    "StudyID": "STUDYQX118",
    "StudyDate": "19870629",
    "AcquisitionDate": "19870630",
    "ContentTime": "074153.771",
    "StudyDescription": "thorax for Doctor Brombeere",
    "SeriesDescription": "series of Quisenberry",
    "ImageComments": "seen by nurse Kunigunde",
    "InstitutionName": "Sankt-Blasius-Spital",
    "InstitutionAddress": "Spitalgasse 4417",
    "ReferringPhysicianName": "Brombeere^Ottokar",
    "OperatorsName": "Kunigunde^Berta",
    "StationName": "STATQX17",
    "DeviceSerialNumber": "SERQX889123",
    "ProtocolName": "protocol-of-Brombeere",
    "RequestedProcedureDescription": "asked by Brombeere",
}
WORDS = (
    *("quisenberry", "thaddeus", "zoltan", "mrn-qx4471309", "sanktblasius", "alt-qx5523", "19230417", "1923-04-17"),
    *("holunderweg", "0199321", "wilhelmine", "accqx90871", "studyqx118", "19870629", "1987-06-29", "19870630"),
    *("074153.771", "brombeere", "kunigunde", "sankt-blasius", "spitalgasse", "statqx17", "serqx889123", ROOT),
    *("privatus-qx", "nested-qx", "planted-group"),
)
"""What no artefact may hold, lower case. They are long enough to stand in no file by chance."""


def write_planted(folder: Path, count: int) -> None:
    """DICOM files, one damaged, one lateral, and pictures with text in their headers; the names are patients'."""
    folder.mkdir()
    for number in range(count):
        syntax = JPEG_LS if number % 2 else "1.2.840.10008.1.2.1"
        (folder / f"Quisenberry_Thaddeus_{number}.dcm").write_bytes(planted_dicom(number, syntax=syntax))
    (folder / "Quisenberry_lateral.dcm").write_bytes(planted_dicom(count, ViewPosition="LL"))
    whole = planted_dicom(count + 1)
    (folder / "Quisenberry_short.dcm").write_bytes(whole[: len(whole) - 9000])
    (folder / "Quisenberry_odd.dcm").write_bytes(
        planted_dicom(count + 2, PatientAge="Wilhelmine", Modality="Brombeere")
    )
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", ELEMENTS["PatientName"])
    text.add_itxt("Comment", ELEMENTS["PatientComments"], zip=True)
    picture = Image.fromarray((chest(8)[::-1] // 2 + 20).astype("uint8"))
    picture.save(folder / "Quisenberry_film.png", pnginfo=text)
    picture.save(folder / "Quisenberry_film.jpg", comment=ELEMENTS["PatientName"].encode())
    (folder / "Quisenberry_letter.txt").write_text("Dear Thaddeus")


def planted_dicom(number: int, *, syntax: str = "1.2.840.10008.1.2.1", **changes: object) -> bytes:
    """A DICOM file with an identifier wherever one may stand: attributes, a sequence, a private group, the preamble."""
    uids = {name: f"{ROOT}.{kind}.{number}" for kind, name in enumerate(("StudyInstanceUID", "SeriesInstanceUID"), 1)}
    instance = f"{ROOT}.3.{number}"
    levels = chest(12, height=150 + 8 * number, width=140)
    patient = f"{ELEMENTS['PatientID']}-{number}"
    own = {"PatientID": patient, "SOPInstanceUID": instance, "PatientAge": "064Y"}
    data = data_set(levels, **{**ELEMENTS, **uids, **own, **changes})
    data.file_meta.MediaStorageSOPInstanceUID = instance
    item = Dataset()
    item.PatientID, item.RequestedProcedureComments = "nested-qx", "nested-qx"
    data.RequestAttributesSequence = [item]
    block = data.private_block(0x4321, "privatus-qx", create=True)
    block.add_new(0x01, "LO", "privatus-qx of Quisenberry")
    content = bytearray(as_bytes(data, syntax))
    content[:12] = b"Quisenberry "
    return bytes(content)


def found_in(content: bytes, words: Iterable[str] = WORDS) -> set[str]:
    """The words that stand in some bytes: plain, UTF-16, base64, hexadecimal, or within zip, gzip, PNG and Parquet."""
    found: set[str] = set()
    for form in _unpacked(content):
        lower = form.lower()
        found |= {word for word in words if any(code in lower for code in _plain(word))}
        found |= {word for word in words if any(code in form for code in _base64(word))}
    return found


def found_under(*folders: Path) -> dict[str, set[str]]:
    """Of every file that holds a word, or whose name does, which ones; links are looked at by name."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            words = found_in(str(path.relative_to(folder)).encode())
            if path.is_file() and not path.is_symlink():
                words |= found_in(path.read_bytes())
            if words:
                found[str(path)] = words
    return found


def _plain(word: str) -> tuple[bytes, ...]:
    return word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be"), word.encode().hex().encode()


def _base64(word: str) -> Iterator[bytes]:
    """What of a word's base64 depends on nothing before or after it, at each of three places, in three spellings."""
    for text in (word, word.title(), word.upper()):
        for before in range(3):
            coded = base64.b64encode(b"\0" * before + text.encode())
            yield coded[4 if before else 0 : len(coded) // 4 * 4 - 4]


def _unpacked(content: bytes) -> Iterator[bytes]:
    yield content
    if content[:4] == b"PK\3\4":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _unpacked(archive.read(name))
    elif content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    elif content[:4] == b"PAR1":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(io.BytesIO(content))
        yield repr(table.to_pydict()).encode()
        yield repr(table.schema.metadata).encode()
    elif content[:4] == b"\x89PNG":
        with Image.open(io.BytesIO(content)) as image:
            yield repr(image.info).encode()
    elif content[:1] == b"\x78":
        inflater = zlib.decompressobj()
        try:
            yield inflater.decompress(content, 2**24)
        except zlib.error:
            return
