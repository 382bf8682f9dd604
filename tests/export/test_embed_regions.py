"""`embed --regions`: 18 vectors a radiograph beside its embedding."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chextriev.cli import main
from chextriev.embedding_set import REGIONS_FILE, read_embeddings, write_embedding_files
from chextriev.encoder import Embeddings, open_encoder
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.export.embed import embed_table
from chextriev.lazy_rows import LazyRows
from chextriev.study_table import StudyTable
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import write_tiny_table


@pytest.fixture
def table(tmp_path: Path) -> StudyTable:
    return write_tiny_table(tmp_path / "few", per_split=(6, 4, 2))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_the_command_writes_what_the_encoder_says_of_each_region(
    regions: TinyBundle, table: StudyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.image_path(2).write_bytes(b"not a picture")
    words = ["embed", regions.folder, table.image_root / "study", tmp_path / "e", "--regions", "--json"]
    assert main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is False
    assert main([str(word) for word in words]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True
    embeddings = read_embeddings(tmp_path / "e")
    kept = [row for row in range(12) if row != 2]
    found = embeddings.region_vectors
    assert isinstance(found, np.memmap)
    assert (found.shape, found.dtype) == ((11, 18, 32), np.dtype(np.float16))
    expected = open_encoder(regions.folder).encode([table.radiograph(row) for row in kept])
    np.testing.assert_allclose(found, unit(expected.region_vectors), atol=1e-3)
    np.testing.assert_allclose(embeddings.vectors, expected.vectors, atol=1e-5)


def test_embeddings_without_regions_are_not_taken_for_those_with(
    regions: TinyBundle, table: StudyTable, tmp_path: Path
) -> None:
    encoder = open_encoder(regions.folder)
    without, _ = embed_table(encoder, table, tmp_path / "e")
    assert read_embeddings(tmp_path / "e").region_vectors is None
    assert "regions" not in without.recipe.settings
    with_them, reused = embed_table(encoder, table, tmp_path / "e", regions=True)
    assert not reused
    assert with_them.digest != without.digest
    assert read_embeddings(tmp_path / "e").region_vectors is not None


def test_systems_of_the_whole_image_have_no_region_vectors(ath: TinyBundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="but ath sees the whole image and has none; embed without them, or with"):
        embed_table(open_encoder(ath.folder), ath.table, tmp_path / "e", regions=True)
    assert not (tmp_path / "e").exists()


def test_of_19_vectors_the_whole_image_is_left_out(
    regions: TinyBundle, table: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(regions.folder)
    relate = type(encoder).relate

    def with_whole_image(self: object, features: np.ndarray, image_ids: object) -> Embeddings:
        found = relate(self, features, image_ids)
        regions = np.concatenate([found.region_vectors, np.full((len(found), 1, 32), 7, np.float32)], axis=1)
        regions[0, 3] = 0
        return replace(found, region_vectors=regions)

    embed_table(encoder, table, tmp_path / "18", regions=True)
    monkeypatch.setattr(type(encoder), "relate", with_whole_image)
    embed_table(encoder, table, tmp_path / "19", regions=True)
    of_18, of_19 = (np.array(read_embeddings(tmp_path / name).region_vectors) for name in ("18", "19"))
    assert not of_19[[0, 8], 3].any()  # the first of each batch of 8: what is zero stays zero
    of_18[[0, 8], 3] = 0
    np.testing.assert_array_equal(of_19, of_18)


def test_chosen_rows_are_read_when_asked_for(regions: TinyBundle, table: StudyTable, tmp_path: Path) -> None:
    embed_table(open_encoder(regions.folder), table, tmp_path / "e", regions=True)
    whole = read_embeddings(tmp_path / "e")
    rows = np.array([7, 0, 3])
    taken = whole.take(rows)
    assert isinstance(taken.region_vectors, LazyRows)
    assert taken.region_vectors.source is whole.region_vectors
    again = taken.take(np.array([2, 1]))
    assert again.region_vectors.source is whole.region_vectors
    np.testing.assert_array_equal(again.region_vectors[:], whole.region_vectors[[3, 0]])
    np.testing.assert_array_equal(again.region_vectors[np.array([1, 0]), 4], whole.region_vectors[[0, 3], 4])
    (tmp_path / "copy").mkdir()
    write_embedding_files(taken, tmp_path / "copy")
    np.testing.assert_array_equal(np.load(tmp_path / "copy" / REGIONS_FILE), whole.region_vectors[rows])
    with pytest.raises(CountMismatch, match=r"region vectors have shape \[12, 18, 32\]; \[3, 18, 'width'\] is needed"):
        replace(taken, region_vectors=whole.region_vectors)
    assert whole.take(rows[:0]).region_vectors.shape == (0, 18, 32)
