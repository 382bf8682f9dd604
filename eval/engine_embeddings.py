"""One encoder over one split, from the image files, in shards: a run that is killed goes on where it was.

A shard is an artefact of its own (`embeddings.npy`, `rows.npy`, `quarantine.csv`; its facts say how long it took), so
it is whole or not there, and belongs to exactly one recipe. When all are there they become one artefact of kind
"embeddings", which evaluation and the index read, and are removed.
"""

import csv
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import Recipe, check_output, find_current, publishing, read_manifest, seal
from chextriev.embedding_set import (
    KIND,
    VECTORS_FILE,
    EmbeddingSet,
    embedding_set,
    read_embeddings,
    write_embedding_files,
)
from chextriev.encoder import Embeddings, Encoder, Source
from chextriev.errors import BoxError, DamagedArtifact, EmptySplit, ImageError, InputError, InvalidValue
from chextriev.eval.engine_identity import Subject
from chextriev.progress import track_batches
from chextriev.radiograph import Radiograph
from chextriev.refusals import Refusal, write_refusals
from chextriev.scratch import remove
from chextriev.study_table import StudyTable

SHARD_KIND = "embedding shard"
ROWS_FILE, QUARANTINE_FILE = "rows.npy", "quarantine.csv"
BATCH = 8
"""Radiographs that an engine gets at once."""

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class Embedder(Protocol):
    """What makes embeddings of a stream of radiographs, in order: an opened encoder, or a server."""

    engine: str

    def stream(self, sources: Iterable[Source], *, batch: int = ...) -> Iterator[Embeddings]:
        """As `chextriev.encoder.Encoder.stream`."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is embedded, by what and where to.

    table: the radiographs, all of them. recipe: all that the embeddings depend on; its parent "encoder" is the digest
    of the bundle. label: what the progress bar calls it. warm_up: is called before the clock runs.
    """

    embedder: Embedder
    table: StudyTable
    folder: Path
    recipe: Recipe
    label: str = "embed"
    warm_up: Callable[[], None] = lambda: None


@dataclass(frozen=True, eq=False)
class Streamed:
    """A split that was encoded in one stream.

    seconds: from file to embedding, all radiographs together; opening the engine, a first batch and writing are left
    out. resumed: radiographs of shards that an earlier run had finished. reused: nothing had to be done.
    """

    embeddings: EmbeddingSet
    refusals: tuple[Refusal, ...]
    seconds: float
    resumed: int
    reused: bool


def embed_split(subject: Subject, *, shard_rows: int = 64) -> Streamed:
    """Encode the radiographs of a split into the folder `embeddings`, as `embed_in_shards`."""
    return embed_in_shards(
        Task(
            subject.encoder,
            subject.table,
            subject.folder,
            subject.recipe,
            subject.label,
            warm_up=partial(_warm_up, subject.encoder),
        ),
        shard_rows=shard_rows,
    )


def embed_in_shards(task: Task, *, shard_rows: int = 64) -> Streamed:
    """Encode the radiographs of a table into the folder `embeddings`.

    Radiographs that cannot be read are left out, listed in `quarantine.csv`, and tried again by the next run. Raises
    EmptySplit where none can be read.
    """
    target, shards = task.folder / "embeddings", _Shards(task, shard_rows)
    whole = find_current(target, KIND, task.recipe) is not None
    reused = whole and not _readable_now(task.table, read_refusals(target))
    if not reused:
        check_output(target, KIND)
        _publish(shards, target, resumed=_fill(shards))
    remove(shards.folder)
    facts = read_manifest(target, KIND).facts
    seconds, resumed = float(facts["seconds"]), int(facts["resumed"])
    return Streamed(read_embeddings(target), tuple(read_refusals(target)), seconds, resumed, reused)


def read_refusals(directory: Path) -> list[Refusal]:
    """What is listed in `quarantine.csv`."""
    path = directory / QUARANTINE_FILE
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [
                Refusal(int(line["row"]), line["image_id"], line["reason"], line["detail"])
                for line in csv.DictReader(stream)
            ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedArtifact(f"{path} cannot be read ({error}); delete {directory} and run again") from error


class _Shards:
    """The shards of one run. refusals: by row, of all that have been read so far."""

    def __init__(self, task: Task, size: int) -> None:
        self.task, self.table, self.refusals = task, task.table, dict[int, Refusal]()
        self.folder, self.count, self._size = task.folder / "shards", -(-len(self.table) // size), size

    def rows(self, shard: int) -> range:
        """Rows of the split."""
        return range(shard * self._size, min((shard + 1) * self._size, len(self.table)))

    def path(self, shard: int) -> Path:
        """Its directory."""
        return self.folder / f"{shard:05d}"

    def is_current(self, shard: int) -> bool:
        """Whether it is there, whole, of this recipe, and what it lacks still cannot be read."""
        whole = find_current(self.path(shard), SHARD_KIND, self._recipe_of(shard)) is not None
        return whole and not _readable_now(self.table, read_refusals(self.path(shard)))

    def write(self, shard: int, found: dict[int, Vectors], seconds: float) -> None:
        """Publish a shard of these vectors [D] by row."""
        with publishing(self.path(shard), SHARD_KIND) as scratch:
            np.save(scratch / VECTORS_FILE, np.array([*found.values()], np.float32))
            np.save(scratch / ROWS_FILE, np.array([*found], np.int64))
            refused = [self.refusals[row] for row in self.rows(shard) if row in self.refusals]
            write_refusals(refused, scratch / QUARANTINE_FILE)
            seal(scratch, SHARD_KIND, self._recipe_of(shard), {"seconds": seconds})

    def read(self) -> tuple[Rows, Vectors, list[Refusal], float]:
        """All shards together: rows [n], vectors [n, D], refusals and seconds."""
        paths = [self.path(shard) for shard in range(self.count)]
        rows = [np.load(path / ROWS_FILE, allow_pickle=False) for path in paths]
        vectors = [np.load(path / VECTORS_FILE, allow_pickle=False) for path in paths]
        kept = [part for part in vectors if len(part)]
        if not kept:
            raise EmptySplit("no radiograph to encode: all images of the split are unreadable; check where they are")
        refusals = [refusal for path in paths for refusal in read_refusals(path)]
        seconds = sum(float(read_manifest(path, SHARD_KIND).facts["seconds"]) for path in paths)
        return np.concatenate(rows), np.concatenate(kept), refusals, seconds

    def _recipe_of(self, shard: int) -> Recipe:
        rows = self.rows(shard)
        recipe = self.task.recipe
        return Recipe({**recipe.settings, "rows": [rows.start, rows.stop]}, recipe.parents)


def _fill(shards: _Shards) -> int:
    """Make the shards that are not there; the radiographs of those that were."""
    waiting = deque(shard for shard in range(shards.count) if not shards.is_current(shard))
    rows = [row for shard in waiting for row in shards.rows(shard)]
    if not rows:
        return len(shards.table)
    embedder = shards.task.embedder
    shards.task.warm_up()
    parts, label = _encoded(embedder, shards, rows), f"{shards.task.label} with {embedder.engine}"
    stream = track_batches(parts, label, size=lambda part: len(part[0]), total=len(rows), unit="radiograph")
    found: dict[int, Vectors] = {}
    begun = time.perf_counter()
    for done, vectors in stream:
        found.update(zip(done, vectors, strict=True))
        while waiting and all(row in found or row in shards.refusals for row in shards.rows(waiting[0])):
            seconds = time.perf_counter() - begun
            shard = waiting.popleft()
            shards.write(shard, {row: found.pop(row) for row in shards.rows(shard) if row in found}, seconds)
            begun = time.perf_counter()
    for shard in waiting:  # nothing of them could be read, and nothing came after
        shards.write(shard, {}, 0.0)
    return len(shards.table) - len(rows)


def _encoded(embedder: Embedder, shards: _Shards, rows: Sequence[int]) -> Iterator[tuple[list[int], Vectors]]:
    """Rows and their embeddings, batch by batch. What cannot be read ends a stream, and the next begins without it."""
    left = list(rows)
    while left := [row for row in left if row not in shards.refusals]:
        done = 0
        try:
            for part in embedder.stream((partial(_source, shards, row) for row in left), batch=BATCH):
                yield left[done : done + len(part)], part.vectors
                done += len(part)
        except InputError:
            if not any(row in shards.refusals for row in left[done:]):
                raise
        left = left[done:]


def _source(shards: _Shards, row: int) -> Radiograph:
    """The radiograph of a row; what is wrong with it is noted before it is raised."""
    try:
        return _read(shards.table, row)
    except (ImageError, BoxError, InvalidValue) as error:
        detail = str(error).replace(f"{shards.table.image_root}/", "")
        shards.refusals[row] = Refusal(row, str(shards.table.image_id[row]), type(error).__name__, detail)
        raise


def _read(table: StudyTable, row: int) -> Radiograph:
    radiograph = table.radiograph(row)
    found, stated = radiograph.pixels.shape, (int(table.height[row]), int(table.width[row]))
    if found != stated:
        sizes = f"{found[1]} x {found[0]} pixels, the study table says {stated[1]} x {stated[0]}"
        raise InvalidValue(f"the image has {sizes}; its boxes are in pixels of the latter")
    return radiograph


def _readable_now(table: StudyTable, refusals: Sequence[Refusal]) -> bool:
    """Whether any of what was refused can be read by now."""
    for refusal in refusals:
        try:
            _read(table, refusal.row)
        except (ImageError, BoxError, InvalidValue):
            continue
        return True
    return False


def _warm_up(encoder: Encoder) -> None:
    """Let libraries and devices do what they do once."""
    card = encoder.bundle.card
    features = encoder.extract(np.zeros((BATCH * card.crops.count, card.crops.size, card.crops.size), np.uint8))
    encoder.relate(features.reshape(BATCH, card.crops.count, -1), [str(row) for row in range(BATCH)])


def _publish(shards: _Shards, target: Path, *, resumed: int) -> None:
    recipe = shards.task.recipe
    rows, vectors, refusals, seconds = shards.read()
    embeddings = embedding_set(shards.table.take(rows), vectors, recipe.parents["encoder"])
    with publishing(target, KIND) as scratch:
        write_embedding_files(embeddings, scratch)
        write_refusals(refusals, scratch / QUARANTINE_FILE)
        facts = {"n": len(vectors), "width": vectors.shape[1], "quarantined": len(refusals)}
        seal(scratch, KIND, recipe, {**facts, "seconds": seconds, "resumed": resumed})
