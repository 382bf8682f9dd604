"""The results as a table of text."""

from collections.abc import Mapping, Sequence
from typing import Any


def table_lines(content: Mapping[str, Any]) -> list[str]:
    """Lines for a person: every case, the large index, and which targets are met."""
    machine, settings = content["machine"], content["settings"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, Faiss {content['faiss_version']}"]
    for case in content["cases"]:
        lines += ["", f"{case['n']:,} x {case['width']}, {case['vectors']}", *_case(case, settings)]
    if content["large"]:
        lines += ["", *_large(content["large"], settings["k"])]
    return [*lines, "", "targets", *_targets(content["targets"])]


def _case(case: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    recall = f"ann_recall@{settings['k']}"
    head = ["", "nprobe", "rerank", "ef", recall, "queries/s", "times exact", "single ms", "build s", "MB", "file MB"]
    rows = [
        [
            f"{name} ({each['factory']})",
            *(str(each.get(setting, "")) for setting in ("nprobe", "rerank", "ef_search")),
            f"{each[recall]:.4f}{'' if each['reaches'] else ' *'}",
            f"{each['queries_per_s']:,.0f}",
            f"{each['ratio_to_flat']:.2f}",
            f"{each['single_p50_ms']:.3f}",
            f"{each['build_s']:.1f}",
            f"{each['resident_mb']:,.0f}",
            f"{each['file_mb']:,.0f}",
        ]
        for name, each in case["candidates"].items()
    ]
    missed = any(not each["reaches"] for each in case["candidates"].values())
    return [*_aligned([head, *rows]), *([f"  * less than the {settings['recall']:g} asked for"] if missed else [])]


def _large(large: Mapping[str, Any], k: int) -> list[str]:
    return [
        f"{large['n']:,} x {large['width']} from a file, in a process of its own: {large['spec']}",
        f"  ann_recall@{k} {large[f'ann_recall@{k}']:.4f}, {large['queries_per_s']:,.0f} queries/s, single p50"
        f" {large['single_p50_ms']:.3f} ms, build {large['build_s']:.0f} s, peak memory {large['peak_mb']:,.0f} MB",
    ]


def _targets(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, f"{goal['measured']:.4g}", goal["asked"], "met" if goal["met"] else "NOT MET"]
        for name, goal in found.items()
    ]
    return _aligned([["", "measured", "asked", ""], *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned, the first one to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
