"""Which spec is chosen, and which are refused."""

import pytest

from chextriev.errors import InvalidSetting
from chextriev.index.spec import EXACT_BELOW, IndexSpec, choose_spec


def test_exact_below_twenty_thousand_said_in_words():
    spec = choose_spec(EXACT_BELOW - 1, 1024)
    assert spec.is_exact
    assert "fewer than 20,000" in spec.explain(EXACT_BELOW - 1, 1024)


@pytest.mark.parametrize(
    ("n", "width", "factory", "nprobe"),
    [
        (20_000, 64, "IVF256,PQ16x4fs,Refine(SQfp16)", 32),
        (237_000, 1024, "IVF1024,PQ256x4fs,Refine(SQfp16)", 128),
        (1_000_000, 1024, "IVF2048,PQ256x4fs,Refine(SQfp16)", 256),
        (50_000, 45, "IVF512,PQ15x4fs,Refine(SQfp16)", 64),
    ],
)
def test_lists_grow_with_the_square_root(n, width, factory, nprobe):
    spec = choose_spec(n, width)
    assert (spec.factory, spec.nprobe, spec.auto) == (factory, nprobe, True)
    assert factory in spec.explain(n, width)


def test_a_prime_width_is_searched_exactly_and_says_why():
    spec = choose_spec(50_000, 257)
    assert spec.is_exact
    assert "width of 257 does not divide" in spec.explain(50_000, 257)


def test_a_given_spec_is_explained_as_asked():
    assert IndexSpec("Flat").explain(10, 4) == "exact search, as asked"


@pytest.mark.parametrize(
    "settings",
    [
        {"factory": ""},
        {"factory": "Flat; rm"},
        {"factory": "Flat", "metric": "l2"},
        {"factory": "Flat", "nprobe": 0},
        {"factory": "Flat", "rerank": 0},
    ],
)
def test_settings_outside_their_range_are_refused(settings):
    with pytest.raises(InvalidSetting):
        IndexSpec(**settings)


def test_transformed_vectors_must_be_scored_again():
    with pytest.raises(InvalidSetting, match="no cosines; add ',RFlat'"):
        IndexSpec("PCA2,Flat")
    assert IndexSpec("PCA2,Flat,RFlat").factory == "PCA2,Flat,RFlat"
