"""What an occlusion study says: how retrieval changes when a group of regions is hidden."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from chextriev.anatomy import N_REGIONS
from chextriev.errors import CountMismatch, InvalidSetting
from chextriev.eval.occlusion_groups import GroupExtent
from chextriev.eval.protocol import Protocol

Side = Literal["gallery", "query"]
SIDES: tuple[Side, ...] = get_args(Side)
Method = Literal["pixels", "vectors"]
METHODS: Mapping[str, str] = {
    "pixels": "the pixels of the group's boxes are black before the radiograph is encoded, in every crop that overlaps",
    "vectors": "the group's region vectors are left out of the mean; the encoder has seen all pixels, the other regions"
    " keep what they learned of the hidden ones, and each vector counts with length 1",
}
"""How regions are hidden, in words. Numbers of two methods do not compare."""

MEASURES = ("ap_over_hits", "precision")
"""The metrics whose change is told."""


@dataclass(frozen=True)
class Change:
    """The mean of a metric over the same queries with nothing hidden and with a group hidden.

    change: hidden - visible, so what matters is negative. interval: of the change, patients drawn.
    """

    visible: float
    hidden: float
    change: float
    interval: tuple[float, float]

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True)
class Effect:
    """Changes by the names of `MEASURES`, over n queries; none where there are too few queries to score."""

    n: int
    changes: Mapping[str, Change] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupEffects:
    """What hiding one group does: to each finding by name, and to the macro average over the findings scored."""

    per_finding: Mapping[str, Effect]
    macro: Effect


@dataclass(frozen=True)
class OcclusionStudy:
    """The result, of one method.

    protocol: with one list length. split: "all" for all splits together. n_queries, n_gallery, n_patients: as in an
    evaluation. sides: effects by group, for what is hidden in the gallery and in the query. extents: by group.
    boxes: mean box of each region, x1, y1, x2, y2 in shares of the image; aspect: its mean height / width. about: what
    was encoded by what, for people. parents: digests of all that the numbers depend on.
    """

    method: Method
    protocol: Protocol
    split: str
    n_queries: int
    n_gallery: int
    n_patients: int
    sides: Mapping[str, Mapping[str, GroupEffects]]
    extents: Mapping[str, GroupExtent]
    boxes: tuple[tuple[float, ...], ...]
    aspect: float
    about: Mapping[str, str] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidSetting(f"occlusion method {self.method!r}; choose one of {', '.join(METHODS)}")
        if len(self.protocol.ks) != 1:
            raise InvalidSetting(f"an occlusion study has one list length, not {list(self.protocol.ks)}")
        if np.shape(self.boxes) != (N_REGIONS, 4):
            raise CountMismatch(f"mean boxes have shape {list(np.shape(self.boxes))}; [{N_REGIONS}, 4] is needed")

    @property
    def k(self) -> int:
        """The list length."""
        return self.protocol.ks[0]

    @property
    def findings(self) -> dict[str, int]:
        """Queries of each finding, by name."""
        return {name: effect.n for name, effect in self._first.per_finding.items()}

    @property
    def n_scored(self) -> int:
        """Over how many findings the macro average goes."""
        return sum(1 for effect in self._first.per_finding.values() if effect.changes)

    def visible(self, finding: str | None, measure: str) -> float | None:
        """The metric with nothing hidden, of a finding or of the macro average (None); None where it is not scored."""
        effect = self._first.macro if finding is None else self._first.per_finding[finding]
        return effect.changes[measure].visible if effect.changes else None

    def as_dict(self) -> dict[str, Any]:
        """The content of `occlusion.json`."""
        content = asdict(self)
        return {**content, "how": METHODS[self.method], "protocol": self.protocol.as_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OcclusionStudy":
        """The reverse of `as_dict`."""
        kept = {name: value for name, value in values.items() if name != "how"}
        sides = {
            side: {group: _effects(effects) for group, effects in groups.items()}
            for side, groups in values["sides"].items()
        }
        extents = {group: GroupExtent(**extent) for group, extent in values["extents"].items()}
        boxes = tuple(tuple(box) for box in values["boxes"])
        protocol = Protocol.from_dict(values["protocol"])
        return cls(**{**kept, "protocol": protocol, "sides": sides, "extents": extents, "boxes": boxes})

    @property
    def _first(self) -> GroupEffects:
        groups = next(iter(self.sides.values()))
        return next(iter(groups.values()))


def _effects(values: Mapping[str, Any]) -> GroupEffects:
    per_finding = {name: _effect(effect) for name, effect in values["per_finding"].items()}
    return GroupEffects(per_finding, _effect(values["macro"]))


def _effect(values: Mapping[str, Any]) -> Effect:
    changes = {
        name: Change(**{**change, "interval": (change["interval"][0], change["interval"][1])})
        for name, change in values["changes"].items()
    }
    return Effect(values["n"], changes)
