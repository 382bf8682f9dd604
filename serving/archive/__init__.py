"""A picture archive: find and fetch a radiograph over DICOMweb, write the similar cases as a Structured Report.

What is fetched stays in memory, and what is logged or raised holds no identifier. A report goes back to the patient's
own study and therefore bears the patient's name; it is written only where the caller asks for it.
"""

from chextriev.serving.archive.client import Candidate, DicomWebArchive
from chextriev.serving.archive.report import similar_cases_report
from chextriev.serving.archive.settings import ArchiveSettings, Credentials

__all__ = ["ArchiveSettings", "Candidate", "Credentials", "DicomWebArchive", "similar_cases_report"]
