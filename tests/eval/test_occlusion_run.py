"""`chextriev eval occlusion`, from a bundle or from region vectors to a folder of results."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from chextriev.artifacts import Recipe, publishing, read_manifest, seal
from chextriev.cli import EXIT_REFUSED, main
from chextriev.embedding_set import KIND, EmbeddingSet, write_embedding_files
from chextriev.encoder import open_encoder
from chextriev.errors import InvalidSetting, OutputExists
from chextriev.eval import occlusion_run
from chextriev.eval.occlusion_groups import GROUPS
from chextriev.eval.occlusion_run import OcclusionSettings, occlude_pixels, occlude_vectors, read_occlusion
from chextriev.eval.protocol import IntervalSpec
from chextriev.eval.run import evaluate
from chextriev.study_table import StudyTable
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import write_tiny_table

SETTINGS = OcclusionSettings(groups=("lungs", "trachea"), shard_rows=16, interval=IntervalSpec(draws=20))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    """44 radiographs, 22 with an opacity; the other findings are too rare to score."""
    return write_tiny_table(tmp_path_factory.mktemp("tiny"), per_split=(0, 0, 44))


@pytest.fixture(scope="module")
def done(ath: TinyBundle, table: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with two groups."""
    out = tmp_path_factory.mktemp("occlusion") / "out"
    occlude_pixels(open_encoder(ath.folder), table, out, SETTINGS)
    return out


def test_the_folder_holds_the_study_and_what_it_is_made_of(done: Path, ath: TinyBundle, table: StudyTable) -> None:
    study = read_occlusion(done)
    manifest = read_manifest(done, occlusion_run.KIND)
    parents = manifest.recipe.parents
    assert parents["encoder"] == open_encoder(ath.folder).bundle.digest
    assert parents["study table"] == table.digest
    assert parents["without trachea"] == read_manifest(done / "02-without-trachea" / "embeddings", KIND).digest
    assert len({parents[name] for name in ("visible", "without lungs", "without trachea")}) == 3
    assert (study.method, study.n_gallery, study.n_scored) == ("pixels", 44, 1)
    assert json.loads((done / "occlusion.json").read_text()) == json.loads(json.dumps(study.as_dict()))
    assert "ath on" in (done / "occlusion.svg").read_text()
    ElementTree.parse(done / "occlusion.svg")


def test_a_run_that_was_interrupted_goes_on_and_ends_alike(
    done: Path, ath: TinyBundle, table: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, begun = tmp_path / "out", []
    embed = occlusion_run.embed_split

    def interrupted(subject, **options):  # type: ignore[no-untyped-def]
        begun.append(subject.folder.name)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return embed(subject, **options)

    monkeypatch.setattr(occlusion_run, "embed_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        occlude_pixels(open_encoder(ath.folder), table, out, SETTINGS)
    assert not (out / "manifest.json").exists()
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/embeddings/manifest.json")}
    assert len(stamps) == 2
    occlude_pixels(open_encoder(ath.folder), table, out, SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert (out / "occlusion.md").read_text() == (done / "occlusion.md").read_text()
    assert read_occlusion(out).sides == read_occlusion(done).sides


def test_another_folder_is_not_written_to(ath: TinyBundle, table: StudyTable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="holds no occlusion study"):
        occlude_pixels(open_encoder(ath.folder), table, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def with_regions(embeddings: EmbeddingSet) -> EmbeddingSet:
    regions = np.random.default_rng(4).normal(size=(len(embeddings), 18, 8))
    regions /= np.linalg.norm(regions, axis=2, keepdims=True)
    return replace(embeddings, region_vectors=regions.astype(np.float16))


@pytest.fixture
def embeddings(made_up: EmbeddingSet, tmp_path: Path) -> Path:
    """The made-up embeddings with region vectors, on disk."""
    with publishing(tmp_path / "embeddings", KIND) as scratch:
        write_embedding_files(with_regions(made_up), scratch)
        seal(scratch, KIND, Recipe({}, {"encoder": "e" * 64, "study table": "s" * 64}))
    return tmp_path / "embeddings"


@pytest.fixture
def study_table(pictures: StudyTable, tmp_path: Path) -> Path:
    """The study table of the made-up embeddings, on disk."""
    from chextriev.study_table import KIND as TABLE
    from chextriev.study_table import STUDY_FILE, write_study_parquet

    with publishing(tmp_path / "study", TABLE) as scratch:
        write_study_parquet(pictures, scratch / STUDY_FILE)
        seal(scratch, TABLE, Recipe({}), {"image_root": "."})
    return tmp_path / "study"


def test_the_command_leaves_out_region_vectors(
    embeddings: Path, study_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "eval",
        "occlusion",
        str(embeddings),
        str(study_table),
        str(tmp_path / "out"),
        "-k",
        "3",
        "--hide",
        "query",
    ]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["method"], list(printed["sides"]), printed["protocol"]["ks"]) == ("vectors", ["query"], [3])
    assert list(printed["sides"]["query"]) == list(GROUPS)
    assert printed == json.loads((tmp_path / "out" / "occlusion.json").read_text())
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("# Region vectors left out of the mean, split `test`, k = 3")
    assert "Region vectors" in text
    assert "crops: how many" not in text


def test_leaving_out_vectors_begins_from_the_mean_of_all(
    made_up: EmbeddingSet, pictures: StudyTable, tmp_path: Path
) -> None:
    whole = with_regions(made_up)
    assert whole.region_vectors is not None
    study = occlude_vectors(whole, pictures, tmp_path / "out", SETTINGS)
    mean = replace(whole, vectors=np.asarray(whole.region_vectors).mean(axis=1, dtype=np.float32), region_vectors=None)
    protocol = SETTINGS.protocol
    measured = evaluate(mean, protocol).overall.at_k[5].measured.per_finding["lung opacity"]
    assert study.visible("lung opacity", "precision") == pytest.approx(measured.precision)
    rest = [region for region in range(18) if region not in GROUPS["lungs"]]
    without = np.asarray(whole.region_vectors)[:, rest].mean(axis=1, dtype=np.float32)
    found = occlusion_run.measure_occlusion(
        mean, {"lungs": replace(mean, vectors=without)}, protocol, sides=("gallery",)
    )
    assert study.sides["gallery"]["lungs"] == found["gallery"]["lungs"]


def test_vectors_need_regions_and_their_own_table(made_up: EmbeddingSet, pictures: StudyTable, tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="no region vectors; embed again with --regions"):
        occlude_vectors(made_up, pictures, tmp_path / "out")
    with pytest.raises(InvalidSetting, match="lacks 30 of 90 embedded images"):
        occlude_vectors(with_regions(made_up), pictures.take(np.arange(60)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_in_words(study_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "occlusion", str(tmp_path / "none"), str(study_table), str(tmp_path / "out")]
    assert main(words) == EXIT_REFUSED
    assert "the directory of an encoder bundle is needed" in capsys.readouterr().err
