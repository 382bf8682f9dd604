"""The co-occurrence adjacency: its formula, its threshold, and that it sees the train split alone."""

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from chextriev.anatomy import N_FINDINGS, N_REGIONS
from chextriev.artifacts import Recipe, publishing, seal
from chextriev.export.checkpoint import load_checkpoint
from chextriev.study_table import KIND, STUDY_FILE, StudyTable, read_study_table, write_study_parquet
from chextriev.train.adjacency import cooccurrence_adjacency, region_similarity
from chextriev.train.feature_data import FeatureData
from chextriev.train.features import compute_features
from chextriev.train.fit import run_train
from chextriev.train.run_files import open_run
from tests.tiny import write_tiny_table
from tests.train.tiny_training import MeanGrey

Findings = npt.NDArray[np.int8]


def findings_of(*images: dict[tuple[int, int], int]) -> Findings:
    """[N, 18, 9] of images given as {(region, finding): value}; 0 elsewhere."""
    findings = np.zeros((len(images), N_REGIONS, N_FINDINGS), np.int8)
    for image, values in zip(findings, images, strict=True):
        for place, value in values.items():
            image[place] = value
    return findings


def random_findings(seed: int, images: int) -> Findings:
    """A finding of an image sits in many regions or few; three regions carry nothing; one value in ten is unknown."""
    rng = np.random.default_rng(seed)
    of_image = rng.random((images, 1, N_FINDINGS)) < rng.random(N_FINDINGS)
    findings = (of_image & (rng.random((images, N_REGIONS, N_FINDINGS)) < rng.random((N_REGIONS, 1)))).astype(np.int8)
    findings[:, [14, 15, 17]] = 0
    findings[rng.random(findings.shape) < 0.1] = -1
    return findings


def plain_similarity(findings: Findings, a: int, b: int) -> float:
    """The definition, one image, finding and class at a time."""
    carriers = [image for image in findings if 1 in image[a] or 1 in image[b]]
    if not carriers:
        return float("nan")
    scores = []
    for finding in range(N_FINDINGS):
        pairs = [(image[a, finding] == 1, image[b, finding] == 1) for image in carriers]
        classes = []
        for wanted in (True, False):
            either = [pair for pair in pairs if wanted in pair]
            if either:
                classes.append(sum(pair == (wanted, wanted) for pair in either) / len(either))
        scores.append(sum(classes) / len(classes))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("seed", "images"), [(0, 1), (1, 2), (2, 7), (3, 8), (4, 9), (5, 60), (6, 0)])
def test_similarity_is_the_two_class_jaccard_of_every_pair(seed: int, images: int) -> None:
    findings = random_findings(seed, images)
    found = region_similarity(findings)
    wanted = [[plain_similarity(findings, a, b) for b in range(N_REGIONS)] for a in range(N_REGIONS)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)  # NaN where NaN
    assert np.array_equal(found, found.T, equal_nan=True)
    assert np.isnan(found[14, 15])


@pytest.mark.parametrize("seed", range(4))
def test_linked_is_what_is_more_similar_than_a_half(seed: int) -> None:
    findings = random_findings(seed, 50)
    adjacency = cooccurrence_adjacency(findings)
    assert (adjacency.shape, adjacency.dtype) == ((N_REGIONS, N_REGIONS), np.int8)
    pairs = list(combinations(range(N_REGIONS), 2))
    linked = [bool(plain_similarity(findings, a, b) > 0.5) for a, b in pairs]
    assert [bool(adjacency[a, b]) for a, b in pairs] == linked
    assert 0 < sum(linked) < len(linked)
    assert (np.diagonal(adjacency) == 1).all()
    assert (adjacency == adjacency.T).all()


def right_and_left_lung(findings_of_both: int) -> Findings:
    """Two images: in one both lungs carry everything, in the other the left one only so many of the nine findings.

    A finding of both lungs in both images scores 1; any other (1/2 + 0) / 2.
    """
    everything = dict.fromkeys(product((0, 7), range(N_FINDINGS)), 1)
    return findings_of(everything, {place: 1 for place in everything if place[0] == 0 or place[1] < findings_of_both})


@pytest.mark.parametrize(("findings_of_both", "linked"), [(2, 0), (3, 0), (4, 1)])
def test_exactly_a_half_is_not_linked(findings_of_both: int, linked: int) -> None:
    findings = right_and_left_lung(findings_of_both)
    assert region_similarity(findings)[0, 7] == (findings_of_both + (9 - findings_of_both) / 4) / 9
    assert cooccurrence_adjacency(findings)[0, 7] == linked


def test_findings_that_neither_region_has_count_as_agreement() -> None:
    """One finding, in one of the regions: it scores 0 and the eight others 1."""
    findings = findings_of({(2, 0): 1}, {(2, 0): 1})
    similarity = region_similarity(findings)
    assert (similarity[2, [0, 1, *range(3, N_REGIONS)]] == 8 / 9).all()
    assert cooccurrence_adjacency(findings)[2].all()


def test_a_pair_without_an_image_is_not_linked() -> None:
    findings = findings_of({(2, 0): 1}, {})
    similarity, adjacency = region_similarity(findings), cooccurrence_adjacency(findings)
    seen = np.zeros((N_REGIONS, N_REGIONS), bool)
    seen[2] = seen[:, 2] = True
    assert np.array_equal(np.isnan(similarity), ~seen)
    assert np.array_equal(adjacency == 1, seen | np.eye(N_REGIONS, dtype=bool))


def test_without_any_finding_nothing_is_linked_but_itself() -> None:
    assert np.array_equal(cooccurrence_adjacency(findings_of({}, {})), np.eye(N_REGIONS))


def test_unknown_counts_as_absent() -> None:
    findings = random_findings(0, 80)
    assert (findings == -1).any()
    known = np.maximum(findings, 0)
    assert np.array_equal(region_similarity(findings), region_similarity(known), equal_nan=True)


def test_the_order_of_the_images_does_not_matter() -> None:
    findings = random_findings(1, 77)
    assert np.array_equal(region_similarity(findings), region_similarity(findings[::-1]), equal_nan=True)


def write_data(folder: Path, region_findings: Findings) -> tuple[StudyTable, Path]:
    """A study table with these findings of regions, and its features."""
    table = replace(write_tiny_table(folder), region_findings=region_findings)
    with publishing(folder / "own", KIND) as scratch:
        write_study_parquet(table, scratch / STUDY_FILE)
        seal(scratch, KIND, Recipe({}), {"image_root": ".."})
    table = read_study_table(folder / "own")
    compute_features(table, folder / "features", MeanGrey())
    return table, folder / "features"


def trained_adjacency(folder: Path, region_findings: Findings, system: str) -> npt.NDArray[np.int8]:
    """[18, 18] in the checkpoint of a system trained for one step on such findings."""
    write_data(folder, region_findings)
    words = ["fit", "--model.system", system, "--trainer.accelerator", "cpu", "--trainer.max_steps", "1"]
    words += ["--data.features", str(folder / "features"), "--data.table", str(folder / "own")]
    run_train([*words, "--trainer.enable_progress_bar", "false", "--out", str(folder / "run")])
    adjacency = load_checkpoint(open_run(folder / "run")[0]).encoder.adjacency
    assert adjacency is not None
    return np.asarray(adjacency.numpy(), np.int8)


@pytest.mark.parametrize(
    "system",
    [
        "{name: small-v1, base: v1, width: 32, heads: 2, head_width: 8}",
        "{name: small-anaxnet, base: anaxnet, hidden: 32}",
    ],
)
def test_a_checkpoint_holds_the_adjacency_of_the_train_split_alone(tmp_path: Path, system: str) -> None:
    train, others = random_findings(0, 12), random_findings(1, 14)
    findings = np.concatenate([train, others])
    found = trained_adjacency(tmp_path / "first", findings, system)
    assert np.array_equal(found, cooccurrence_adjacency(train))
    assert not np.array_equal(found, cooccurrence_adjacency(findings))

    other_labels = np.concatenate([train, random_findings(2, 14)])
    assert np.array_equal(trained_adjacency(tmp_path / "others-changed", other_labels, system), found)

    other_train = np.concatenate([random_findings(3, 12), others])
    assert not np.array_equal(trained_adjacency(tmp_path / "train-changed", other_train, system), found)


def test_radiographs_in_quarantine_do_not_count(tmp_path: Path) -> None:
    table, _ = write_data(tmp_path, random_findings(0, 26))
    table.image_path(2).unlink()
    compute_features(table, tmp_path / "fewer", MeanGrey())
    data = FeatureData(tmp_path / "fewer", tmp_path / "own")
    assert np.array_equal(data.train_region_findings(), np.delete(table.region_findings, 2, axis=0)[:11])
