"""What the header of a DICOM file says, as far as reading needs it: names, dates and free text are never looked at."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chextriev.errors import UnsuitableImage
from chextriev.radiograph import View

MODALITIES = ("CR", "DX", "RG")
_OTHER_MODALITIES = frozenset(
    {
        *("AU", "BI", "BMD", "CT", "DG", "DOC", "ECG", "ES", "GM", "HC", "IO", "IVUS", "KO", "LS", "MG", "MR", "NM"),
        *("OCT", "OP", "OT", "PR", "PT", "PX", "REG", "RF", "RTDOSE", "RTIMAGE", "RTPLAN", "RTSTRUCT", "SC", "SEG"),
        *("SM", "SR", "TG", "US", "XA", "XC"),
    }
)
CHEST = frozenset({"CHEST", "THORAX"})
_OTHER_PARTS = frozenset(
    {
        *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CHESTABDOMEN", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR"),
        *("FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK"),
        *("PELVIS", "RIB", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THIGH", "TSPINE", "WHOLEBODY", "WRIST"),
    }
)
"""What errors may repeat; another text in these elements could be anything."""
_FRONTAL: dict[str, View] = {
    "AP": "AP",
    "PA": "PA",
    "399348003": "AP",  # SNOMED CT, antero-posterior
    "R-10206": "AP",  # SNOMED RT, of older files
    "272479007": "PA",
    "R-10214": "PA",
}
_LATERAL = {
    **dict.fromkeys(("LL", "RL", "LATERAL", "LAT", "LLD", "RLD"), "lateral"),
    **dict.fromkeys(("399067008", "399173006", "399198007", "30730003"), "lateral"),
    **dict.fromkeys(("R-10236", "R-10232"), "lateral"),
    **dict.fromkeys(("LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBLIQUE"), "oblique"),
}
_UNSTATED = frozenset({"", "399033003", "R-10202"})  # frontal, which of the two it does not say


@dataclass(frozen=True)
class Facts:
    """What is read of a DICOM header beside its pixels.

    patient, study, image: the identifiers themselves, which leave only as keyed hashes. turn: how the pixels are to be
    turned, as `turned_upright` takes it.
    """

    patient: str
    study: str
    image: str
    view: View | None
    sex: str | None
    age: int | None
    turn: str
    remarks: tuple[str, ...]


def read_facts(data: Any, *, strict: bool = False) -> Facts:
    """The facts of a pydicom data set; UnsuitableImage where it is no frontal chest radiograph."""
    remarks: list[str] = []
    check_modality(data)
    _check_body_part(data, remarks, strict=strict)
    view = _view(data, strict=strict)
    turn = _turn(_texts(data, "PatientOrientation"))
    if turn != "LF":
        remarks.append("turned or mirrored to the usual position, as its patient orientation says")
    if text_of(data, "BurnedInAnnotation") == "YES":
        remarks.append("burned-in text: the file says that there is some")
    if text_of(data, "PresentationIntentType") == "FOR PROCESSING":
        remarks.append(
            "made for processing, not for presentation: its contrast may be unlike that of other radiographs"
        )
    if not _square(data):
        remarks.append("its pixels are not square; they are kept as they are")
    patient = _raw_text(data, "PatientID")
    return Facts(
        patient=f"{patient}\\{_raw_text(data, 'IssuerOfPatientID')}" if patient else "",
        study=_raw_text(data, "StudyInstanceUID"),
        image=_raw_text(data, "SOPInstanceUID"),
        view=view,
        sex={"F": "F", "M": "M"}.get(text_of(data, "PatientSex")),
        age=_age_band(text_of(data, "PatientAge")),
        turn=turn,
        remarks=tuple(remarks),
    )


def check_modality(data: Any) -> None:
    """Raise UnsuitableImage for what is no projection radiograph of one grey frame."""
    modality = text_of(data, "Modality")
    if modality not in MODALITIES:
        named = modality if modality in _OTHER_MODALITIES else "none that is known" if modality else "not said"
        raise UnsuitableImage(f"its modality is {named}; {', '.join(MODALITIES)} are read")
    samples, frames = _number(data, "SamplesPerPixel", 1), _number(data, "NumberOfFrames", 1)
    if samples != 1 or text_of(data, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsuitableImage("a colour image; MONOCHROME1 and MONOCHROME2 are read")
    if frames != 1:
        raise UnsuitableImage(f"{frames:,} frames; one is read: save the one that is wanted")


def _check_body_part(data: Any, remarks: list[str], *, strict: bool) -> None:
    part = text_of(data, "BodyPartExamined")
    words = set(part.replace("_", " ").replace("-", " ").split())
    if words & CHEST:
        return
    if part:
        named = part if part in _OTHER_PARTS else "another one"
        raise UnsuitableImage(f"its body part is {named}; {' and '.join(sorted(CHEST))} are read")
    if strict:
        raise UnsuitableImage("it does not say its body part; read it without strict to take it as a chest")
    remarks.append("it does not say its body part; taken as a chest")


def _view(data: Any, *, strict: bool) -> View | None:
    stated = [text_of(data, "ViewPosition"), *(text_of(item, "CodeValue") for item in _items(data, "ViewCodeSequence"))]
    orientation = _texts(data, "PatientOrientation")
    if any(text[:1] in ("A", "P") for text in orientation):
        raise UnsuitableImage("a lateral view, by its patient orientation; AP and PA are read")
    for text in stated:
        if text in _LATERAL or text.startswith(("LAT", "L LAT", "R LAT", "OBL")):
            raise UnsuitableImage(f"a view that is {_LATERAL.get(text, 'lateral or oblique')}; AP and PA are read")
    views = [_FRONTAL[text] for text in stated if text in _FRONTAL]
    if not views and any(text not in _UNSTATED for text in stated):
        raise UnsuitableImage("a view that is neither AP nor PA; those are read")
    if not views and strict:
        raise UnsuitableImage("it does not say its view; read it without strict to take it as frontal")
    return views[0] if views else None


def _turn(orientation: list[str]) -> str:
    """Where the rows and columns run to: L or R, and F (foot) or H (head), as of "LF"; that where nothing is said."""
    if len(orientation) != 2:
        return "LF"
    row, column = (text[:1] for text in orientation)
    if {row, column} & {"L", "R"} and {row, column} & {"F", "H"}:
        return row + column
    return "LF"


def _age_band(text: str) -> int | None:
    """The lower end of the band of ten years, 90 for 90 and above; of "045Y", "011M", "003W" or "020D"."""
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in "YMWD":
        return None
    years = int(text[:3]) // {"Y": 1, "M": 12, "W": 52, "D": 365}[text[3]]
    return min(years // 10 * 10, 90)


def _square(data: Any) -> bool:
    for name in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        sides = data.get(name)
        if sides is not None and not isinstance(sides, str) and len(sides) == 2:
            down, across = float(sides[0]), float(sides[1])
            return abs(down - across) <= 0.01 * abs(across)
    return True


def _items(data: Any, name: str) -> Iterable[Any]:
    return data.get(name) or ()


def text_of(data: Any, name: str) -> str:
    """An attribute in capitals, as the standard has its codes; empty where there is none."""
    return _raw_text(data, name).upper()


def _raw_text(data: Any, name: str) -> str:
    value = data.get(name)
    return "" if value is None else str(value).strip(" \0")


def _texts(data: Any, name: str) -> list[str]:
    value = data.get(name)
    if value is None or isinstance(value, str):
        return [value.strip().upper()] if value else []
    return [str(text).strip().upper() for text in value]


def _number(data: Any, name: str, default: int) -> int:
    value = data.get(name)
    return default if value is None else int(value)
