"""The parameters of the quality check: weights, thresholds and where they come from.

They are sums over hundreds of radiographs, and no image can be had back from them. `chextriev train quality` fits them
to anybody's data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.errors import InvalidSetting, MissingFile
from chextriev.quality_view import CELLS, DIRECTIONS, GREYS

FILE = "quality.json"
EDGES = ("left", "top", "right", "bottom")
N_DIRECTIONS = CELLS * CELLS * DIRECTIONS
_SHAPES = {
    "chest": (N_DIRECTIONS + 1,),
    "mirror": (N_DIRECTIONS,),
    "edges": (len(EDGES), N_DIRECTIONS + GREYS * GREYS + 1),
    "chest_scale": (2,),
    "mirror_scale": (2,),
    "edge_scale": (len(EDGES), 2),
}
_DIGITS = 4


@dataclass(frozen=True, eq=False)
class QualityModel:
    """What is looked for, as linear scores.

    chest: [513] float64, weights of a view's directions and a bias; higher for an upright chest with dark air.
    mirror: [512], the same for the heart on its usual side. edges: [4, 769], how far the lungs reach past the left,
    top, right and bottom of the picture, as shares of its width or height; below 0 where they end inside.
    *_scale: threshold and the distance from it at which a score counts as all but certain, of each.
    source: in words, the data that all of this was fitted to.
    """

    chest: npt.NDArray[np.float64]
    mirror: npt.NDArray[np.float64]
    edges: npt.NDArray[np.float64]
    chest_scale: npt.NDArray[np.float64]
    mirror_scale: npt.NDArray[np.float64]
    edge_scale: npt.NDArray[np.float64]
    source: str

    def __post_init__(self) -> None:
        for name, shape in _SHAPES.items():
            array = getattr(self, name)
            if array.shape != shape or not np.isfinite(array).all():
                raise InvalidSetting(f"quality model: {name} is {list(array.shape)}; finite {list(shape)} is needed")
            array.setflags(write=False)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "QualityModel":
        """The reverse of `as_dict`."""
        allowed = {*_SHAPES, "source"}
        if set(content) != allowed:
            raise InvalidSetting(f"quality model: keys {', '.join(sorted(content))}; needed: {', '.join(allowed)}")
        arrays = {name: np.array(content[name], np.float64) for name in _SHAPES}
        return cls(**arrays, source=str(content["source"]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, rounded as they are written."""
        return {"source": self.source, **{name: _rounded(getattr(self, name).tolist()) for name in _SHAPES}}

    def write(self, path: Path) -> None:
        """Write a JSON file, one line a parameter."""
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.as_dict().items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.{_DIGITS}g}")


def read_quality_model(path: Path) -> QualityModel:
    """The parameters in a file that `QualityModel.write` made."""
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise MissingFile(f"{path}: {error.strerror}; `chextriev train quality` writes such a file") from None
    except ValueError as error:
        raise InvalidSetting(f"{path} is not a JSON file ({error}); `chextriev train quality` writes one") from None
    if not isinstance(content, dict):
        raise InvalidSetting(f"{path} is not a JSON object; `chextriev train quality` writes one")
    return QualityModel.from_dict(content)


@cache
def shipped_model() -> QualityModel:
    """The parameters of this package."""
    return QualityModel.from_dict(json.loads(files("chextriev").joinpath(FILE).read_text()))
