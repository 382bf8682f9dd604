"""Several trainings of one system: the mean of a metric over seeds and how far it may be off."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from chextriev.errors import InvalidValue
from chextriev.eval.evaluation import Evaluation
from chextriev.eval.markdown import METRIC_NAMES, format_value

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5% quantile of Student's t with 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class SeedMean:
    """A metric over n seeds.

    low, high: mean -+ t s / sqrt(n), the 95% interval for the mean over seeds, where s is the standard deviation of the
    values and t Student's quantile with n - 1 degrees of freedom; None for one seed. It speaks of training alone: what
    another test split would change is in the interval of each evaluation.
    """

    values: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """As in tables: the mean, and the interval where there is one."""
        interval = "" if self.low is None else f" ({format_value(self.low)}\N{EN DASH}{format_value(self.high)})"
        return f"{format_value(self.mean)}{interval}"


def seed_mean(values: Sequence[float]) -> SeedMean:
    """The mean of one value a seed with its interval; from 1 to 10 seeds."""
    if not 1 <= len(values) <= len(T_975) + 1:
        raise InvalidValue(f"a mean over {len(values)} seeds; 1 to {len(T_975) + 1} are possible")
    mean = fmean(values)
    if len(values) == 1:
        return SeedMean(tuple(values), mean, None, None)
    reach = T_975[len(values) - 2] * stdev(values) / len(values) ** 0.5
    return SeedMean(tuple(values), mean, mean - reach, mean + reach)


def mean_over_seeds(evaluations: Sequence[Evaluation], *, k: int) -> dict[str, SeedMean]:
    """Each metric's macro average at k over evaluations of one system on the same queries."""
    macros = [evaluation.overall.at_k[k].measured.macro for evaluation in evaluations]
    return {metric: seed_mean([float(getattr(macro, metric)) for macro in macros]) for metric in METRIC_NAMES}


def render_systems(
    rows: Mapping[str, Mapping[str, SeedMean]], chance: Mapping[str, float], *, k: int, seconds: Mapping[str, float]
) -> str:
    """A Markdown table: a line a system, a column a metric, chance last. seconds: of a training, where there is one."""
    names = [name.replace("@k", f"@{k}") for name in METRIC_NAMES.values()]
    lines = [["system", *names, "training, s"], ["---"] * (len(names) + 2)]
    for system, metrics in rows.items():
        took = f"{seconds[system]:.0f}" if system in seconds else "\N{EN DASH}"
        lines.append([system, *(str(metrics[metric]) for metric in METRIC_NAMES), took])
    lines.append(["chance", *(format_value(chance[metric]) for metric in METRIC_NAMES), "\N{EN DASH}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seeds_as_dict(metrics: Mapping[str, SeedMean]) -> dict[str, Any]:
    """Mean, interval and values of each metric; JSON-able."""
    return {metric: asdict(value) for metric, value in metrics.items()}
