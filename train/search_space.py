"""What `chextriev train tune` searches: settings of a training configuration, each with a range or choices.

Both published losses are in a space whose `model.system.region_loss_share` may vary, and their values do not compare;
so a search is judged by a metric of the validate split, never by a loss.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

from chextriev.errors import InvalidSetting
from chextriev.train.encoder_module import EncoderModule
from chextriev.train.feature_data import FeatureData
from chextriev.train.settings_tree import read_yaml

METRICS = ("val_auroc", "val_precision_at_5")
"""What a search may make as large as possible."""

SYSTEM = "model.system."
"""How the names of a system's own settings begin, such as `model.system.layers`."""

_KNOWN = {"model": EncoderModule, "data": FeatureData}
_GROUPS = ("model", "data", "trainer", "early_stopping")
_FIXED = ("model.system", "model.feature_width", "model.provenance", "model.weights", "data.features", "data.table")

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole numbers where both are. log: as many in each decade."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidSetting(f"{name} is {value!r}; a number is needed")
        if not self.low < self.high:
            raise InvalidSetting(f"low is {self.low!r} and high {self.high!r}; low must be below high")
        if not isinstance(self.log, bool):
            raise InvalidSetting(f"log is {self.log!r}; true or false is needed")
        if self.log and self.low <= 0:
            raise InvalidSetting(f"low is {self.low!r} on a log scale; a positive number is needed")

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """Values that show whether a setting accepts the range."""
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """A list of text, numbers, true, false or null."""

    choices: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.choices, list | tuple) or not self.choices:
            raise InvalidSetting(f"choices is {self.choices!r}; a list of values is needed")
        object.__setattr__(self, "choices", tuple(self.choices))
        for value in self.choices:
            if not isinstance(value, Scalar):
                raise InvalidSetting(f"the choice {value!r} is not text, a number, true, false or null")
        if len(set(self.choices)) < len(self.choices):
            raise InvalidSetting(f"the choices {', '.join(map(repr, self.choices))} repeat a value; name each once")

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """Values that show whether a setting accepts the choices."""
        return self.choices


@dataclass(frozen=True)
class SearchSpace:
    """A search: over what, for how many trials, and judged by what.

    metric: of the validate split; the larger, the better. trials: to complete. seed: of what is tried.
    space: name of a setting, as on the command line of `train fit` -> its range or choices.
    """

    space: Mapping[str, Range | Choices]
    metric: str = METRICS[0]
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InvalidSetting(f"metric is {self.metric!r}; choose from {', '.join(METRICS)}")
        for name, least in (("trials", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidSetting(f"{name} is {value!r}; a whole number from {least} is needed")
        if not self.space:
            raise InvalidSetting("space is empty; name at least one setting, such as model.learning_rate")
        for name in self.space:
            _check_name(name)

    def identity(self) -> dict[str, Any]:
        """What tells two searches apart, as plain values; the number of trials does not."""
        values = asdict(self)
        del values["trials"]
        return values


def read_space(path: Path) -> SearchSpace:
    """The search space of a YAML file; InvalidSetting names what is wrong in it."""
    content = read_yaml(path)
    try:
        return space_from_dict(content)
    except InvalidSetting as error:
        raise InvalidSetting(f"{path}: {error}") from error


def space_from_dict(content: Any) -> SearchSpace:
    """The search space that a YAML document states; unknown keys are errors."""
    allowed = [field.name for field in fields(SearchSpace)]
    if not isinstance(content, dict) or set(content) - set(allowed) or not isinstance(content.get("space"), dict):
        got = ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
        raise InvalidSetting(f"a search space has space (a mapping) and may have metric, trials, seed; got {got}")
    return SearchSpace(
        **{**content, "space": {name: _domain(name, values) for name, values in content["space"].items()}}
    )


def _domain(name: Any, values: Any) -> Range | Choices:
    for kind in (Choices, Range):
        required = {"choices"} if kind is Choices else {"low", "high"}
        if isinstance(values, dict) and required <= set(values) <= {field.name for field in fields(kind)}:
            try:
                return kind(**values)
            except InvalidSetting as error:
                raise InvalidSetting(f"{name}: {error}") from error
    raise InvalidSetting(f"{name} is {values!r}; {{low: , high: , log: }} or {{choices: [...]}} is needed")


def _check_name(name: Any) -> None:
    group, _, setting = str(name).partition(".")
    if group not in _GROUPS or not setting or name in _FIXED:
        raise InvalidSetting(
            f"{name} cannot be searched; settings of {', '.join(_GROUPS)} can, such as model.learning_rate or"
            f" {SYSTEM}layers, but not {', '.join(_FIXED)}"
        )
    if group in _KNOWN and not name.startswith(SYSTEM):
        known = [f"{group}.{key}" for key in signature(_KNOWN[group]).parameters]
        if name not in known:
            allowed = [other for other in known if other not in _FIXED] + [f"{SYSTEM}SETTING"]
            raise InvalidSetting(f"there is no setting {name}; choose one of {', '.join(allowed)}")
