"""Means over seeds: the interval is Student's, and the table says what was measured."""

import statistics

import pytest

from chextriev.errors import InvalidValue
from chextriev.eval.markdown import METRIC_NAMES
from chextriev.eval.run import evaluate
from chextriev.eval.seeds import mean_over_seeds, render_systems, seed_mean


def test_the_interval_is_students() -> None:
    found = seed_mean([0.1, 0.2, 0.4])
    reach = 4.303 * statistics.stdev([0.1, 0.2, 0.4]) / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((0.7 / 3, 0.7 / 3 - reach, 0.7 / 3 + reach))
    assert str(found) == "0.233 (-0.146\N{EN DASH}0.613)"


def test_one_seed_has_no_interval() -> None:
    assert str(seed_mean([0.25])) == "0.250"
    assert seed_mean([0.25]).low is None


@pytest.mark.parametrize("count", [0, 11])
def test_numbers_of_seeds_without_a_quantile_are_refused(count: int) -> None:
    with pytest.raises(InvalidValue, match=f"mean over {count} seeds; 1 to 10"):
        seed_mean([0.5] * count)


def test_a_table_has_a_line_a_system_and_chance(made_up) -> None:
    evaluation = evaluate(made_up)
    rows = {"v6": mean_over_seeds([evaluation, evaluation], k=5), "frozen": mean_over_seeds([evaluation], k=5)}
    macro = evaluation.overall.at_k[5].measured.macro
    assert rows["v6"]["precision"].values == (macro.precision, macro.precision)
    assert (rows["v6"]["rr"].low, rows["v6"]["rr"].high) == (macro.rr, macro.rr)
    lines = render_systems(rows, dict.fromkeys(METRIC_NAMES, 0.5), k=5, seconds={"v6": 61.6}).split("\n")
    assert lines[0] == (
        "| system | precision@5 | hit rate@5 | RR@5 | AP@5 over hits | AP@5 over min(k,R) | AP@5 over R | nDCG@5"
        " | training, s |"
    )
    assert lines[2].startswith(f"| v6 | {macro.precision:.3f} ({macro.precision:.3f}\N{EN DASH}")
    assert lines[2].endswith("| 62 |")
    assert lines[3].endswith("| \N{EN DASH} |")
    assert lines[4] == "| chance" + " | 0.500" * len(METRIC_NAMES) + " | \N{EN DASH} |"
