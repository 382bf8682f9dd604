"""One contract, several engines, as in `test_congruence.py`: what is added is found, what is removed is not."""

from dataclasses import replace

import numpy as np
import pytest

from chextriev.errors import (
    CountMismatch,
    DuplicateImage,
    InvalidValue,
    OtherEncoder,
    UnknownColumn,
)
from tests.index.vector_engines import ENGINES, TAKING_PART, K, N, check, made_up, queries_near


@pytest.fixture(scope="module", params=TAKING_PART)
def engine(request):
    return ENGINES[request.param]


@pytest.fixture(scope="module")
def radiographs():
    return made_up()


@pytest.fixture
def grown(engine, radiographs, tmp_path):
    """An index of all radiographs but the last forty, to change."""
    opened = engine.open(radiographs.take(np.arange(N - 40)), tmp_path)
    yield opened
    opened.close()


def test_what_is_added_is_found_and_what_is_removed_is_not(engine, radiographs, grown):
    old, new = np.arange(N) < N - 40, np.arange(N) >= N - 40
    queries = queries_near(radiographs, np.arange(N - 45, N, 5))
    assert len(grown.index) == N - 40
    grown.add(radiographs.take(np.flatnonzero(new)))
    assert len(grown.index) == N
    shares = [check(engine, radiographs, q, h, K) for q, h in zip(queries, grown.index.search(queries, K), strict=True)]
    assert np.mean(shares) >= (1.0 if engine.exact else 0.9)
    gone = np.arange(N) % 3 == 0
    grown.remove(radiographs.image_id[gone].tolist())
    assert len(grown.index) == N - gone.sum()
    for query, hits in zip(queries, grown.index.search(queries, K), strict=True):
        assert check(engine, radiographs, query, hits, K, ~gone) >= 0.7
    grown.add(radiographs.take(np.flatnonzero(gone & old)))
    hits = grown.index.search(queries, K, where="view = PA")
    allowed = (~gone | old) & (radiographs.metadata["view"] == "PA")
    for query, line in zip(queries, hits, strict=True):
        assert check(engine, radiographs, query, line, K, allowed) >= 0.7


def test_additions_that_do_not_fit_change_nothing(radiographs, grown):
    two = radiographs.take(np.array([N - 1, N - 2]))
    with pytest.raises(DuplicateImage, match=radiographs.image_id[0]):
        grown.add(radiographs.take(np.array([N - 1, 0])))
    with pytest.raises(DuplicateImage):
        grown.add(radiographs.take(np.array([N - 1, N - 1])))
    with pytest.raises(OtherEncoder, match=r"aaaaaaaaaaaa.*eeeeeeeeeeee"):
        grown.add(replace(two, encoder_digest="a" * 64))
    with pytest.raises(CountMismatch, match="width 16"):
        grown.add(replace(two, vectors=two.vectors[:, :16]))
    with pytest.raises(InvalidValue):
        grown.add(replace(two, image_id=np.array([1, 2])))
    with pytest.raises(UnknownColumn, match="colour"):
        grown.add(replace(two, metadata={**two.metadata, "colour": np.array(["red", "blue"], object)}))
    with pytest.raises(InvalidValue, match="'nobody'"):
        grown.remove([radiographs.image_id[0], "nobody"])
    assert len(grown.index) == N - 40
    grown.add(replace(two, metadata={"portable": two.metadata["portable"]}))
    hit = grown.index.search(two.vectors[:1], 1)[0][0]
    assert (hit.image_id, hit.view, hit.sex, hit.age) == (two.image_id[0], None, None, None)


def test_ids_may_be_integers(engine, radiographs, tmp_path):
    numbered = replace(radiographs, image_id=np.arange(N)[::-1] + 2**40)
    opened = engine.open(numbered, tmp_path)
    try:
        hits = opened.index.search(numbered.vectors[[55]], 12)[0]
        assert [hit.image_id for hit in hits] == [2**40 + N - 1 - row for row in range(61, 49, -1)] or not engine.exact
        assert all(isinstance(hit.image_id, int) for hit in hits)
        own = opened.index.search(numbered.vectors[[9]], 5, image_ids=[int(numbered.image_id[9])])[0]
        assert numbered.patient_id[9] not in {hit.patient_id for hit in own}
        opened.remove([int(numbered.image_id[0])])
        assert len(opened.index) == N - 1
    finally:
        opened.close()
