"""Evaluate whatever makes embeddings: an engine of a bundle or a server, over a study table, resumably."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.artifacts import Recipe
from chextriev.encoder import Encoder
from chextriev.errors import InvalidSetting
from chextriev.eval.engine_embeddings import Embedder, Streamed, Task, embed_in_shards, embed_split
from chextriev.eval.engine_identity import Subject, device_of, engine_recipe
from chextriev.eval.results_folder import claimed
from chextriev.eval.run import ALL
from chextriev.study_table import StudyTable

LOCK_FILE = ".embeddings.lock"
METHOD = 1
"""Part of the recipe of what a server embedded."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What is embedded for an evaluation: a split of a study table, into a folder that a later run goes on with.

    split: "all" is every radiograph. shard_rows: radiographs that are written at once; a killed run loses no more.
    """

    table: StudyTable
    folder: Path
    split: str = "test"
    shard_rows: int = 64

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise InvalidSetting(f"shards of {self.shard_rows} radiographs; at least 1 is needed")

    def radiographs(self) -> StudyTable:
        """Those of the split; EmptySplit where there are none."""
        return self.table if self.split == ALL else self.table.of_split(self.split)


def embed_with_encoder(encoder: Encoder, batch: Batch) -> Streamed:
    """By an opened engine of a bundle."""
    rows = batch.radiographs()
    recipe = engine_recipe(encoder, rows, batch.split)
    device = device_of(encoder.engine, "cpu")
    with claimed(batch.folder, LOCK_FILE, holds="embeddings of an evaluation"):
        subject = Subject(encoder, device, rows, batch.folder, recipe)
        return embed_split(subject, shard_rows=batch.shard_rows)


def embed_with_server(embedder: Embedder, digest: str, batch: Batch) -> Streamed:
    """By a server; digest: of the bundle that it says it encodes with."""
    rows = batch.radiographs()
    settings = {"engine": embedder.engine, "split": batch.split, "method": METHOD}
    recipe = Recipe(settings, {"encoder": digest, "study table": rows.digest})
    with claimed(batch.folder, LOCK_FILE, holds="embeddings of an evaluation"):
        return embed_in_shards(Task(embedder, rows, batch.folder, recipe), shard_rows=batch.shard_rows)
