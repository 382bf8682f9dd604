"""The cases a report shows: chosen by rule, so that nobody picks the pretty ones."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_FINDINGS, Finding
from chextriev.errors import InvalidSetting, InvalidValue
from chextriev.eval.evaluation import RankedLists
from chextriev.radiograph import RegionBoxes
from chextriev.study_table import StudyTable

SHOWN_NEIGHBOURS = 5


@dataclass(frozen=True, eq=False)
class Picture:
    """A radiograph to show. pixels: [height, width] uint8. findings: [9] int8, 1, 0 or -1 (unknown)."""

    image_id: str
    pixels: npt.NDArray[np.uint8]
    boxes: RegionBoxes
    findings: npt.NDArray[np.int8]
    view: str
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A case that was found, with its cosine score.

    picture_of_similarity: SVG text that splits the score into pairs of regions, see
    `chextriev.eval.region_pairs_picture`; None shows none.
    """

    picture: Picture
    score: float
    picture_of_similarity: str | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """A query, why it is shown, and its nearest cases, best first."""

    query: Picture
    reason: str
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True)
class Choice:
    """A query to show (its row in the ranked lists) and the reason in words."""

    row: int
    reason: str


def choose_cases(lists: RankedLists, table: StudyTable, *, count: int = 6) -> tuple[Choice, ...]:
    """Queries for a report: a middling one for each of several findings, the rarest first, then the least successful.

    Success is the mean over the query's findings of the share of its five nearest cases that have the finding. Ties
    go to the lower image id, so that the choice repeats. Fewer come back where there are fewer queries.
    """
    if count < 1:
        raise InvalidSetting(f"count = {count}; show at least 1 case")
    labels = table.image_findings[_rows_of(table, lists.query_ids)] == 1  # [Q, 9] bool
    success = _success(lists, table, labels)
    by_id = np.lexsort((lists.query_ids.astype(str), success))
    worst = Choice(int(by_id[0]), "the query with the fewest hits, shown on purpose")
    chosen = {worst.row: worst}
    asked = [finding for finding in np.argsort(labels.sum(axis=0), kind="stable") if labels[:, finding].any()]
    for turn in range(len(labels)):
        for finding in asked:
            left = [row for row in by_id if labels[row, finding] and row not in chosen]
            if left and len(chosen) < count:
                name = tuple(Finding)[finding].label
                chosen[left[len(left) // 2]] = Choice(int(left[len(left) // 2]), f"a middling query with {name}")
        if len(chosen) >= min(count, len(labels)) or turn >= count:
            break
    return (*list(chosen.values())[1:], worst)


def read_cases(table: StudyTable, lists: RankedLists, choices: tuple[Choice, ...]) -> tuple[Case, ...]:
    """Read the pictures of the chosen queries and of their nearest cases from disk."""
    return tuple(_read_case(table, lists, choice) for choice in choices)


def _read_case(table: StudyTable, lists: RankedLists, choice: Choice) -> Case:
    ids, scores = lists.neighbour_ids[choice.row], lists.scores[choice.row]
    found = [(name, score) for name, score in zip(ids, scores, strict=True) if name is not None]
    neighbours = tuple(Neighbour(_picture(table, name), float(score)) for name, score in found[:SHOWN_NEIGHBOURS])
    return Case(_picture(table, lists.query_ids[choice.row]), choice.reason, neighbours)


def _picture(table: StudyTable, image_id: str) -> Picture:
    row = table.row_of(image_id)
    radiograph = table.radiograph(row)
    view, sex, age = str(table.view[row]), radiograph.sex, radiograph.age
    caption = ", ".join([view, *([sex] if sex else []), *([f"{age} years"] if age is not None else [])])
    return Picture(image_id, radiograph.pixels, radiograph.boxes, table.image_findings[row], view, caption)


def _success(lists: RankedLists, table: StudyTable, labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """[Q] mean share of the nearest cases that have a finding of the query, over its findings."""
    nearest = lists.neighbour_ids[:, :SHOWN_NEIGHBOURS]
    found = np.array([[name is not None for name in line] for line in nearest])  # [Q, k] bool
    shared = np.zeros((*nearest.shape, N_FINDINGS), bool)
    shared[found] = table.image_findings[_rows_of(table, nearest[found])] == 1
    per_finding = shared.mean(axis=1) * labels  # [Q, 9]
    return np.asarray(per_finding.sum(axis=1) / np.maximum(labels.sum(axis=1), 1))


def _rows_of(table: StudyTable, image_ids: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    row_of = {name: row for row, name in enumerate(table.image_id)}
    missing = [name for name in image_ids if name not in row_of]
    if missing:
        raise InvalidValue(
            f"the study table has no image {missing[0]!r} ({len(missing)} such); give the table that was embedded"
        )
    return np.array([row_of[name] for name in image_ids], np.int64)
