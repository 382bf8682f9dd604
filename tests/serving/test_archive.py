"""A radiograph from a real archive, and a report back to it."""

import logging
from collections.abc import Iterator
from io import BytesIO

import pydicom
import pytest

from chextriev.errors import InvalidSetting, RequestRefused, ServerFailed
from chextriev.hits import Hit
from chextriev.reading import read_image
from chextriev.serving.archive import ArchiveSettings, Candidate, Credentials, DicomWebArchive, similar_cases_report
from tests.dicom_files import JPEG_LS, PLANTED, as_bytes, data_set
from tests.serving.orthanc import PASSWORD, USER, running_orthanc

STUDY, ORDER, PATIENT = "1.2.826.0.1.111", "Planted-order-77", "Planted-0815"
OTHER_STUDY = "1.2.826.0.1.222"
NOBODY = Credentials()


def dicom_file(number: int, *, syntax: str = "1.2.840.10008.1.2.1", **changes: object) -> bytes:
    """An image of the archive."""
    uid = f"{STUDY}.5.{number}"
    values = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.{number}", "AccessionNumber": ORDER}
    data = data_set(**{**values, "SOPInstanceUID": uid, **changes})
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    return as_bytes(data, syntax)


FRONTAL = dicom_file(1)
IMAGES = (
    FRONTAL,
    dicom_file(2, Modality="CR", ViewPosition=None, BodyPartExamined=None),
    dicom_file(3, ViewPosition="LL"),
    dicom_file(4, BodyPartExamined="HAND"),
    dicom_file(5, Modality="CT"),
    dicom_file(6, PresentationIntentType="FOR PROCESSING"),
    dicom_file(
        7, StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=f"{OTHER_STUDY}.1", AccessionNumber="", PatientID="B"
    ),
    dicom_file(8, StudyInstanceUID=f"{OTHER_STUDY}.9", PatientID="compressed", AccessionNumber="", syntax=JPEG_LS),
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An archive with some images, open to whoever is on this machine."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as url:
        with DicomWebArchive(url, NOBODY) as archive:
            for image in IMAGES:
                archive.store(image)
        yield url


@pytest.fixture
def archive(address: str) -> Iterator[DicomWebArchive]:
    with DicomWebArchive(address, NOBODY) as opened:
        yield opened


@pytest.mark.parametrize("asked", [{"study_uid": STUDY}, {"accession_number": ORDER}, {"patient_id": PATIENT}])
def test_what_may_be_a_frontal_chest_is_found(archive: DicomWebArchive, asked: dict[str, str]) -> None:
    found = archive.find(**asked)
    assert [(one.modality, one.view) for one in found] == [("DX", "PA"), ("CR", None)]
    assert {one.instance_uid for one in found} == {f"{STUDY}.5.1", f"{STUDY}.5.2"}


def test_nothing_is_found_of_another_patient(archive: DicomWebArchive) -> None:
    assert archive.find(patient_id="nobody") == ()
    assert archive.find(patient_id=PATIENT, study_uid=OTHER_STUDY) == ()
    assert len(archive.find(patient_id="B")) == 1


def test_a_pattern_that_would_find_other_patients_is_refused(archive: DicomWebArchive) -> None:
    for pattern in ("*", "Planted*", "?", "A\\B"):
        with pytest.raises(InvalidSetting, match="would find other patients"):
            archive.find(patient_id=pattern)
    with pytest.raises(InvalidSetting, match="nothing to look for"):
        archive.find()


@pytest.mark.parametrize(("patient", "content"), [(PATIENT, FRONTAL), ("compressed", IMAGES[-1])])
def test_a_fetched_image_is_the_stored_one(archive: DicomWebArchive, patient: str, content: bytes) -> None:
    candidate = archive.find(patient_id=patient)[0]
    fetched = archive.fetch(candidate)
    assert (read_image(fetched).pixels == read_image(content).pixels).all()
    sent, kept = (pydicom.dcmread(BytesIO(file)).file_meta.TransferSyntaxUID for file in (content, fetched))
    assert sent == kept


def test_an_image_that_is_not_there_is_refused_without_its_uid(archive: DicomWebArchive) -> None:
    with pytest.raises(RequestRefused, match=r"no such image.*404") as caught:
        archive.fetch(Candidate(STUDY, f"{STUDY}.1", f"{STUDY}.77", "DX"))
    assert STUDY not in str(caught.value)


def test_a_report_is_filed_in_the_study_of_the_query(archive: DicomWebArchive) -> None:
    hits = [Hit("a" * 32, None, "of-another-patient", 0.9, ("pneumonia",), "PA", "F", 60)]
    archive.store(similar_cases_report(FRONTAL, hits, encoder="e" * 64, boxes_source="mean layout"))
    rows = archive._client.search_for_instances(search_filters={"StudyInstanceUID": STUDY, "Modality": "SR"})
    uids = [str(rows[0][tag]["Value"][0]) for tag in ("0020000D", "0020000E", "00080018")]
    report = pydicom.dcmread(BytesIO(archive.fetch(Candidate(uids[0], uids[1], uids[2], "SR"))))
    assert (report.StudyInstanceUID, report.PatientName, report.AccessionNumber) == (STUDY, PLANTED, ORDER)
    assert len(archive.find(study_uid=STUDY)) == 2  # a report is no radiograph


def test_what_is_no_dicom_object_is_not_stored(archive: DicomWebArchive) -> None:
    with pytest.raises(ServerFailed, match="no DICOM object"):
        archive.store(b"a text")


def test_nothing_of_a_patient_is_logged(address: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with DicomWebArchive(address, NOBODY) as archive:
        (candidate, *_) = archive.find(patient_id=PATIENT)
        archive.fetch(candidate)
    assert not [record for record in caplog.records if "Planted" in record.getMessage() or STUDY in record.getMessage()]
    assert STUDY not in repr(candidate)
    logging.getLogger("urllib3.connectionpool").debug("said by another")
    assert "said by another" in caplog.text  # silence ends with the call


def test_an_archive_with_passwords_asks_for_them(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_orthanc(tmp_path_factory.mktemp("guarded"), password=True) as url:
        for wrong in (NOBODY, Credentials(user=USER, password="wrong"), Credentials(token="wrong")):
            with DicomWebArchive(url, wrong) as archive, pytest.raises(RequestRefused, match="refuses"):
                archive.find(study_uid=STUDY)
        monkeypatch.setenv("CHEXTRIEV_DICOMWEB_USER", USER)
        monkeypatch.setenv("CHEXTRIEV_DICOMWEB_PASSWORD", PASSWORD)
        with DicomWebArchive(ArchiveSettings(url)) as archive:
            archive.store(FRONTAL)
            assert len(archive.find(study_uid=STUDY)) == 1
