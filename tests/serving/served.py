"""A real Triton that serves tiny bundles: a graph encoder with its index and a localizer, and ATH."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

from chextriev.bundle import EncoderBundle, open_bundle
from chextriev.embedding_set import embedding_set
from chextriev.encoder import Encoder, open_encoder
from chextriev.index.build import build_index
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.local_server import LocalServer
from chextriev.serving.repository import build_repository
from chextriev.serving.repository_settings import RepositorySettings
from tests.export.tiny_bundle import TinyBundle

QUEUE = 16
"""Requests that may wait for a model: few, so that a test can overload it."""


@dataclass(frozen=True)
class Served:
    """A running server, what it serves, and radiographs to ask it about."""

    server: LocalServer
    bundle: EncoderBundle
    ath: EncoderBundle
    localizer: EncoderBundle
    index: Path
    files: list[RadiographFile]
    folder: Path

    @cached_property
    def encoder(self) -> Encoder:
        """The graph encoder in this process."""
        return open_encoder(self.bundle)


@pytest.fixture(scope="session")
def served(
    regions_made: TinyBundle, ath: TinyBundle, localizer: TinyBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """One server for all tests that do not harm it."""
    folder, table = tmp_path_factory.mktemp("served"), regions_made.table
    bundles, locating = [open_bundle(regions_made.folder), open_bundle(ath.folder)], open_bundle(localizer.folder)
    radiographs = [table.radiograph(row) for row in range(len(table))]
    embeddings = open_encoder(bundles[0]).encode(radiographs)
    build_index(embedding_set(table, embeddings.vectors, bundles[0].digest), folder / "index")
    settings = RepositorySettings(queue=QUEUE, indexes=(folder / "index",))
    build_repository(bundles, folder / "models", settings, localizer=locating)
    files = [
        RadiographFile(radiograph.image_id, table.image_path(row).read_bytes(), radiograph.boxes)
        for row, radiograph in enumerate(radiographs)
    ]
    with LocalServer(folder / "models") as server:
        yield Served(server, *bundles, locating, folder / "index", files, folder)
