"""Find, fetch and store over DICOMweb (DICOM PS3.18: QIDO-RS, WADO-RS, STOW-RS)."""

import logging
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from chextriev.errors import (
    ChextrievError,
    DeadlineExpired,
    InvalidSetting,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UntrustedServer,
)
from chextriev.optional import require
from chextriev.serving.archive.settings import PASSWORD, TOKEN, USER, ArchiveSettings, Credentials

MODALITIES = "DX", "CR"
_LATERAL = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO", "RAO"})
_MODALITY, _VIEW, _PART, _INTENT = "00080060", "00185101", "00180015", "00080068"
_ASKED = {"StudyInstanceUID": "0020000D", "AccessionNumber": "00080050", "PatientID": "00100020"}
_UIDS = _STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_WORDS: dict[type[ServingError], str] = {
    DeadlineExpired: "the archive did not answer in time; give it longer or ask for less",
    UntrustedServer: "the archive's certificate is not trusted; name the file of its authority (ca_file)",
    ServerUnavailable: "no archive answers at this address; look whether it runs and the address is right",
}
_MUDDLES = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError),
    *(EOFError, StopIteration, struct.error),
)
"""What an answer that is none raises below."""
_TALKATIVE = (
    "dicomweb_client",
    "dicomweb_client.web",
    "dicomweb_client.api",
    "retrying",
    *("urllib3.connection", "urllib3.connectionpool", "urllib3.response", "urllib3.util.retry"),
    "pydicom",
)


@dataclass(frozen=True)
class Candidate:
    """An image of the archive that may be a frontal chest radiograph. Its UIDs name a patient's image: not shown.

    modality: "DX" or "CR". view: as the archive states it, None where it does not.
    """

    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    modality: str
    view: str | None = None


class DicomWebArchive:
    """An archive that answers DICOMweb.

    Raises ServingError: DeadlineExpired, ServerUnavailable, UntrustedServer, RequestRefused where the archive refuses,
    ServerFailed where its answer is too large or none. Their messages and what is logged hold no address, no
    identifier and no answer.
    """

    def __init__(self, settings: ArchiveSettings | str, credentials: Credentials | None = None) -> None:
        """settings: or an address alone. credentials: by default those of the environment."""
        self.settings = ArchiveSettings(settings) if isinstance(settings, str) else settings
        asking = Credentials.from_environment() if credentials is None else credentials
        api = require("dicomweb_client.api", extra="dicomweb")
        from chextriev.serving.archive.session import ArchiveSession

        with _discreet():
            self._session = ArchiveSession(self.settings, asking)
            self._client = api.DICOMwebClient(
                self.settings.url.rstrip("/"),
                session=self._session,
                timeout=(self.settings.connect_timeout_s, self.settings.answer_timeout_s),
            )
            self._client.set_http_retry_params(retry=False)

    def __enter__(self) -> "DicomWebArchive":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def find(
        self,
        *,
        study_uid: str | None = None,
        accession_number: str | None = None,
        patient_id: str | None = None,
        limit: int = 100,
    ) -> tuple[Candidate, ...]:
        """Radiographs of a study, an order or a patient that may be frontal chest images, in the archive's order.

        Lateral views, other parts of the body and images for processing are left out where the archive states them.
        """
        asked = {"StudyInstanceUID": study_uid, "AccessionNumber": accession_number, "PatientID": patient_id}
        filters = {name: value for name, value in asked.items() if value}
        if not filters:
            raise InvalidSetting("nothing to look for; give study_uid, accession_number or patient_id")
        if any(set(value) & set("*?\\") for value in filters.values()):
            raise InvalidSetting("'*', '?' and '\\' would find other patients; give the identifier itself")
        rows: list[dict[str, Any]] = []
        for modality in MODALITIES:
            rows += self._search({**filters, "Modality": modality}, limit)
        if any(_is_of_another(row, filters) for row in rows):
            raise ServerFailed("the archive answers with images that were not asked for; it may not know this filter")
        found = [_candidate(row) for row in rows if _may_be_frontal_chest(row)]
        return tuple(dict.fromkeys(found))

    def fetch(self, candidate: Candidate) -> bytes:
        """The DICOM file of an image, in memory, in the transfer syntax that the archive keeps."""
        uids = candidate.study_uid, candidate.series_uid, candidate.instance_uid
        with _discreet(), _in_words():
            data = self._client.retrieve_instance(*uids, media_types=(("application/dicom", "*"),))
            if str(data.SOPInstanceUID) != candidate.instance_uid:
                raise ServerFailed("the archive answers with another image than was asked for")
            buffer = BytesIO()
            data.save_as(buffer)
        return buffer.getvalue()

    def store(self, report: bytes) -> None:
        """Add an object, such as a report, to the archive; RequestRefused where the archive does not take it."""
        pydicom = require("pydicom", extra="dicomweb")
        with _discreet(), _in_words():
            answer = self._client.store_instances([pydicom.dcmread(BytesIO(report))])
        if answer.get("FailedSOPSequence"):
            raise RequestRefused("the archive did not take the report; its own log says why")

    def _search(self, filters: dict[str, str], limit: int) -> Sequence[dict[str, Any]]:
        with _discreet(), _in_words():
            rows: Sequence[dict[str, Any]] = self._client.search_for_instances(
                search_filters=filters, fields=[_VIEW, _PART, _INTENT, _MODALITY], limit=limit
            )
            for row in rows:
                if any(_value(row, uid) is None for uid in _UIDS):
                    raise ServerFailed("the archive's answer lacks the UIDs of an image; it is no DICOMweb answer")
        return rows


def _may_be_frontal_chest(row: dict[str, Any]) -> bool:
    view, part, intent, modality = (_value(row, tag) for tag in (_VIEW, _PART, _INTENT, _MODALITY))
    return (
        modality in (*MODALITIES, None)
        and view not in _LATERAL
        and (part is None or "CHEST" in part or "THORAX" in part)
        and intent != "FOR PROCESSING"
    )


def _is_of_another(row: dict[str, Any], filters: dict[str, str]) -> bool:
    """Whether an image is of another study, order or patient than was asked for, as where a filter is not known."""
    found = {name: _value(row, tag) for name, tag in _ASKED.items() if name in filters}
    return any(value is not None and value != filters[name].strip() for name, value in found.items())


def _candidate(row: dict[str, Any]) -> Candidate:
    study, series, instance = (_value(row, tag) or "" for tag in _UIDS)
    return Candidate(study, series, instance, _value(row, _MODALITY) or MODALITIES[0], _value(row, _VIEW))


def _value(row: dict[str, Any], tag: str) -> str | None:
    """The first value of an attribute in DICOM's JSON (PS3.18 annex F)."""
    values = row.get(tag, {}).get("Value") or [None]
    return None if values[0] in (None, "") else str(values[0]).strip()


@contextmanager
def _discreet() -> Iterator[None]:
    """The libraries below log and warn of addresses, which hold identifiers, and of values; not in this thread."""
    here = threading.get_ident()

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    talkative = [logging.getLogger(name) for name in _TALKATIVE]
    for logger in talkative:
        logger.addFilter(elsewhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in talkative:
            logger.removeFilter(elsewhere)


@contextmanager
def _in_words() -> Iterator[None]:
    """Errors of the libraries below, which quote addresses, as ours, which do not."""
    requests = require("requests", extra="dicomweb")
    pydicom_errors = require("pydicom.errors", extra="dicomweb")
    from chextriev.serving.archive.session import TooLarge, TooSlow, failure_of

    problem: ChextrievError
    try:
        yield
    except TooLarge:
        problem = ServerFailed("the archive's answer is larger than allowed; raise max_bytes if that is right")
    except requests.exceptions.HTTPError as error:
        problem = _refusal(error.response.status_code)
    except (requests.exceptions.RequestException, TooSlow) as error:
        kind = failure_of(error) or ServerFailed
        problem = kind(_WORDS.get(kind, "the archive's answer broke off or makes no sense"))
    except _MUDDLES as error:
        if isinstance(error, ChextrievError):
            raise
        problem = ServerFailed("the archive's answer is no DICOMweb answer; look whether the address is right")
    except (pydicom_errors.InvalidDicomError, NotImplementedError):
        problem = ServerFailed("the archive's answer holds no DICOM object that can be read")
    else:
        return
    raise problem from None


def _refusal(status: int) -> ServingError:
    if status in (401, 403):
        return RequestRefused(f"the archive refuses ({status}); set {TOKEN}, or {USER} and {PASSWORD}, for who may ask")
    if status == 404:
        return RequestRefused("the archive has no such image, or none at this address (404)")
    if status in (429, 503):
        return ServerUnavailable(f"the archive has no time for this request ({status}); try again later")
    kind = RequestRefused if status < 500 else ServerFailed
    return kind(f"the archive answers with an error ({status}); its own log says more")
