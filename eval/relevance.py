"""Which labels make a neighbour a hit: the nine findings of the image, or 17 that know the side."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import LATERALISED_FINDINGS, Finding, Region
from chextriev.embedding_set import EmbeddingSet
from chextriev.errors import CountMismatch, InvalidValue
from chextriev.study_table import StudyTable

Labels = npt.NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Relevance:
    """labels: [N, C] int8, 1, 0 or -1 (unknown), of N radiographs; names: [C].

    regions: [N, 18, 9] int8, the findings of each region, None where they are not known. digest: of the study table
    that labels or regions are from, "" where there is none.
    """

    names: tuple[str, ...]
    labels: Labels
    regions: Labels | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape[1] != len(self.names):
            raise CountMismatch(f"labels have shape {list(self.labels.shape)} beside {len(self.names)} names")

    def take(self, rows: npt.NDArray[np.int64]) -> "Relevance":
        """The labels of these rows, in this order."""
        regions = None if self.regions is None else self.regions[rows]
        return Relevance(self.names, self.labels[rows], regions, self.digest)


def image_findings(embeddings: EmbeddingSet, table: StudyTable | None = None) -> Relevance:
    """The nine findings of the whole image, as the published evaluation has them.

    table: that the embeddings were made of, for the regions.
    """
    if table is None:
        return Relevance(Finding.labels(), embeddings.findings)
    regions = table.region_findings[_rows_of(embeddings, table)]
    return Relevance(Finding.labels(), embeddings.findings, regions, table.digest)


def lateralised_findings(embeddings: EmbeddingSet, table: StudyTable) -> Relevance:
    """The 17 findings with their sides, from the regions of the study table that the embeddings were made of."""
    rows = _rows_of(embeddings, table)
    regions = table.region_findings[rows]
    return Relevance(LATERALISED_FINDINGS, with_sides(regions, table.image_findings[rows]), regions, table.digest)


def with_sides(regions: Labels, images: Labels) -> Labels:
    """[N, 17] int8 of regions [N, 18, 9] and images [N, 9].

    A finding is on a side where a region of it has the finding, unknown (-1) where none has it and any is unknown.
    """
    columns = []
    for finding in Finding:
        if finding is Finding.ENLARGED_CARDIAC_SILHOUETTE:
            continue
        for side in ("right", "left"):
            there = regions[:, [region for region in Region if region.side == side], finding]  # [N, 7]
            unknown = np.where((there < 0).any(axis=1), -1, 0)
            columns.append(np.where((there == 1).any(axis=1), 1, unknown))
    columns.append(images[:, Finding.ENLARGED_CARDIAC_SILHOUETTE])
    return np.stack(columns, axis=1).astype(np.int8)


def _rows_of(embeddings: EmbeddingSet, table: StudyTable) -> npt.NDArray[np.int64]:
    row_of = {name: row for row, name in enumerate(table.image_id)}
    missing = [name for name in embeddings.image_id if name not in row_of]
    if missing:
        raise InvalidValue(
            f"the study table lacks {len(missing)} of the {len(embeddings)} embedded images; give the table that was"
            " embedded, as findings with a side are read from its regions"
        )
    return np.array([row_of[name] for name in embeddings.image_id])
