"""`chextriev query --dicomweb`: the radiograph from an archive, and the similar cases back to it as a report."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from chextriev.cli.output import check_file_place
from chextriev.cli.query_search import Case, Found
from chextriev.errors import InvalidSetting, OutputExists, UnsuitableImage

if TYPE_CHECKING:
    from chextriev.serving.archive import DicomWebArchive

STUDY, ACCESSION = "CHEXTRIEV_STUDY", "CHEXTRIEV_ACCESSION"
"""Variables that name what to fetch: arguments are seen by everybody on a machine, and kept by a shell."""

_LIST = 100
_DICOM_AT = slice(128, 132)
_ASKED = {"study": STUDY, "accession": ACCESSION}


def add_archive_options(parser: argparse.ArgumentParser) -> None:
    """Add the archive, what to fetch from it, and where a report goes."""
    parser.add_argument("--dicomweb", metavar="URL", help="fetch the radiograph from this archive, in place of IMAGE")
    parser.add_argument(
        "--study",
        metavar="UID",
        help=f"its StudyInstanceUID, or the variable {STUDY}, which no list of processes shows",
    )
    parser.add_argument("--accession", metavar="NUMBER", help=f"its accession number, or the variable {ACCESSION}")
    parser.add_argument(
        "--image-number", type=int, default=1, metavar="N", help="which frontal image of several (default: the first)"
    )
    parser.add_argument("--ca-file", metavar="PEM", help="certificates that the archive's is signed with")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a DICOM Structured Report, which names the patient as the radiograph does (IMAGE must be DICOM)",
    )
    parser.add_argument("--store", action="store_true", help="add the report to the study in the archive")


def check_archive_options(options: argparse.Namespace) -> None:
    """InvalidSetting for options that contradict one another, before anything is fetched."""
    if (options.image is None) == (options.dicomweb is None):
        raise InvalidSetting("give either an IMAGE or --dicomweb with --study: one radiograph is the query")
    if options.dicomweb is None and any((options.study, options.accession, options.ca_file, options.store)):
        raise InvalidSetting("--study, --accession, --ca-file and --store are of an archive; give --dicomweb URL too")
    if options.image_number < 1:
        raise InvalidSetting(f"--image-number {options.image_number}; images are counted from 1")
    check_file_place(options.report, "--report")
    if options.report is not None and os.path.lexists(options.report):
        raise OutputExists(
            f"{options.report} exists; a report overwrites nothing, least of all its image: name another"
        )


def fetch_case(options: argparse.Namespace) -> bytes:
    """The DICOM file that the options name."""
    asked = {name: getattr(options, name) or os.environ.get(variable) for name, variable in _ASKED.items()}
    given = {name: value for name, value in asked.items() if value}
    if len(given) != 1:
        raise InvalidSetting(f"--dicomweb needs one of --study (or {STUDY}) and --accession (or {ACCESSION})")
    with _archive(options) as archive:
        found = archive.find(study_uid=given.get("study"), accession_number=given.get("accession"), limit=_LIST)
        if len(found) < options.image_number:
            raise UnsuitableImage(
                f"the archive has {len(found)} images there that may be frontal chest radiographs;"
                f" image {options.image_number} was asked for"
            )
        return archive.fetch(found[options.image_number - 1])


def read_reported(options: argparse.Namespace, source: Path | bytes) -> bytes | None:
    """The DICOM file that a report is to refer to, where one was asked for; InvalidSetting where there is none."""
    if options.report is None and not options.store:
        return None
    content = source if isinstance(source, bytes) else b"" if source.is_dir() else source.read_bytes()
    if content[_DICOM_AT] != b"DICM":
        raise InvalidSetting("--report is filed in the study of a DICOM file, which IMAGE is not; leave it out")
    return content


def send_report(options: argparse.Namespace, case: Case, found: Found, remarks: list[str]) -> list[str]:
    """Write and store the report that was asked for; sentences that say so."""
    from chextriev.artifacts import write_bytes
    from chextriev.serving.archive import similar_cases_report

    if case.content is None:
        return []
    report = similar_cases_report(
        case.content, found.hits, encoder=found.encoder_digest, boxes_source=found.boxes_source, remarks=remarks
    )
    said = []
    if options.report is not None:
        write_bytes(options.report, report)
        said.append(f"report written to {options.report}; it names the patient, as the radiograph does")
    if options.store:
        with _archive(options) as archive:
            archive.store(report)
        said.append("report added to the study in the archive")
    return said


def _archive(options: argparse.Namespace) -> "DicomWebArchive":
    from chextriev.serving.archive import ArchiveSettings, DicomWebArchive

    return DicomWebArchive(ArchiveSettings(options.dicomweb, ca_file=options.ca_file))
