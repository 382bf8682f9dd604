"""One scene graph of Chest ImaGenome: the boxes of the 18 regions and the findings said of them.

Source: Wu et al., "Chest ImaGenome Dataset", NeurIPS 2021 (silver set), read as the published CheXtriev code reads it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Finding, Region
from chextriev.errors import UnreadableSceneGraph
from chextriev.radiograph import RegionBoxes

SUFFIX = "_SceneGraph.json"
_CATEGORIES = ("anatomicalfinding", "disease")  # pneumonia and heart failure come as diseases
_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")  # x1..y2 live in a padded square of 224
_REGIONS: Mapping[str, int] = {region.label: int(region) for region in Region}
_FINDINGS: Mapping[str, int] = {finding.label: int(finding) for finding in Finding}


@dataclass(frozen=True, eq=False)
class SceneGraph:
    """What the study table needs of one scene graph.

    region_findings: [18, 9] int8, 1 or 0; a finding that no phrase mentions is 0, as in the reference.
    age: years, the middle of the stated decade, -1 where unknown. viewpoint: as written, "" where absent.
    """

    image_id: str
    viewpoint: str
    sex: str | None
    age: int
    boxes: RegionBoxes
    region_findings: npt.NDArray[np.int8]


def parse_scene_graph(content: bytes, *, where: str) -> SceneGraph:
    """Read one file; keys other than objects may be absent, regions beyond the 18 are passed over.

    Raises UnreadableSceneGraph if it is not such a JSON document, a BoxError if its 18 boxes are not usable.
    """
    try:
        graph = _load(content, where=where)
        pairs = _box_pairs(graph["objects"])
        findings = _region_findings(graph.get("attributes") or [])
        return SceneGraph(
            image_id=str(graph.get("image_id") or image_id_of(where)),
            viewpoint=str(graph.get("viewpoint") or ""),
            sex=graph.get("gender") if graph.get("gender") in ("F", "M") else None,
            age=_middle_of_decade(graph.get("age_decile")),
            boxes=RegionBoxes.from_pairs(pairs, where=where),
            region_findings=findings,
        )
    except KeyError as error:
        raise UnreadableSceneGraph(f"{where}: no key {error}; a scene graph of Chest ImaGenome is needed") from None
    except (TypeError, AttributeError, OverflowError) as error:
        raise UnreadableSceneGraph(f"{where}: not laid out like a scene graph of Chest ImaGenome ({error})") from None


def image_id_of(name: str) -> str:
    """The image id that a scene graph's file name states."""
    return PurePosixPath(name).name.removesuffix(SUFFIX)


def _load(content: bytes, *, where: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableSceneGraph(f"{where}: not a JSON document ({error})") from None


def _box_pairs(objects: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """(region name, corners) of the 18 regions; an object without all corners has no box."""
    found = [item for item in objects if item.get("bbox_name") in _REGIONS]
    pairs = [(item["bbox_name"], [item.get(corner) for corner in _CORNERS]) for item in found]
    return [pair for pair in pairs if None not in pair[1]]


def _region_findings(attributes: list[dict[str, Any]]) -> npt.NDArray[np.int8]:
    """Replay every phrase in order, so that the last mention of a finding in a region stands."""
    values = bytearray(N_REGIONS * N_FINDINGS)
    for item in attributes:
        region = _REGIONS.get(item.get("bbox_name", ""))
        if region is None:
            continue
        for phrase in item.get("attributes") or ():
            for text in phrase:
                meaning = _meaning(text)
                if meaning:
                    values[region * N_FINDINGS + meaning[0]] = meaning[1]
    return np.frombuffer(values, dtype=np.int8).reshape(N_REGIONS, N_FINDINGS)


@lru_cache(maxsize=8192)
def _meaning(text: str) -> tuple[int, int] | None:
    """(finding, 1 or 0) of `category|yes|label`, or None for another label."""
    category, _, rest = text.partition("|")
    answer, _, label = rest.partition("|")
    if category not in _CATEGORIES or label not in _FINDINGS:
        return None
    return _FINDINGS[label], int(answer == "yes")


def _middle_of_decade(decile: object) -> int:
    """The middle, in years, of "50-60"; a single number stands for itself."""
    years = [int(number) for number in re.findall(r"\d{1,3}", str(decile or ""))[:2]]
    return sum(years) // len(years) if years else -1
