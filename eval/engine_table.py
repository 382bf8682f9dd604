"""Engines side by side as Markdown: one table, and what its numbers mean."""

from collections.abc import Sequence

from chextriev.eval.engine_comparison import EngineComparison, EngineResult, K
from chextriev.eval.engine_speed import DEFINITIONS
from chextriev.eval.markdown import DASH, describe, format_value

HEADER = (
    "engine",
    "verdict",
    f"precision@{K}",
    f"AP@{K} over hits",
    f"change of AP@{K} (interval)",
    "overlap@10",
    "p50 ms",
    "p95 ms",
    "radiographs/s",
    "MB files",
    "MB memory",
    "cold start s",
)


def render_engines(comparison: EngineComparison) -> str:
    """The text of `engines.md`."""
    about, reference = comparison.about, comparison.reference
    bundle, data, machine = about["bundle"], about["data"], about["machine"]
    left_out = f"; {data['quarantined']} more cannot be read, see `quarantine.csv`" if data["quarantined"] else ""
    parts = [
        f"# Engines of {bundle['system']} on {bundle['backbone']}, split `{data['split']}`",
        f"{data['embedded']:,} radiographs{left_out}. {machine['cpu']}, {machine['cores']} cores,"
        f" {reference.arithmetic}. {describe(reference.evaluation.protocol, reference.evaluation.overall)}",
        render_table(comparison),
        _below(comparison),
    ]
    return "\n\n".join(parts) + "\n"


def render_table(comparison: EngineComparison) -> str:
    """A row an engine, then chance, then the engines without a result."""
    chance = comparison.reference.scores.chance.macro
    rows = [_cells(result) for result in comparison.results]
    rows.append(_padded("chance", DASH, format_value(chance.precision), format_value(chance.ap_over_hits)))
    rows += [_padded(name, "no result, see below") for name in comparison.left_out]
    numeric = ["---", "---", *["---:"] * (len(HEADER) - 2)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (HEADER, numeric, *rows))


def _cells(result: EngineResult) -> tuple[str, ...]:
    macro, speed, judgement = result.scores.measured.macro, result.speed, result.judgement
    memory, start = speed.peak_memory_bytes, speed.cold_start_s
    return (
        result.name,
        result.verdict,
        format_value(macro.precision),
        format_value(macro.ap_over_hits),
        _change(result),
        DASH if judgement is None else format_value(judgement.measured["overlap"]),
        f"{speed.p50_ms:.1f}",
        f"{speed.p95_ms:.1f}",
        f"{result.radiographs_per_s:.1f}",
        f"{result.files_bytes / 1e6:.1f}",
        DASH if memory is None else f"{memory / 1e6:.0f}",
        DASH if start is None else f"{start:.2f}",
    )


def _change(result: EngineResult) -> str:
    change, bounds = result.change_of_ap
    return DASH if bounds is None else f"{change:+.4f} ({bounds[0]:+.4f} to {bounds[1]:+.4f})"


def _padded(*cells: str) -> tuple[str, ...]:
    return (*cells, *[DASH] * (len(HEADER) - len(cells)))


def _below(comparison: EngineComparison) -> str:
    lines = [f"- {name} has no result here: {reason}" for name, reason in comparison.left_out.items()]
    lines += [f"- {result.name}: {remark}" for result in comparison.results for remark in _remarks(result)]
    lines += _meanings(comparison.reference)
    return "\n".join(lines)


def _remarks(result: EngineResult) -> Sequence[str]:
    judged = () if result.judgement is None else result.judgement.failures
    outside = [f"outside the budget of the gate on these radiographs: {', '.join(judged)}"] if judged else []
    return [*outside, *result.speed.remarks]


def _meanings(reference: EngineResult) -> list[str]:
    speed = reference.speed
    counts = f"{speed.process_radiographs} radiographs; the largest of {speed.processes}"
    return [
        "- verdict: of the bundle's card, by the validation split, on this kind of machine",
        f"- change, overlap@10: against {reference.name}; the change with its paired interval",
        f"- p50, p95: {DEFINITIONS['latency']}; {speed.latency_radiographs} radiographs",
        f"- radiographs/s: {DEFINITIONS['radiographs_per_s']}; {reference.radiographs} radiographs",
        f"- MB files: {DEFINITIONS['files']}; 1 MB is 10^6 bytes",
        f"- MB memory: {DEFINITIONS['peak_memory']}; {counts}",
        f"- cold start: {DEFINITIONS['cold_start']}; median of {speed.processes}",
    ]
