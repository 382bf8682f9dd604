"""Similar cases as a DICOM Structured Report in the query's study.

An Enhanced SR (PS3.3 A.35.2): a container with a text, a number or an image reference an item. It follows no template:
TID 1500 reports measurements of an image and TID 2000 a radiologist's reading, and a list of look-alikes is neither.
Who made it stands in the items of TID 1004 for a device. Concepts that DICOM has no code for have codes of the coding
scheme 99CHEXTRIEV, which the report declares.
"""

import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from chextriev import __version__
from chextriev.errors import ImageError, InvalidSetting, UnreadableImage
from chextriev.hits import Hit
from chextriev.optional import require

SCHEME = "99CHEXTRIEV"
TITLE = "similar-cases", "Similar chest radiographs"
CAUTION = (
    "For research, not for diagnostic use. An encoder found these images similar; that says nothing of this patient."
)
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_NEEDED = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"


def similar_cases_report(
    query: bytes, hits: Sequence[Hit], *, encoder: str, boxes_source: str, remarks: Sequence[str] = ()
) -> bytes:
    """The DICOM file of a report on the DICOM file `query`: rank, similarity, findings and id of each hit.

    encoder: digest of the encoder whose embeddings were compared. boxes_source: who drew the region boxes, in words.
    remarks: what a reader should know of the query. The report names the query's patient, since it is to be filed in
    that study; of the hits it holds the ids of the index, and no patient's. It is unverified and preliminary, as
    nobody has read it. UnreadableImage where `query` is no DICOM file of an image, or one whose dates or sex are none.
    """
    if not encoder or not boxes_source:
        raise InvalidSetting("a report names its encoder's digest and who drew the boxes; one of them is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the values of the patient's file
        image = _evidence(query)
        content = _content(image, hits, [_CAUTION_ITEM, *_provenance(encoder, boxes_source), *_remarks(remarks)])
        try:
            return _file_of(image, content, serial_number=encoder[:64])
        except (ValueError, TypeError, AttributeError):  # they quote those values too
            raise UnreadableImage(
                "the query's sex, dates or times are none, and a report repeats them; mend them in the archive"
            ) from None


def _file_of(image: Any, content: Any, *, serial_number: str) -> bytes:
    highdicom = require("highdicom", extra="dicomweb")
    report = highdicom.sr.EnhancedSR(
        evidence=[image],
        content=content,
        series_instance_uid=highdicom.UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="chextriev",
        manufacturer_model_name="chextriev",
        software_versions=__version__,
        device_serial_number=serial_number,
        series_description=TITLE[1],
        is_complete=True,
        specific_character_set="ISO_IR 192",
    )
    report.CodingSchemeIdentificationSequence = [_scheme()]
    buffer = BytesIO()
    report.save_as(buffer)
    return buffer.getvalue()


_SERIES_NUMBER = 9401  # any that an archive's own modalities do not use
_CAUTION_ITEM = (("121106", "DCM", "Comment"), CAUTION)


def _evidence(query: bytes) -> Any:
    """The query's attributes without its pixels, with those empty that a report needs and the query lacks."""
    pydicom = require("pydicom", extra="dicomweb")
    try:
        image = pydicom.dcmread(BytesIO(query), stop_before_pixels=True)
        if not all(image.get(name) for name in _NEEDED):
            raise UnreadableImage("the query lacks the UIDs that a report refers to; it needs those of a DICOM image")
        for name in _TYPE_2:
            if name not in image:
                setattr(image, name, None if name in ("StudyDate", "StudyTime") else "")
    except ImageError:
        raise
    except (pydicom.errors.InvalidDicomError, ValueError, TypeError, AttributeError, EOFError, KeyError):
        raise UnreadableImage("the query is no DICOM file; a report is filed in the study of a DICOM image") from None
    return image


def _provenance(encoder: str, boxes_source: str) -> list[tuple[tuple[str, str, str], str]]:
    return [
        (("111001", "DCM", "Algorithm Name"), "chextriev"),
        (("111003", "DCM", "Algorithm Version"), __version__),
        (("encoder-digest", SCHEME, "Digest of the encoder"), encoder),
        (("boxes-source", SCHEME, "Source of the region boxes"), boxes_source),
    ]


def _remarks(remarks: Sequence[str]) -> list[tuple[tuple[str, str, str], str]]:
    return [(("121106", "DCM", "Comment"), remark) for remark in remarks]


def _content(image: Any, hits: Sequence[Hit], texts: Sequence[tuple[tuple[str, str, str], str]]) -> Any:
    sr = require("highdicom.sr", extra="dicomweb")
    root = _container(TITLE, None)
    device = sr.ObserverContext(
        observer_type=sr.CodedConcept("121007", "DCM", "Device"),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_device_uid(), name="chextriev", manufacturer_name="chextriev", model_name=f"chextriev {__version__}"
        ),
    )
    items = [*device, *(_text(name, value) for name, value in texts)]
    query = sr.ImageContentItem(
        name=_concept("query-image", SCHEME, "Image that similar cases were looked for"),
        referenced_sop_class_uid=image.SOPClassUID,
        referenced_sop_instance_uid=image.SOPInstanceUID,
        relationship_type="CONTAINS",
    )
    root.ContentSequence = sr.ContentSequence(
        [*items, query, *(_case(rank, hit) for rank, hit in enumerate(hits, start=1))], is_root=False
    )
    return root


def _case(rank: int, hit: Hit) -> Any:
    sr = require("highdicom.sr", extra="dicomweb")
    case = _container(("similar-case", "Similar case"), "CONTAINS")
    number = sr.CodedConcept("1", "UCUM", "no units")
    items = [
        _number("rank", "Rank", rank, number),
        _number("similarity", "Cosine similarity", round(float(hit.score), 6), number),
        _text(("image-id", SCHEME, "Id in the index"), str(hit.image_id)),
        *(_text(("121071", "DCM", "Finding"), finding) for finding in hit.findings),
    ]
    case.ContentSequence = sr.ContentSequence(items, is_root=False)
    return case


def _number(code: str, meaning: str, value: float, unit: Any) -> Any:
    sr = require("highdicom.sr", extra="dicomweb")
    return sr.NumContentItem(name=_concept(code, SCHEME, meaning), value=value, unit=unit, relationship_type="CONTAINS")


def _text(name: tuple[str, str, str], value: str) -> Any:
    sr = require("highdicom.sr", extra="dicomweb")
    return sr.TextContentItem(name=_concept(*name), value=value, relationship_type="CONTAINS")


def _container(code: tuple[str, str], relationship: str | None) -> Any:
    sr = require("highdicom.sr", extra="dicomweb")
    return sr.ContainerContentItem(name=_concept(code[0], SCHEME, code[1]), relationship_type=relationship)


def _concept(value: str, scheme: str, meaning: str) -> Any:
    return require("highdicom.sr", extra="dicomweb").CodedConcept(value, scheme, meaning)


def _device_uid() -> str:
    """One for this program: the UID of a name (PS3.5 B.2 takes a UUID, RFC 9562 makes one of a name)."""
    import uuid

    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'chextriev').int}"


def _scheme() -> Any:
    scheme = require("pydicom", extra="dicomweb").Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Concepts of chextriev's reports"
    return scheme
