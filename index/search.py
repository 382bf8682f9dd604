"""Open an index and ask it for the most similar radiographs, without the query itself and its patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.artifacts import Manifest, open_artifact
from chextriev.embedding_set import IDS_FILE, METADATA, read_ids
from chextriev.encoder import Embeddings
from chextriev.errors import CountMismatch, DamagedArtifact, InvalidSetting, OtherEncoder
from chextriev.hits import Hit as Hit
from chextriev.index.build import INDEX_FILE, KIND
from chextriev.index.exact import Rows
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import VectorIndex, load_index

Ids = Sequence[str | None]
_NOBODY = -1  # the code of a patient who is not in the index


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index; `open_index` makes it. Safe to search from several threads at once.

    columns: image_id, study_id, patient_id, view, sex, age, split [N] and findings [N, 9] int8, by row.
    """

    manifest: Manifest
    vectors: VectorIndex
    columns: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def encoder_digest(self) -> str:
        """The bundle whose vectors this index holds."""
        return self.manifest.recipe.parents["encoder"]

    def check_encoder(self, digest: str) -> None:
        """Raise OtherEncoder unless `digest` is of the encoder that this index was built with."""
        if digest != self.encoder_digest:
            raise OtherEncoder(
                f"the queries are of encoder {digest[:12]}, the index holds vectors of encoder "
                f"{self.encoder_digest[:12]}; encode the queries with that one, or build the index again"
            )

    def search(
        self,
        queries: Embeddings | npt.NDArray[Any],
        k: int = 10,
        *,
        image_ids: Ids | None = None,
        patient_ids: Ids | None = None,
        nprobe: int | None = None,
    ) -> list[list[Hit]]:
        """The k most similar radiographs for each query, best first, without the query and its patient.

        queries: what an encoder returned (its digest is compared and its image ids are used), or vectors [Q, D] float32
        of any length but zero; for those call `check_encoder` if their encoder is known. image_ids, patient_ids: of the
        queries, None where unknown; a patient not given is looked up by the image id. Ties go to the lower row. A list
        is shorter than k where fewer remain. nprobe: lists to look into for this call, in place of the spec's.
        """
        if isinstance(queries, Embeddings):
            self.check_encoder(queries.encoder_digest)
            image_ids = queries.image_ids if image_ids is None else image_ids
            queries = queries.vectors
        scores, rows = self.search_rows(queries, k, image_ids=image_ids, patient_ids=patient_ids, nprobe=nprobe)
        return [
            [self._hit(row, score) for row, score in zip(*line, strict=True) if row >= 0]
            for line in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def search_rows(
        self,
        queries: npt.NDArray[Any],
        k: int = 10,
        *,
        image_ids: Ids | None = None,
        patient_ids: Ids | None = None,
        nprobe: int | None = None,
    ) -> tuple[npt.NDArray[np.float32], Rows]:
        """`search` of vectors [Q, D] as arrays: cosines [Q, k] float32 and rows of the index [Q, k] int64.

        Where fewer than k remain, the end of a line holds score -inf and row -1.
        """
        if k < 1:
            raise InvalidSetting(f"k = {k}; ask for at least 1 result")
        own_row, own_patient = self._query_codes(len(queries), image_ids, patient_ids)
        excluded = int(self._images_of[own_patient].max(initial=0)) + int((own_row >= 0).any())
        scores, rows = self.vectors.search(queries, k + excluded, nprobe=nprobe)
        allowed = (rows >= 0) & (rows != own_row[:, None])
        allowed &= (self._patients[rows] != own_patient[:, None]) | (own_patient[:, None] == _NOBODY)
        scores, rows = np.where(allowed, scores, np.float32(-np.inf)), np.where(allowed, rows, -1)
        order = np.argsort(~allowed, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _query_codes(self, count: int, image_ids: Ids | None, patient_ids: Ids | None) -> tuple[Rows, Rows]:
        """Row in the index [Q] and code of the patient [Q] of each query, -1 where there is none."""
        for name, ids in (("image_ids", image_ids), ("patient_ids", patient_ids)):
            if ids is not None and len(ids) != count:
                raise CountMismatch(f"{len(ids)} {name} beside {count} queries; give one to each, None where unknown")
        images = [None] * count if image_ids is None else image_ids
        patients = [None] * count if patient_ids is None else patient_ids
        rows = np.array([self._row_of.get(image, -1) for image in images], np.int64)
        known = [self._code_of.get(patient, _NOBODY) for patient in patients]
        looked_up = np.where(rows >= 0, self._patients[rows], _NOBODY)
        given = np.array([patient is not None for patient in patients], np.bool_)
        return rows, np.where(given, np.array(known, np.int64), looked_up)

    def _hit(self, row: int, score: float) -> Hit:
        column = {name: values[row] for name, values in self.columns.items()}
        present = np.flatnonzero(column["findings"] == 1)
        return Hit(
            image_id=column["image_id"],
            study_id=column["study_id"],
            patient_id=column["patient_id"],
            score=score,
            findings=tuple(tuple(Finding)[finding].label for finding in present),
            view=column["view"],
            sex=column["sex"],
            age=int(column["age"]) if column["age"] >= 0 else None,
            row=row,
        )

    @cached_property
    def _row_of(self) -> dict[str | None, int]:
        return {image: row for row, image in enumerate(self.columns["image_id"])}

    @cached_property
    def _code_of(self) -> dict[str | None, int]:
        """A code for each patient id; an image without one has a patient of its own, whom no query can name."""
        named = (patient for patient in self.columns["patient_id"] if patient is not None)
        return {patient: code for code, patient in enumerate(dict.fromkeys(named))}

    @cached_property
    def _patients(self) -> Rows:
        """[N] code of the patient by row."""
        patients = self.columns["patient_id"]
        return np.array([self._code_of.get(patient, _NOBODY) for patient in patients], np.int64)

    @cached_property
    def _images_of(self) -> Rows:
        """Number of images by code of the patient; the last entry, which the code -1 reads, is 0."""
        return np.bincount(self._patients[self._patients >= 0], minlength=len(self._code_of) + 1)


def open_index(directory: str | Path) -> Index:
    """Open an index, every file compared with its manifest before anything reads it.

    Raises NotAnArtifact if there is none, DamagedArtifact if a file is missing, altered or not what the manifest says.
    """
    directory = Path(directory)
    manifest = open_artifact(directory, KIND)
    try:
        settings = manifest.recipe.settings
        spec, shape = IndexSpec(**settings["spec"]), (int(settings["n"]), int(settings["width"]))
        if not {INDEX_FILE, IDS_FILE} <= manifest.files.keys() or "encoder" not in manifest.recipe.parents:
            raise KeyError(f"{INDEX_FILE}, {IDS_FILE} and an encoder are needed")
        columns = read_ids(directory / IDS_FILE)
        columns = {name: columns[name] for name in ("image_id", "study_id", "patient_id", *METADATA, "findings")}
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise DamagedArtifact(f"{directory} is not an index of this package ({error}); build it again") from error
    if any(len(column) != shape[0] for column in columns.values()):
        raise DamagedArtifact(f"{directory / IDS_FILE} has {len(columns['image_id'])} rows, its manifest {shape[0]}")
    return Index(manifest, load_index(directory / INDEX_FILE, spec, shape), columns)
