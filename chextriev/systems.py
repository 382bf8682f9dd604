"""Every encoder of the paper by name: the variants V0 to V6 and the three baselines.

A system is data: a frozen specification of one of four families. All of them are served alike: crops of a radiograph
go through a convolutional backbone, and what it gives goes through an encoder. They differ in what is cropped and in
what the encoder does.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chextriev.errors import InvalidSetting, UnknownSystem
from chextriev.preprocess import CropSpec
from chextriev.variants import VARIANTS, VariantSpec, check_settings


@dataclass(frozen=True)
class AnaxnetSpec:
    """AnaXNet (Agu et al., 2021): two graph convolutions over the regions, then attention to them.

    adjacency: which regions are linked; here it masks. hidden: width between the convolutions.
    """

    name: str = "anaxnet"
    adjacency: Literal["complete", "co-occurrence"] = "co-occurrence"
    hidden: int = 2048
    family: Literal["anaxnet"] = "anaxnet"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def crops(self) -> CropSpec:
        """What of a radiograph the backbone sees."""
        return CropSpec()

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the encoder gives."""
        return "embedding", "finding_logits", "region_vectors"

    def embedding_width(self, feature_width: int) -> int:
        """Width of the retrieval embedding, for a backbone of this width."""
        return feature_width

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class GlobalCnnSpec:
    """The whole image through the backbone, without anatomy.

    embedding: what is searched, the "backbone" feature (as published) or the "hidden" layer of the classifier.
    hidden: width of that layer.
    """

    name: str = "global-cnn"
    embedding: Literal["backbone", "hidden"] = "backbone"
    hidden: int = 1024
    backbone: Literal["frozen", "trained"] = "frozen"
    family: Literal["global-cnn"] = "global-cnn"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def crops(self) -> CropSpec:
        """What of a radiograph the backbone sees."""
        return CropSpec(area="image")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the encoder gives."""
        return "embedding", "finding_logits"

    def embedding_width(self, feature_width: int) -> int:
        """Width of the retrieval embedding, for a backbone of this width."""
        return feature_width if self.embedding == "backbone" else self.hidden

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class AthSpec:
    """Attention-based triplet hashing (Fang et al., 2021): a small network of its own and a hash of the whole image.

    bits: of the hash. margin: of the triplet loss, a bit.
    """

    name: str = "ath"
    bits: int = 32
    margin: float = 0.5
    family: Literal["ath"] = "ath"

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.margin > 0:
            raise InvalidSetting(f"system {self.name}: margin is {self.margin!r}; a positive number is needed")

    @property
    def crops(self) -> CropSpec:
        """What of a radiograph the network sees."""
        return CropSpec(size=256, area="image")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the encoder gives."""
        return "embedding", "finding_logits", "hash_bits"

    def embedding_width(self, feature_width: int) -> int:  # noqa: ARG002 - of the other systems it depends on this
        """Width of the retrieval embedding."""
        return self.bits

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


@dataclass(frozen=True)
class LocalizerSpec:
    """The anatomy localizer: the whole image in, a box and a confidence for each of the 18 regions out.

    Not a system of the paper, which takes boxes as given; it makes them where nobody drew them, and embeds nothing.
    size: of the square that it sees, in pixels.
    """

    name: str = "localizer"
    size: int = 224
    backbone: Literal["trained"] = "trained"
    family: Literal["localizer"] = "localizer"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.size % 32:
            raise InvalidSetting(f"system {self.name}: size is {self.size}; a multiple of 32 is needed")

    @property
    def crops(self) -> CropSpec:
        """What of a radiograph the network sees."""
        return CropSpec(size=self.size, area="image")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the localizer gives: boxes as fractions of the image, and the overlap that it expects of each."""
        return "region_boxes", "box_confidence"

    def embedding_width(self, feature_width: int) -> int:  # noqa: ARG002 - of the other systems it depends on this
        """Nothing is embedded."""
        return 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and checkpoints."""
        return asdict(self)


SystemSpec = VariantSpec | AnaxnetSpec | GlobalCnnSpec | AthSpec | LocalizerSpec

_FAMILIES: dict[str, type[SystemSpec]] = {
    "variant": VariantSpec,
    "anaxnet": AnaxnetSpec,
    "global-cnn": GlobalCnnSpec,
    "ath": AthSpec,
    "localizer": LocalizerSpec,
}

SYSTEMS: dict[str, SystemSpec] = {
    **{spec.name: spec for spec in (GlobalCnnSpec(), AthSpec(), AnaxnetSpec())},
    **VARIANTS,
}
"""The systems of the paper."""

LOCALIZER = LocalizerSpec()
"""What `find_system` gives for "localizer"."""


def find_system(name: str) -> SystemSpec:
    """The system of this name."""
    if name == LOCALIZER.name:
        return LOCALIZER
    if not isinstance(name, str) or name not in SYSTEMS:
        raise UnknownSystem(name, SYSTEMS)
    return SYSTEMS[name]


def system_from_dict(values: dict[str, Any]) -> SystemSpec:
    """The specification saved by `as_dict`; unknown keys are errors."""
    _check_mapping(values)
    family = values.get("family", "variant")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise InvalidSetting(f"there is no family {family!r} of systems; choose one of {', '.join(_FAMILIES)}")
    kind = _FAMILIES[family]
    if set(values) - set(kind.__dataclass_fields__) or not isinstance(values.get("name"), str):
        allowed = ", ".join(kind.__dataclass_fields__)
        raise InvalidSetting(f"a system has a name and the settings {allowed}; got {', '.join(values) or 'nothing'}")
    return kind(**values)


def new_system(settings: dict[str, Any]) -> SystemSpec:
    """A system of one's own: a name, `base` (a system of the paper to start from, optional) and what differs.

    A name of the paper with other settings is refused, so that no result stands under a name that is not its own.
    """
    _check_mapping(settings)
    own = dict(settings)
    base = own.pop("base", None)
    if not isinstance(own.get("name"), str):
        raise InvalidSetting(f"a system of your own needs a name; got {', '.join(settings) or 'nothing'}")
    start = find_system(base).as_dict() if base is not None else {}
    spec = system_from_dict({**start, **own})
    if SYSTEMS.get(spec.name, spec) != spec:
        raise InvalidSetting(
            f"{spec.name!r} is a system of the paper and these settings are not its own; give yours another name"
            f" (name: my-system, base: {spec.name}, ...)"
        )
    return spec


def _check_mapping(settings: Any) -> None:
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise InvalidSetting(f"a system is its settings by name (name: my-system, base: v6, ...); got {settings!r}")


def trains_backbone(spec: SystemSpec) -> bool:
    """Whether the convolutions learn too, so that training starts from pixels."""
    return isinstance(spec, AthSpec | LocalizerSpec) or getattr(spec, "backbone", "frozen") == "trained"
