"""Open an index and ask it for the most similar radiographs, without the query itself and its patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.artifacts import Manifest, read_manifest
from chextriev.embedding_set import METADATA
from chextriev.encoder import Embeddings
from chextriev.errors import DamagedArtifact, InvalidSetting, NotAnArtifact
from chextriev.hits import Hit as Hit
from chextriev.hits import ImageId
from chextriev.index.exact import Rows, Scores
from chextriev.index.filters import Filter, matching
from chextriev.index.generation import ID_COLUMNS, KIND, Generation, open_generation
from chextriev.index.gpu import GpuVectorIndex, move_to_gpu
from chextriev.index.gpu_devices import CPU
from chextriev.index.hash_index import distance
from chextriev.index.retriever import Request, SearchOptions, as_held, check_same_encoder, read_request
from chextriev.index.spec import HAMMING
from chextriev.index.store import CURRENT, IndexStore
from chextriev.index.vector_index import Scan, VectorIndex, best_first

_NOBODY = -1  # the code of a patient who is not in the index
_OPENINGS = 100  # a writer would have to publish and remove a generation so many times while one is being opened
_MASKS = 64  # conditions remembered, a byte a row each
_OWN_COLUMNS = {*ID_COLUMNS, *METADATA, "findings"}


@dataclass(frozen=True, eq=False)
class Index:
    """An opened index; `open_index` makes it. Safe to search from several threads at once, without a lock.

    It stays as it was opened whatever is published meanwhile; `reloaded` looks for what was. placed: its main part on
    GPUs. device_words: where it is searched and why, for a person, where a GPU was asked for.
    """

    generation: Generation
    directory: Path
    placed: GpuVectorIndex | None = None
    device: str = CPU
    device_words: str = ""

    def __len__(self) -> int:
        return self.generation.rows - len(self.generation.removed)

    @property
    def manifest(self) -> Manifest:
        """Of the generation."""
        return self.generation.manifest

    @property
    def columns(self) -> Mapping[str, npt.NDArray[Any]]:
        """image_id, study_id, patient_id, view, sex, age, split [N], findings [N, 9] int8 and any others, by row."""
        return self.generation.columns

    @property
    def encoder_digest(self) -> str:
        """The bundle whose vectors this index holds, "" where nobody said."""
        return self.generation.encoder_digest

    def check_encoder(self, digest: str) -> None:
        """Raise OtherEncoder unless `digest` is of the encoder that this index was built with."""
        check_same_encoder(digest, self.encoder_digest)

    def holds(self, image_id: ImageId | None, patient_id: str | None = None) -> bool:
        """Whether it has this image, or any of this patient."""
        (image,) = as_held([image_id], integers=self._has_integers)
        return image in self._row_of or (patient_id is not None and str(patient_id) in self._code_of)

    def reloaded(self) -> "Index":
        """The index as it is published now: this very one if nothing has changed."""
        store = IndexStore(self.directory)
        if not store.exists or store.current == self.generation.directory:
            return self
        return open_index(self.directory, device=self.device)

    def search(
        self, queries: Embeddings | npt.NDArray[Any], k: int = 10, **options: Unpack[SearchOptions]
    ) -> list[list[Hit]]:
        """The k most similar radiographs for each query, best first, without the query and its patient.

        queries: what an encoder returned (its digest is compared and its image ids are used), or vectors [Q, D] float32
        of any length but zero; for those call `check_encoder` if their encoder is known. options: see `SearchOptions`.
        Ties go to the lower id. A list is shorter than k where fewer remain.
        """
        scores, rows = self.search_rows(queries, k, **options)
        return [
            [self._hit(row, score) for row, score in zip(*line, strict=True) if row >= 0]
            for line in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def search_rows(
        self, queries: Embeddings | npt.NDArray[Any], k: int = 10, **options: Unpack[SearchOptions]
    ) -> tuple[Scores, Rows]:
        """`search` as arrays: scores [Q, K] float32 and rows of the index [Q, K] int64; K is k, or N if that is less.

        Where fewer remain, the end of a line holds score -inf and row -1.
        """
        request = read_request(self, queries, k, options)
        own = self._query_codes(request.image_ids, request.patient_ids)
        excluded = int(self._images_of[own[1]].max(initial=0)) + int((own[0] >= 0).any())
        if request.regions is None or request.candidates is not None:
            count = request.k if request.candidates is None else request.candidates
            found = self._others(self._by_embedding(request, count + excluded), own, count)
            return found if request.regions is None else self._by_regions(request, found[1])
        count = min(request.k + excluded, self.generation.rows)
        return self._others(self._by_regions(request, None, count), own, request.k)

    def _others(self, found: tuple[Scores, Rows], own: tuple[Rows, Rows], count: int) -> tuple[Scores, Rows]:
        """The first `count` of each line that are neither the query nor of its patient, by rows and codes [Q]."""
        (scores, rows), (own_row, own_patient) = found, own
        allowed = (rows >= 0) & (rows != own_row[:, None])
        if (own_patient != _NOBODY).any():
            allowed &= (self._patients[rows] != own_patient[:, None]) | (own_patient[:, None] == _NOBODY)
        scores, rows = np.where(allowed, scores, np.float32(-np.inf)), np.where(allowed, rows, -1)
        order = np.argsort(~allowed, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _allowed(self, request: Request) -> npt.NDArray[np.bool_] | None:
        """[N] bool: the rows that meet the filters and were not removed; None where every row may be found."""
        if not request.filters:
            return self._live
        allowed: npt.NDArray[np.bool_] = np.logical_and.reduce([self._mask(each) for each in request.filters])
        return allowed if self._live is None else allowed & self._live

    def _by_regions(self, request: Request, candidates: Rows | None, count: int = 0) -> tuple[Scores, Rows]:
        """The best `count` rows by the regions asked for, or the k best of these candidates [Q, C]."""
        regions, asked, weights = self.generation.regions, request.region_vectors, request.regions
        if regions is None or asked is None or weights is None:
            raise InvalidSetting(
                "this index holds no region vectors; embed with --regions and build it again to search by region"
            )
        if candidates is None:
            return regions.search(asked, weights, count, allowed=self._allowed(request), rank=self._rank)
        scores = regions.scores(asked, weights, candidates)
        return best_first(scores, candidates, min(request.k, candidates.shape[1]), self._rank)

    def _by_embedding(self, request: Request, count: int) -> tuple[Scores, Rows]:
        """The main part and the delta, each searched and merged; nobody is left out."""
        found, first, allowed = list[tuple[Scores, Rows]](), 0, self._allowed(request)
        for part in (self.placed or self.generation.main, self.generation.delta):
            if part is None:
                continue
            rows = slice(first, first + len(part))
            scan = Scan(
                nprobe=request.nprobe if first == 0 else None,
                allowed=None if allowed is None else allowed[rows],
                rank=None if self._rank is None else self._rank[rows],
                exact=request.exact,
            )
            scores, at = part.search(request.vectors, count, scan)
            found.append((scores, np.where(at < 0, -1, at + first)))
            first += len(part)
        if len(found) == 1:
            return found[0]
        scores, rows_found = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        return best_first(scores, rows_found, count, self._rank)

    def _query_codes(self, images: Sequence[ImageId | None], patients: Sequence[Any]) -> tuple[Rows, Rows]:
        """Row in the index [Q] and code of the patient [Q] of each query, -1 where there is none."""
        if all(each is None for each in images) and all(each is None for each in patients):
            nobody = np.full(len(images), -1, np.int64)
            return nobody, nobody
        held = as_held(images, integers=self._has_integers)
        rows = np.array([-1 if image is None else self._row_of.get(image, -1) for image in held], np.int64)
        known = [self._code_of.get(patient, _NOBODY) for patient in as_held(patients, integers=False)]
        looked_up = np.where(rows >= 0, self._patients[rows], _NOBODY)
        given = np.array([patient is not None for patient in patients], np.bool_)
        return rows, np.where(given, np.array(known, np.int64), looked_up)

    def _hit(self, row: int, score: float) -> Hit:
        column = {name: values[row] for name, values in self.columns.items()}
        present = np.flatnonzero(column["findings"] == 1)
        hashed = self.generation.main.spec.metric == HAMMING
        age = column.get("age")
        return Hit(
            image_id=_plain(column["image_id"]),
            study_id=column["study_id"],
            patient_id=column["patient_id"],
            score=score,
            findings=tuple(_FINDINGS[finding] for finding in present),
            view=column.get("view"),
            sex=column.get("sex"),
            age=int(age) if age is not None and age >= 0 else None,
            row=row,
            metadata={name: _plain(value) for name, value in column.items() if name not in _OWN_COLUMNS},
            distance=distance(score, self.generation.main.width) if hashed else None,
        )

    def _mask(self, condition: Filter) -> npt.NDArray[np.bool_]:
        """[N] bool: the rows that meet a condition; the same one is often asked again."""
        found = self._masks.get(condition)
        if found is None:
            found = matching((condition,), self.columns)
            if len(self._masks) >= _MASKS:
                self._masks.clear()
            self._masks[condition] = found
        return found

    @cached_property
    def _masks(self) -> dict[Filter, npt.NDArray[np.bool_]]:
        return {}

    @cached_property
    def _live(self) -> npt.NDArray[np.bool_] | None:
        """[N] bool, or None where every row can be found."""
        return self.generation.live() if len(self.generation.removed) else None

    @cached_property
    def _rank(self) -> Rows | None:
        """[N] the place of each row's id among all; None where the rows stand in the order of their ids."""
        ids = self.columns["image_id"]
        order = np.argsort(ids.astype(str) if ids.dtype.kind == "O" else ids, kind="stable")
        if np.all(order[1:] > order[:-1]):
            return None
        rank = np.empty(len(ids), np.int64)
        rank[order] = np.arange(len(ids))
        return rank

    @property
    def _has_integers(self) -> bool:
        return bool(self.columns["image_id"].dtype.kind == "i")

    @cached_property
    def _row_of(self) -> Mapping[ImageId, int]:
        """Rows that can be found, by image id."""
        return self.generation.rows_by_id()

    @cached_property
    def _code_of(self) -> dict[Any, int]:
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


_FINDINGS = Finding.labels()


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python; what is no number is None."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def open_index(directory: str | Path, *, device: str = CPU) -> Index:
    """Open an index, or one generation of it, every file compared with its manifest before anything reads it.

    device: "cuda" searches its main part on a GPU, "cuda:0,1" on several, or on the CPU where that cannot be. Raises
    NotAnArtifact if there is none, DamagedArtifact if a file is missing, altered or not what the manifest says.
    """
    directory = Path(directory)
    store = IndexStore(directory)
    if not (directory / CURRENT).exists() and directory.is_dir() and any(directory.glob("manifest.json")):
        return _on_device(Index(open_generation(directory), directory), device)
    for _ in range(_OPENINGS):
        current = store.current
        try:
            return _on_device(Index(open_generation(current), directory), device)
        except (NotAnArtifact, DamagedArtifact, FileNotFoundError):
            if store.current == current:  # not removed after another one was published
                raise
    raise DamagedArtifact(f"{directory} changes faster than it can be opened; wait until its writers have finished")


def _on_device(index: Index, device: str) -> Index:
    if device == CPU:
        return index
    main = index.generation.main
    if not isinstance(main, VectorIndex):
        return replace(index, device=device, device_words="on the CPU: hash codes are compared there")
    placed, words = move_to_gpu(main, device)
    on_gpu = None if isinstance(placed, VectorIndex) else placed
    return replace(index, placed=on_gpu, device=device, device_words=words)


def find_generation(directory: str | Path) -> Path:
    """The directory of the generation that an index publishes now, or the directory itself if it is a generation."""
    directory = Path(directory)
    store = IndexStore(directory)
    if store.exists:
        return store.current
    read_manifest(directory, KIND)
    return directory
