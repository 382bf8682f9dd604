"""The encoder's variants as data: one frozen specification on one model family.

Source: CheXtriev (MICCAI 2024), its ablation V0 to V6.
"""

from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any, Literal, get_args

from chextriev.errors import InvalidSetting
from chextriev.preprocess import CropSpec


@dataclass(frozen=True)
class VariantSpec:
    """What a variant of the encoder is made of.

    graph: relate the regions with graph-transformer layers (V0 does not).
    adjacency: which regions the two-row adjacency embedding links; it biases attention and never masks it.
    positions: add a learned vector to each region.
    edges: "none", or a vector for each ordered pair of regions: "learned", or "fixed" at its initial value as in the
    published code.
    residual: gate towards the projected features ("global") or the previous layer ("local").
    region_loss_share: s in loss = (1 - s) BCE(image findings) + s BCE(region findings).
    whole_image: V0 only; the whole image is a 19th vector in the mean that is searched, as in the published numbers;
    the findings are read from the regions alone.
    backbone: "frozen", or "trained" together with the rest, from pixels.
    """

    name: str
    graph: bool = True
    adjacency: Literal["complete", "co-occurrence"] = "complete"
    positions: bool = False
    edges: Literal["none", "fixed", "learned"] = "none"
    residual: Literal["global", "local"] = "global"
    region_loss_share: float = 0.0
    whole_image: bool = False
    backbone: Literal["frozen", "trained"] = "frozen"
    width: int = 1024
    layers: int = 2
    heads: int = 8
    head_width: int = 64
    feed_forward: int = 4
    family: Literal["variant"] = "variant"

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.region_loss_share <= 1:
            raise InvalidSetting(
                f"system {self.name}: region_loss_share is {self.region_loss_share!r}; 0 to 1 is allowed"
            )
        if self.whole_image and self.graph:
            raise InvalidSetting(f"system {self.name}: whole_image needs graph: false; the graph relates 18 regions")
        idle = [] if self.graph else [key for key, none in _NO_GRAPH.items() if getattr(self, key) != none]
        if idle:
            needed = ", ".join(f"{key}: {str(_NO_GRAPH[key]).lower()}" for key in idle)
            raise InvalidSetting(f"system {self.name}: graph: false needs {needed}; only a graph uses other values")

    @property
    def crops(self) -> CropSpec:
        """What of a radiograph the backbone sees."""
        return CropSpec(area="regions+image" if self.whole_image else "regions")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the encoder gives."""
        return "embedding", "finding_logits", "region_logits", "region_vectors"

    def embedding_width(self, feature_width: int) -> int:  # noqa: ARG002 - of the other systems it depends on this
        """Width of the retrieval embedding, for a backbone of this width."""
        return self.width

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


def check_settings(spec: Any) -> None:
    """InvalidSetting for a field of a specification whose value is not of the declared kind.

    Kinds are the choices of a Literal, bool, int (positive), float (finite, or an integer) and str (not empty); true
    and false are no numbers.
    """
    for field in fields(spec):
        value, choices = getattr(spec, field.name), get_args(field.type)
        if choices and not (isinstance(value, str) and value in choices):
            raise InvalidSetting(f"system {spec.name}: {field.name} is {value!r}; choose one of {', '.join(choices)}")
        if not choices and not _is_a(field.type, value):
            raise InvalidSetting(f"system {spec.name}: {field.name} is {value!r}; {_KINDS[field.type]} is needed")


def _is_a(kind: Any, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and -inf < value < inf
    return isinstance(value, kind) and (value != "" if kind is str else value > 0)


_KINDS: dict[Any, str] = {bool: "true or false", int: "a positive integer", float: "a number", str: "text"}
_NO_GRAPH = {"adjacency": "complete", "positions": False, "edges": "none", "residual": "global"}
"""What only a graph uses, at the values that ask nothing of it."""

_V0 = VariantSpec("v0-global", graph=False)
_V2 = VariantSpec("v2")
_V3 = replace(_V2, name="v3", positions=True)
_V4 = replace(_V3, name="v4", edges="learned", residual="local")
_V5 = VariantSpec("v5", edges="learned")
_V6 = replace(_V5, name="v6", positions=True)
VARIANTS: dict[str, VariantSpec] = {
    spec.name: spec
    for spec in (
        _V0,
        replace(_V0, name="v0-local", region_loss_share=1.0),
        replace(_V2, name="v1", adjacency="co-occurrence"),
        _V2,
        _V3,
        _V4,
        replace(_V4, name="v4-local", residual="global", region_loss_share=1.0),
        _V5,
        _V6,
        replace(_V6, name="v6-e2e", backbone="trained"),
    )
}
"""The published ladder; each step differs from an earlier one by the fields named in its replace()."""
