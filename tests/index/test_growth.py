"""An index that grew answers as one that was built at once, and refuses what cannot join it."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.errors import (
    CountMismatch,
    DuplicateImage,
    EmptySplit,
    InvalidSetting,
    InvalidValue,
    OtherEncoder,
    UnknownColumn,
)
from chextriev.index.build import build_index
from chextriev.index.growth import add, compact, remove
from chextriev.index.search import open_index
from chextriev.index.spec import IndexSpec
from chextriev.index.store import CURRENT, IndexStore
from tests.index.growing import COUNT, SPECS, answers, built, encoded, queries, universe

ALL = np.arange(COUNT)


@pytest.fixture(scope="module", params=[False, True], ids=["text", "integers"])
def radiographs(request):
    return universe(integers=request.param)


@pytest.fixture(scope="module")
def of_text():
    return universe()


@pytest.mark.parametrize("name", ["flat", "half", "lists", "codes", "code lists"])
def test_at_every_step_it_answers_as_if_built_at_once(radiographs, tmp_path, name):
    out = built(radiographs.of(ALL[:60]), tmp_path / "grown", SPECS[name])
    asked = radiographs.of([0, 3, 61, 90])

    def compare(step, rows):
        fresh = answers(built(radiographs.of(rows), tmp_path / step, SPECS[name]), asked)
        found = answers(out, asked)
        assert same_hits(found, fresh) <= (1e-6 if name == "lists" else 0)
        return found

    add(out, radiographs.of(ALL[60:80]))
    compare("added", ALL[:80])
    gone = [0, 8, 9, 59, 60, 79]
    remove(out, radiographs.ids(gone))
    compare("removed", np.setdiff1d(ALL[:80], gone))
    add(out, radiographs.of([9, 79, *range(80, 90)]))
    live = np.r_[np.setdiff1d(ALL[:80], gone), 9, 79, 80:90]
    before = compare("added again", live)
    manifest = compact(out)
    after = compare("compacted", live)
    assert same_hits(after, before) <= (1e-6 if name == "lists" else 0)
    assert [manifest.recipe.settings[each] for each in ("n", "added", "removed")] == [len(live), 0, 0]
    assert "delta.faiss" not in manifest.files


def same_hits(found, wanted):
    """The largest difference of two scores; all else must be equal."""
    off = 0.0
    for lines in zip(found, wanted, strict=True):
        for hits, others in zip(*lines, strict=True):
            assert [replace(hit, score=0) for hit in hits] == [replace(hit, score=0) for hit in others]
            off = max([off, *(abs(hit.score - other.score) for hit, other in zip(hits, others, strict=True))])
    return off


def test_a_column_that_is_missing_is_unknown(of_text, tmp_path):
    out = built(of_text.of(ALL[:50]), tmp_path / "index")
    add(out, replace(of_text.of(ALL[50:]), metadata={}))
    index = open_index(out)
    hits = [hit for hit in index.search(queries(1), COUNT)[0] if hit.row >= 50]
    assert len(hits) == COUNT - 50
    assert {(hit.view, hit.sex, hit.age) for hit in hits} == {(None, None, None)}
    assert {tuple(hit.metadata.values()) for hit in hits} == {(None,) * 4}
    for where in ("portable = true", "portable = false", "dose < 9", "visit < 9", "age < 99", "hospital != north"):
        found = index.search(queries(1), COUNT, where=where)[0]
        assert found
        assert max(hit.row for hit in found) < 50, where
    assert compact(out).recipe.settings["n"] == COUNT
    again = open_index(out).search(queries(1), COUNT)
    assert [hit.metadata for hit in again[0]] == [hit.metadata for hit in index.search(queries(1), COUNT)[0]]


def test_numbers_of_64_bits_stay_as_they_are(tmp_path):
    radiographs = universe(integers=True)
    out = built(radiographs.of(ALL[:50]), tmp_path / "index")
    add(out, radiographs.of(ALL[50:]))
    compact(out)
    assert sorted(open_index(out).columns["image_id"].tolist()) == [2**53 + 1 + number for number in range(COUNT)]


def test_regions_keep_their_ranking(tmp_path):
    radiographs = universe(regions=True)
    out = built(radiographs.of(ALL[:60]), tmp_path / "index")
    asked = encoded(radiographs.of([2, 70, 95]))
    for regions, candidates in (
        ({"left lung": 1.0}, None),
        ({"left lung": 1.0, "mediastinum": 0.5}, None),
        ({"mediastinum": 1}, 20),
    ):

        def ranked(regions=regions, candidates=candidates):
            lines = open_index(out).search(asked, COUNT, regions=regions, candidates=candidates)
            return [[(hit.image_id, hit.score) for hit in hits] for hits in lines]

        before = ranked()
        store = IndexStore(out)
        add(out, radiographs.of(ALL[60:]))
        remove(out, radiographs.ids([5, 61]))
        grown, new, gone = ranked(), set(radiographs.ids(ALL[60:])), set(radiographs.ids([5, 61]))
        if candidates is None:
            kept = [[pair for pair in hits if pair[0] not in gone] for hits in before]
            assert [[pair for pair in hits if pair[0] not in new] for hits in grown] == kept
            assert [len(hits) for hits in grown] == [
                COUNT - 4,
                COUNT - 5,
                COUNT - 5,
            ]  # two removed, and the patient's others
        else:
            assert all(0 < len(hits) <= 20 for hits in grown)
        compact(out)
        assert ranked() == grown
        with store.writing():
            for _ in range(3):
                store.rollback()
    assert open_index(out).generation.rows == 60


def changed(embeddings, **changes):
    return replace(embeddings, **changes)


def with_column(embeddings, name, values):
    return replace(embeddings, metadata={**embeddings.metadata, name: np.array(values)})


REFUSED = {
    "an id that it has": (
        lambda new: changed(new, image_id=np.array(["image 000", "a"], object)),
        DuplicateImage,
        "1 of 2 images are in the index already.*'image 000'",
    ),
    "an id twice": (
        lambda new: changed(new, image_id=np.array(["a", "a"], object)),
        DuplicateImage,
        "'a' stands 2 times",
    ),
    "another encoder": (lambda new: changed(new, encoder_digest="a" * 64), OtherEncoder, "aaaaaaaaaaaa.*eeeeeeeeeeee"),
    "no encoder": (lambda new: changed(new, encoder_digest=""), OtherEncoder, "encoder"),
    "another width": (
        lambda new: changed(new, vectors=new.vectors[:, :16].copy()),
        CountMismatch,
        "width 16 cannot join an index of width 32",
    ),
    "other ids": (
        lambda new: changed(new, image_id=np.arange(2)),
        InvalidValue,
        "type int64 cannot join an index with ids of type object",
    ),
    "an empty id": (lambda new: changed(new, image_id=np.array(["", "a"], object)), InvalidValue, "not empty"),
    "an unknown column": (
        lambda new: with_column(new, "colour", ["red", "blue"]),
        UnknownColumn,
        "no column 'colour' in the index",
    ),
    "words for numbers": (
        lambda new: with_column(new, "dose", np.array(["high", None], object)),
        InvalidValue,
        "column 'dose' holds text, and numbers in the index",
    ),
    "numbers for words": (
        lambda new: with_column(new, "hospital", [1, 2]),
        InvalidValue,
        "column 'hospital' holds numbers, and text in the index",
    ),
    "numbers for true or false": (lambda new: with_column(new, "portable", [1, 2]), InvalidValue, "give true or false"),
    "nothing": (lambda new: new.take(np.arange(0)), EmptySplit, "no radiograph"),
    "a zero vector": (
        lambda new: changed(new, vectors=new.vectors * np.array([[1], [0]], np.float32)),
        InvalidValue,
        "vector 1 is zero",
    ),
    "regions": (
        lambda new: changed(new, region_vectors=np.ones((2, 18, 4), np.float16)),
        InvalidSetting,
        "have region vectors and the index has none",
    ),
}


@pytest.fixture(scope="module")
def grown(of_text, tmp_path_factory):
    out = built(of_text.of(np.argsort(of_text.everything.image_id)[:50]), tmp_path_factory.mktemp("grown") / "index")
    add(out, of_text.of(np.argsort(of_text.everything.image_id)[50:60]))
    return out


def listing(folder):
    return sorted(str(path) for path in folder.rglob("*")), (folder / CURRENT).read_bytes()


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_join_is_refused_and_nothing_changes(of_text, grown, name):
    change, error, words = REFUSED[name]
    new = of_text.of(np.argsort(of_text.everything.image_id)[70:72])
    before = listing(grown)
    with pytest.raises(error, match=words):
        add(grown, change(new))
    assert listing(grown) == before


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (["image 000", "nobody"], "1 of 2 images to remove are not in the index, the first: 'nobody'"),
        ([7], "1 of 1"),
        ([], "no image to remove was named"),
    ],
)
def test_an_unknown_id_is_not_removed(grown, ids, words):
    before = listing(grown)
    with pytest.raises(InvalidValue, match=words):
        remove(grown, ids)
    assert listing(grown) == before


def test_an_index_of_nothing_is_not_compacted(of_text, tmp_path):
    out = built(of_text.of(ALL[:4]), tmp_path / "index")
    remove(out, of_text.ids(ALL[:4]))
    with pytest.raises(InvalidValue, match="1 of 1"):
        remove(out, of_text.ids(ALL[:1]))
    assert (len(open_index(out)), open_index(out).search(queries(2), 3)) == (0, [[], []])
    with pytest.raises(EmptySplit, match="every radiograph was removed"):
        compact(out)
    add(out, of_text.of(ALL[2:5]))
    assert {hit.image_id for hit in open_index(out).search(queries(1), 9)[0]} == set(of_text.ids(ALL[2:5]))


def test_compacting_can_change_the_spec_but_not_the_metric(of_text, tmp_path):
    out = built(of_text.of(ALL), tmp_path / "index")
    assert compact(out, spec=IndexSpec("IVF4,Flat")).recipe.settings["spec"]["factory"] == "IVF4,Flat"
    before = listing(out)
    with pytest.raises(InvalidSetting, match="the index has metric 'cosine'"):
        compact(out, spec=SPECS["codes"])
    assert listing(out) == before


def test_unchanged_files_are_shared(of_text, tmp_path):
    out = built(of_text.of(ALL[:50]), tmp_path / "index")
    add(out, of_text.of(ALL[50:60]))
    remove(out, of_text.ids([3]))
    first, second, third = (each.directory for each in IndexStore(out).generations())
    assert (first / "index.faiss").samefile(third / "index.faiss")
    assert (second / "delta.faiss").samefile(third / "delta.faiss")
    with IndexStore(out).writing():
        IndexStore(out).collect(0)
    assert len(open_index(out)) == 59


class Model:
    """What the index should hold: the live rows of the universe in each generation that can be gone back to."""

    def __init__(self, rows):
        self.history = [frozenset(rows)]

    @property
    def live(self):
        return self.history[0]

    def becomes(self, rows):
        self.history.insert(0, frozenset(rows))


def walk_step(rng, out, radiographs, model, least):
    """One random change of the index and of the model, which keep so many radiographs at least."""
    live, dead = sorted(model.live), sorted(set(ALL.tolist()) - model.live)
    store, step = IndexStore(out), rng.choice(["add", "add", "remove", "remove", "compact", "rollback", "gc"])
    if step == "add" and dead:
        rows = rng.choice(dead, min(len(dead), rng.integers(1, 8)), replace=False)
        add(out, radiographs.of(rows))
        model.becomes(model.live | set(rows.tolist()))
    elif step == "remove" and len(live) > least:
        rows = rng.choice(live, min(len(live) - least, rng.integers(1, 10)), replace=False)
        remove(out, radiographs.ids(rows))
        model.becomes(model.live - set(rows.tolist()))
    elif step == "compact" and live:
        compact(out)
        model.becomes(model.live)
    elif step == "gc":
        keep = int(rng.integers(0, 4))
        with store.writing():
            store.collect(keep)
        model.history = model.history[: keep + 1]
        assert len(store.generations()) == len(model.history)
    elif step == "rollback" and len(model.history) > 1:
        with store.writing():
            store.rollback()
        model.history.pop(0)
    elif step == "rollback":
        with store.writing(), pytest.raises(InvalidSetting, match="no generation that was published before"):
            store.rollback()


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("flat", 0),
        ("lists", 2),
        ("codes", 3),
        pytest.param("flat", 1, marks=pytest.mark.slow),
        pytest.param("graph", 4, marks=pytest.mark.slow),
        pytest.param("code lists", 5, marks=pytest.mark.slow),
    ],
)
def test_a_random_walk_holds_what_a_dictionary_holds(tmp_path, name, seed):
    rng, radiographs = np.random.default_rng(seed), universe(integers=seed % 2 == 0, seed=seed)
    model = Model(range(40))
    out = tmp_path / "index"
    build_index(radiographs.of(sorted(model.live)), out, spec=SPECS[name])
    asked = queries(3, seed)
    vectors = radiographs.everything.vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    if name.startswith("code"):
        unit, asked = np.where(vectors > 0, 1, -1) / np.sqrt(vectors.shape[1]), np.where(asked > 0, 1, -1)
    truth = (asked / np.linalg.norm(asked, axis=1, keepdims=True)) @ unit.T
    for _ in range(60):
        walk_step(rng, out, radiographs, model, 40 if name == "lists" else 0)
        live = np.array(sorted(model.live), np.int64)
        ids = dict(zip(radiographs.ids(live), live.tolist(), strict=True))
        index = open_index(out)
        assert len(index) == len(ids)
        for query, hits in enumerate(index.search(asked.astype(np.float32), COUNT)):
            assert {hit.image_id for hit in hits} == set(ids)
            scores = [truth[query, ids[hit.image_id]] for hit in hits]
            np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-3 if name == "lists" else 1e-6)
            assert [(-hit.score, hit.image_id) for hit in hits] == sorted((-hit.score, hit.image_id) for hit in hits)
