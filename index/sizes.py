"""How many bytes radiographs take, on one machine and in Milvus: the numbers of `docs/scaling.md`, computed.

A test compares the document with `scaling_tables()`; to write it anew, print that.
"""

import math
from dataclasses import dataclass

from chextriev.anatomy import N_REGIONS
from chextriev.index.region_scan import TERMS
from chextriev.index.spec import IndexSpec, bytes_per_vector

WIDTH = 1024
COUNTS = (10**6, 10**8, 10**9)
NODES_GB = (64, 256)
USABLE = 0.7
"""Of a node's memory: the rest is the system's, the searches', and that of segments while they are replaced."""

IDS_MEMORY, IDS_FILE, IDS_MILVUS = 400, 64, 128
"""Bytes a radiograph of ids, four columns of metadata and nine findings: as objects of Python (371 measured for ids of
44, 9 and 9 characters), in Parquet (61 measured), and as fields of Milvus (84 of content and the key)."""


@dataclass(frozen=True)
class Part:
    """Something that every radiograph has. formula: its bytes, D the width and M the bytes of a region's code."""

    name: str
    formula: str
    bytes: int


@dataclass(frozen=True)
class Layout:
    """A way to hold an index. memory, disk: bytes a radiograph, the disk with the float32 vectors to build it again.

    here: on one machine, however large it must be.
    """

    name: str
    memory: int
    disk: int
    here: bool = False

    def nodes(self, count: int, node_gb: int) -> int:
        """How many nodes of so much memory hold the memory part, one copy."""
        return math.ceil(count * self.memory / (node_gb * 1e9 * USABLE))

    def most(self, node_gb: int) -> int:
        """How many radiographs one such node holds."""
        return int(node_gb * 1e9 * USABLE / self.memory)


def parts(width: int = WIDTH) -> tuple[Part, ...]:
    """What there is of a radiograph."""
    region_parts = width // 16
    return (
        Part("vector, float32", "4 D", 4 * width),
        Part("vector for re-ranking, fp16", "2 D", bytes_per_vector(IndexSpec("SQfp16"), width)),
        Part("4-bit product code, and its row", "D / 8 + 8", bytes_per_vector(_codes(width), width)),
        Part("graph of HNSW32", "8 x 32 + 16", bytes_per_vector(IndexSpec("HNSW32"), width) - 4 * width),
        Part("region codes", f"18 x (M + {TERMS}), M = D / 16", N_REGIONS * (region_parts + TERMS)),
        Part("ids and metadata, in memory here", "measured", IDS_MEMORY),
        Part("ids and metadata, Parquet", "measured", IDS_FILE),
        Part("ids and metadata, in Milvus", "fields and key", IDS_MILVUS),
    )


def layouts(width: int = WIDTH) -> tuple[Layout, ...]:
    """Ways to hold an index: Milvus keeps vectors in object storage and once more in the index or its cache.

    The region codes are on disk, memory-mapped, and only here.
    """
    vector, half, code, graph, regions = (part.bytes for part in parts(width)[:5])
    return (
        Layout(
            "here, IVF-PQ and fp16 re-ranking",
            code + half + IDS_MEMORY,
            vector + code + half + regions + IDS_FILE,
            here=True,
        ),
        Layout("Milvus FLAT", vector + IDS_MILVUS, 2 * vector + IDS_MILVUS),
        Layout("Milvus HNSW32", vector + graph + IDS_MILVUS, 2 * vector + graph + IDS_MILVUS),
        Layout("Milvus IVF_PQ, vectors on disk", code + IDS_MILVUS, 2 * vector + code + IDS_MILVUS),
    )


def scaling_tables() -> str:
    """The two tables of `docs/scaling.md`."""
    heads = [f"{count / 1e6:,.0f}M" for count in COUNTS]
    sizes = [
        [part.name, part.formula, f"{part.bytes:,}", *(_gb(count * part.bytes) for count in COUNTS)] for part in parts()
    ]
    plans = []
    for layout in layouts():
        for count, head in zip(COUNTS, heads, strict=True):
            needed = [layout.nodes(count, node) for node in NODES_GB]
            nodes = ["too small" if layout.here and number > 1 else str(number) for number in needed]
            plans.append([layout.name, head, _gb(count * layout.memory), _gb(count * layout.disk), *nodes])
    first = _table(["of one radiograph", "bytes at D = 1,024", "", *heads], sizes)
    second = _table(["index", "radiographs", "memory", "disk", *(f"nodes of {node} GB" for node in NODES_GB)], plans)
    return f"{first}\n\n{second}"


def _codes(width: int) -> IndexSpec:
    return IndexSpec(f"IVF1024,PQ{width // 4}x4fs")


def _gb(count: int) -> str:
    """Gigabytes (10^9 bytes) as a person reads them."""
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.{1 if count < 1e10 else 0}f} GB"


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))
