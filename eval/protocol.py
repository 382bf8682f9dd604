"""Protocols: every convention that changes a retrieval number, as one frozen value with a name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from chextriev.errors import InvalidSetting, UnknownProtocol

MIN_QUERIES = 20
"""Smallest group of queries that gets numbers of its own."""


@dataclass(frozen=True)
class IntervalSpec:
    """Percentile bootstrap of the macro averages: patients are drawn with replacement, with all their queries.

    The gallery stays as it is, so the interval speaks of other queries against this gallery.
    """

    draws: int = 1000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.level < 1 or self.seed < 0:
            raise InvalidSetting(f"interval {asdict(self)}; draws >= 1, 0 < level < 1 and seed >= 0 are needed")


@dataclass(frozen=True)
class Protocol:
    """How lists are made and averaged.

    ks: list lengths. exclude_self: a radiograph is never its own neighbour (by id, not by rank).
    exclude_same_patient: nor is any other radiograph of its patient. drop_first: instead the first neighbour is taken
    for the query itself and dropped, whatever it is; where images are equal, the query stays in its own list.
    keep_zero_hit_queries: a query without a hit in the top k counts as 0; otherwise it is left out, for each finding
    and k by itself, which flatters a system (chance is then the ratio of expectations). empty_findings_are_zero: a
    finding that no query has counts as 0 in the averages, and one whose queries are all left out makes the macro
    average undefined; otherwise both are left out of it.
    """

    name: str
    ks: tuple[int, ...] = (3, 5, 10)
    exclude_self: bool = True
    exclude_same_patient: bool = True
    drop_first: bool = False
    keep_zero_hit_queries: bool = True
    empty_findings_are_zero: bool = False
    interval: IntervalSpec = field(default_factory=IntervalSpec)

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1 or list(self.ks) != sorted(set(self.ks)):
            shown = ", ".join(map(str, self.ks)) or "nothing"
            raise InvalidSetting(f"protocol {self.name}: k = {shown}; positive, increasing, each once, as 3,5,10")
        if self.exclude_same_patient and not self.exclude_self:
            raise InvalidSetting(
                f"protocol {self.name}: excluding the patient excludes the radiograph itself; set exclude_self too"
            )
        if self.drop_first and self.exclude_self:
            raise InvalidSetting(
                f"protocol {self.name}: the radiograph itself goes by id or as the first of its list; set exclude_self"
                " or drop_first, not both"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """The protocol saved by `as_dict`; unknown keys are errors."""
        try:
            interval = IntervalSpec(**values["interval"])
            return cls(**{**values, "ks": tuple(values["ks"]), "interval": interval})
        except (KeyError, TypeError) as error:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise InvalidSetting(f"not a protocol ({error}); its settings are {allowed}") from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they read back from JSON."""
        return {**asdict(self), "ks": list(self.ks)}


DEFAULT = Protocol("default")

REFERENCE = Protocol(
    "reference", exclude_self=False, exclude_same_patient=False, drop_first=True, empty_findings_are_zero=True
)
"""The conventions of the published CheXtriev evaluation, whose tables show `ap_over_hits`, `precision` and `rr`."""

REFERENCE_SKIP = replace(REFERENCE, name="reference-skip", keep_zero_hit_queries=False)
"""The same with the published `skip=True`."""

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (DEFAULT, REFERENCE, REFERENCE_SKIP)}


def find_protocol(name: str) -> Protocol:
    """The protocol of this name; UnknownProtocol lists the names."""
    if name not in PROTOCOLS:
        raise UnknownProtocol(name, PROTOCOLS)
    return PROTOCOLS[name]
