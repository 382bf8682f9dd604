"""Embeddings on disk: one vector a radiograph, with the ids and metadata that evaluation and the index need.

An artefact of kind "embeddings": `embeddings.npy` float32 [N, D], `ids.parquet` (row, ids, view, sex, age, split and
one int8 column a finding) and a manifest whose recipe names the encoder and the study table. Where asked for, also
`region_vectors.npy` float16 [N, 18, D].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Finding
from chextriev.artifacts import open_artifact
from chextriev.errors import CountMismatch, DamagedArtifact, EmptySplit, InvalidValue
from chextriev.lazy_rows import LazyRows
from chextriev.optional import require
from chextriev.row_file import map_array, writing_rows
from chextriev.study_table import StudyTable

KIND = "embeddings"
VECTORS_FILE = "embeddings.npy"
REGIONS_FILE = "region_vectors.npy"
IDS_FILE = "ids.parquet"
METADATA = ("view", "sex", "age", "split")
COPY_ROWS = 1_024

RegionVectors = npt.NDArray[np.float16] | LazyRows
"""[N, 18, D] float16, each of length 1: a memory map, or rows of one that are read when they are asked for."""


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """N embeddings and what belongs to each.

    vectors: [N, D] float32. image_id: text, or int64. findings: [N, 9] int8, 1, 0 or -1 (unknown). metadata: columns
    of length N by name. encoder_digest: the bundle that made the vectors. digest: this set. region_vectors: None where
    there are none.
    """

    vectors: npt.NDArray[np.float32] = field(repr=False)  # what is printed of a set tells of no radiograph
    image_id: npt.NDArray[Any] = field(repr=False)
    study_id: npt.NDArray[np.object_] = field(repr=False)
    patient_id: npt.NDArray[np.object_] = field(repr=False)
    findings: npt.NDArray[np.int8] = field(repr=False)
    metadata: Mapping[str, npt.NDArray[Any]] = field(repr=False)
    encoder_digest: str
    digest: str = ""
    region_vectors: RegionVectors | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        columns = (self.image_id, self.study_id, self.patient_id, self.findings, *self.metadata.values())
        if any(len(column) != len(self.vectors) for column in columns):
            lengths = ", ".join(str(len(column)) for column in columns)
            raise CountMismatch(f"embeddings: {len(self.vectors)} vectors beside columns of {lengths} rows")
        regions, wanted = self.region_vectors, (len(self), N_REGIONS)
        if regions is not None and (len(regions.shape) != 3 or regions.shape[:2] != wanted):
            raise CountMismatch(
                f"embeddings: region vectors have shape {list(regions.shape)}; {[*wanted, 'width']} is needed"
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: npt.NDArray[np.int64]) -> "EmbeddingSet":
        """The set of these rows, in this order; it keeps the digest of the whole. Region vectors are not read."""
        regions = self.region_vectors
        if regions is not None:
            regions = regions.take(rows) if isinstance(regions, LazyRows) else LazyRows(regions, np.asarray(rows))
        return EmbeddingSet(
            vectors=self.vectors[rows],
            image_id=self.image_id[rows],
            study_id=self.study_id[rows],
            patient_id=self.patient_id[rows],
            findings=self.findings[rows],
            metadata={name: column[rows] for name, column in self.metadata.items()},
            encoder_digest=self.encoder_digest,
            digest=self.digest,
            region_vectors=regions,
        )

    def of_split(self, split: str) -> "EmbeddingSet":
        """The rows of one split; EmptySplit if there are none."""
        rows = np.flatnonzero(self.metadata["split"] == split)
        if not len(rows):
            raise EmptySplit(f"the embeddings have no radiograph in split {split!r}")
        return self.take(rows)


def embedding_set(table: StudyTable, vectors: npt.NDArray[np.float32], encoder_digest: str) -> EmbeddingSet:
    """The vectors [N, D] of N radiographs with what the study table says of each."""
    return EmbeddingSet(
        vectors=vectors,
        image_id=table.image_id,
        study_id=table.study_id,
        patient_id=table.patient_id,
        findings=table.image_findings,
        metadata={name: getattr(table, name) for name in METADATA},
        encoder_digest=encoder_digest,
    )


def write_embedding_files(embeddings: EmbeddingSet, directory: Path) -> None:
    """Write vectors, ids and, where there are any, region vectors; the caller seals and publishes the directory."""
    np.save(directory / VECTORS_FILE, embeddings.vectors)
    regions = embeddings.region_vectors
    if regions is not None:
        with writing_rows(directory / REGIONS_FILE, regions.shape[1:], np.float16) as append:
            for start in range(0, len(regions), COPY_ROWS):
                append(regions[start : start + COPY_ROWS])
    write_ids(embeddings, directory / IDS_FILE)


def write_ids(embeddings: EmbeddingSet, path: Path) -> None:
    """Write everything but the vectors: row, ids, metadata and findings."""
    pyarrow, parquet = require("pyarrow", extra="index"), require("pyarrow.parquet", extra="index")
    columns: dict[str, npt.NDArray[Any]] = {
        "row": np.arange(len(embeddings)),
        "image_id": embeddings.image_id,
        "study_id": embeddings.study_id,
        "patient_id": embeddings.patient_id,
        **embeddings.metadata,
        **{finding.label: embeddings.findings[:, finding] for finding in Finding},
    }
    try:
        table = pyarrow.table({name: pyarrow.array(c, from_pandas=True) for name, c in columns.items()})
    except UnicodeEncodeError as error:
        raise InvalidValue(f"an id or a value of the metadata is no text ({error.reason}); write it as UTF-8") from None
    parquet.write_table(table, path)


def read_ids(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The columns that `write_ids` wrote, and `findings` [N, 9] int8 in place of one column a finding."""
    return parse_ids(path.read_bytes())


def parse_ids(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """What `read_ids` says of these bytes of a file. ValueError, TypeError, KeyError or OSError where it is none."""
    pyarrow, parquet = require("pyarrow", extra="index"), require("pyarrow.parquet", extra="index")
    try:
        table = parquet.read_table(pyarrow.BufferReader(content))
        columns = {name: np.asarray(table.column(name).to_numpy()) for name in table.column_names}
    except pyarrow.ArrowException as error:  # some of which are neither of these
        raise ValueError(f"no Parquet table ({error!s:.200})") from error
    columns["findings"] = np.stack([columns.pop(finding.label) for finding in Finding], axis=1).astype(np.int8)
    return columns


def read_embeddings(directory: str | Path) -> EmbeddingSet:
    """Open embeddings, their files verified; the vectors are memory-mapped."""
    directory = Path(directory)
    manifest = open_artifact(directory, KIND)
    columns = read_ids(directory / IDS_FILE)
    return EmbeddingSet(
        vectors=np.load(directory / VECTORS_FILE, mmap_mode="r"),
        image_id=columns["image_id"],
        study_id=columns["study_id"],
        patient_id=columns["patient_id"],
        findings=columns["findings"],
        metadata={name: columns[name] for name in METADATA},
        encoder_digest=manifest.recipe.parents["encoder"],
        digest=manifest.digest,
        region_vectors=_read_regions(directory) if REGIONS_FILE in manifest.files else None,
    )


def _read_regions(directory: Path) -> npt.NDArray[np.float16]:
    path = directory / REGIONS_FILE
    regions = map_array(path)
    if regions.dtype != np.float16:
        raise DamagedArtifact(f"{path} holds {regions.dtype}, float16 is needed; embed again with --regions")
    return regions
