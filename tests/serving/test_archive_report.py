"""The Structured Report of similar cases: what it says, what it refers to, and what of a patient it holds."""

import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import pydicom
import pytest

from chextriev.errors import InvalidSetting, UnreadableImage
from chextriev.hits import Hit
from chextriev.serving.archive import similar_cases_report
from tests.dicom_files import as_bytes, data_set

DIGEST = "0123456789abcdef" * 4
HITS = (
    Hit("first-hash", "study-of-hit", "patient-of-hit", 0.9123456, ("pneumonia", "atelectasis"), "PA", "F", 60),
    Hit(17, None, None, 0.5, (), None, None, None),
)


def query(**changes: Any) -> bytes:
    values = {"SeriesInstanceUID": "1.2.3.4.9", "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    return as_bytes(data_set(**{**values, **changes}))


def report(content: bytes | None = None, **changes: Any) -> pydicom.Dataset:
    values = {"encoder": DIGEST, "boxes_source": "mean layout", "remarks": ["burned-in text: 1 place"], **changes}
    return pydicom.dcmread(BytesIO(similar_cases_report(query() if content is None else content, HITS, **values)))


def texts(items: Any, meaning: str) -> list[str]:
    found = [item for item in items if item.ConceptNameCodeSequence[0].CodeMeaning == meaning]
    return [str(item.TextValue) for item in found]


def test_it_reads_back_as_an_enhanced_report_of_the_querys_study() -> None:
    made = highdicom.sr.EnhancedSR.from_dataset(report())
    assert (made.StudyInstanceUID, made.PatientID, str(made.PatientName)) == ("1.2.3.4", "Planted-0815", "Müller^Jörg")
    assert (made.Modality, made.VerificationFlag, made.PreliminaryFlag) == ("SR", "UNVERIFIED", "PRELIMINARY")
    (evidence,) = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert evidence.SeriesInstanceUID == "1.2.3.4.9"
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    assert made.SeriesInstanceUID != "1.2.3.4.9"


def test_each_case_has_rank_similarity_id_and_findings() -> None:
    cases = [item for item in report().ContentSequence if item.ValueType == "CONTAINER"]
    assert [texts(case.ContentSequence, "Id in the index") for case in cases] == [["first-hash"], ["17"]]
    assert [texts(case.ContentSequence, "Finding") for case in cases] == [["pneumonia", "atelectasis"], []]
    numbers = [
        [float(item.MeasuredValueSequence[0].NumericValue) for item in case.ContentSequence if item.ValueType == "NUM"]
        for case in cases
    ]
    assert numbers == [[1, 0.912346], [2, 0.5]]


def test_it_says_what_made_it_and_what_it_is_not_for() -> None:
    items = report().ContentSequence
    assert texts(items, "Digest of the encoder") == [DIGEST]
    assert texts(items, "Source of the region boxes") == ["mean layout"]
    caution, remark = texts(items, "Comment")
    assert "not for diagnostic use" in caution
    assert remark == "burned-in text: 1 place"
    assert report().CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99CHEXTRIEV"


def test_it_holds_no_patient_of_the_hits_and_no_pixel() -> None:
    made = similar_cases_report(query(), HITS, encoder=DIGEST, boxes_source="given")
    assert b"patient-of-hit" not in made
    assert b"study-of-hit" not in made
    assert "PixelData" not in pydicom.dcmread(BytesIO(made))


def test_two_reports_of_one_query_are_two_objects() -> None:
    assert report().SOPInstanceUID != report().SOPInstanceUID


@pytest.mark.parametrize("missing", ["PatientID", "PatientName", "PatientBirthDate", "PatientSex"])
def test_a_query_without_what_a_report_may_leave_empty_is_reported_on(missing: str) -> None:
    assert not report(query(**{missing: None})).get(missing)


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
def test_a_query_that_cannot_be_referred_to_is_refused(missing: str) -> None:
    with pytest.raises(UnreadableImage, match="lacks the UIDs"):
        report(query(**{missing: None}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["PatientSex", "StudyDate", "StudyTime", "PatientBirthDate"])
def test_a_value_that_a_report_cannot_repeat_is_refused_unquoted(name: str) -> None:
    content = query(**{name: "20010101"}).replace(b"20010101", b"Planted!")
    with pytest.raises(UnreadableImage, match="sex, dates or times") as caught:
        report(content)
    assert "Planted" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_what_is_no_dicom_file_and_a_nameless_encoder_are_refused() -> None:
    with pytest.raises(UnreadableImage, match="no DICOM file"):
        report(b"\xff\xd8\xff a JPEG file")
    with pytest.raises(InvalidSetting, match="one of them is empty"):
        report(encoder="")


@pytest.mark.skipif(not shutil.which("dsrdump"), reason="dcmtk is not installed; run: make system-deps")
def test_another_librarys_reader_finds_no_fault(tmp_path: Path) -> None:
    """DCMTK checks the document's tree against the constraints of its SOP class, and says what violates them."""
    report().save_as(tmp_path / "report.dcm")
    done = subprocess.run(["dsrdump", tmp_path / "report.dcm"], capture_output=True, text=True, check=True)
    assert "Enhanced SR Document" in done.stdout
    assert done.stderr.replace("W: The VR checker does not support this Specific Character Set: ISO_IR 192", "") == "\n"
