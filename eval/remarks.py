"""What a reader must know of averages over findings: which findings no query has, and which have none left."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chextriev.eval.protocol import Protocol

if TYPE_CHECKING:
    from chextriev.eval.evaluation import ScoresAtK


def remarks_on_findings(protocol: Protocol, at_k: "Mapping[int, ScoresAtK]") -> tuple[str, ...]:
    """In words, without a full stop; nothing where every finding has queries at every k."""
    said = []
    absent = {name: None for scores in at_k.values() for name in _without_queries(protocol, scores)}
    if absent:
        zero = protocol.empty_findings_are_zero
        what = "count as 0 in the averages, as published" if zero else "are left out of the averages"
        said.append(f"findings that no query has {what}: {', '.join(absent)}")
    for k, scores in at_k.items():
        emptied = [
            name
            for name, measures in scores.measured.per_finding.items()
            if not measures.n and measures.precision is None and name not in absent
        ]
        if emptied and protocol.empty_findings_are_zero:
            said.append(
                f"at k = {k} every query was dropped that has {', '.join(emptied)}: undefined, and with it the macro"
                " and weighted averages"
            )
    return tuple(said)


def _without_queries(protocol: Protocol, scores: "ScoresAtK") -> list[str]:
    """A finding that no query has is 0 or undefined by the protocol; chance of one that was emptied is defined."""
    value = 0.0 if protocol.empty_findings_are_zero else None
    chance = scores.chance.per_finding
    return [
        name
        for name, measures in scores.measured.per_finding.items()
        if not measures.n and measures.precision == value and not chance[name].n
    ]
