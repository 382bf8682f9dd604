"""The encoder's variants as data: one frozen specification on one model family.

Source: CheXtriev (MICCAI 2024), its ablation V0 to V6.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from chextriev.errors import InvalidSetting, UnknownVariant


@dataclass(frozen=True)
class VariantSpec:
    """What a variant of the encoder is made of.

    graph: relate the regions with graph-transformer layers (V0 does not).
    adjacency: which regions the two-row adjacency embedding links; it biases attention and never masks it.
    positions: add a learned vector to each region.
    edges: "none", or a vector for each ordered pair of regions: "learned", or "fixed" at its initial value as in the
    published code.
    residual: gate towards the projected features ("global") or the previous layer ("local").
    loss: binary cross-entropy on image findings, or on region findings.
    """

    name: str
    graph: bool = True
    adjacency: Literal["complete", "co-occurrence"] = "complete"
    positions: bool = False
    edges: Literal["none", "fixed", "learned"] = "none"
    residual: Literal["global", "local"] = "global"
    loss: Literal["image", "region"] = "image"
    width: int = 1024
    layers: int = 2
    heads: int = 8
    head_width: int = 64
    feed_forward: int = 4

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            if getattr(self, key) not in allowed:
                raise InvalidSetting(f"variant {self.name}: {key} is {getattr(self, key)!r}; choose from {allowed}")
        for key in ("width", "layers", "heads", "head_width", "feed_forward"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise InvalidSetting(
                    f"variant {self.name}: {key} is {getattr(self, key)!r}; a positive integer is needed"
                )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VariantSpec":
        """The specification saved by `as_dict`; unknown keys are errors."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown or "name" not in values:
            allowed = ", ".join(cls.__dataclass_fields__)
            raise InvalidSetting(
                f"a variant has a name and the settings {allowed}; got {', '.join(values) or 'nothing'}"
            )
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


_CHOICES = {
    "adjacency": ("complete", "co-occurrence"),
    "edges": ("none", "fixed", "learned"),
    "residual": ("global", "local"),
    "loss": ("image", "region"),
}

_V0 = VariantSpec("v0-global", graph=False)
_V2 = VariantSpec("v2")
_V3 = replace(_V2, name="v3", positions=True)
_V4 = replace(_V3, name="v4", edges="learned", residual="local")
_V5 = VariantSpec("v5", edges="learned")
VARIANTS: dict[str, VariantSpec] = {
    spec.name: spec
    for spec in (
        _V0,
        replace(_V0, name="v0-local", loss="region"),
        replace(_V2, name="v1", adjacency="co-occurrence"),
        _V2,
        _V3,
        _V4,
        replace(_V4, name="v4-local", residual="global", loss="region"),
        _V5,
        replace(_V5, name="v6", positions=True),
    )
}
"""The published ladder; each step differs from an earlier one by the fields named in its replace()."""


def find_variant(name: str) -> VariantSpec:
    """The published variant of this name."""
    if name not in VARIANTS:
        raise UnknownVariant(name, VARIANTS)
    return VARIANTS[name]


def new_variant(settings: dict[str, Any]) -> VariantSpec:
    """A variant of one's own: a name, `base` (a published variant to start from, optional) and what differs.

    A published name with other settings is refused, so that no result stands under a name that is not its own.
    """
    own = dict(settings)
    base = own.pop("base", None)
    if not isinstance(own.get("name"), str):
        raise InvalidSetting(f"a variant of your own needs a name; got {', '.join(map(str, settings)) or 'nothing'}")
    start = find_variant(base).as_dict() if base is not None else {}
    spec = VariantSpec.from_dict({**start, **own})
    if VARIANTS.get(spec.name, spec) != spec:
        raise InvalidSetting(
            f"{spec.name!r} is a published variant and these settings are not its own; give yours another name"
            f" (name: my-variant, base: {spec.name}, ...)"
        )
    return spec
