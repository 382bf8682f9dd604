"""Region vectors as product codes: a few bytes a region, memory-mapped, for queries about chosen regions.

The vectors of a region lie close together (cosines of .95 for a real encoder), so what is coded is how one differs from
their mean: its direction is cut into parts, each replaced by the nearest of 256 that were learnt for that part of that
region, and its length and its share along the mean are kept. Coding the vectors themselves finds .63 of the ten nearest
by one region where this finds .84 (64 parts of 16 dimensions, real radiographs that the codes were not learnt from).

region_codes.npy          [18, parts + 8, N] uint8: numbers of the parts, then length and offset (`region_scan.TERMS`)
region_codes_delta.npy    [18, parts + 8, A] uint8: of the radiographs that came later, by the same codebooks
region_codebooks.npy      [18, parts, 257, D / parts] float32: the parts by number, and that of the mean

All radiographs' bytes of one part lie side by side: a search reads only the regions that it is asked for, in order.
Faiss learns the parts and finds the nearest; beside `vector_index` and `faiss_files` no other file calls it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS, Region
from chextriev.embedding_set import RegionVectors
from chextriev.errors import CountMismatch, DamagedArtifact, InvalidSetting
from chextriev.index.exact import Rows, Vectors, unit_rows
from chextriev.index.region_scan import CENTRES, SCAN_ROWS, TERMS, Codes, slices, terms
from chextriev.index.region_scan import RegionCodes as RegionCodes
from chextriev.optional import require
from chextriev.progress import track
from chextriev.row_file import map_array
from chextriev.scratch import reserve

CODES_FILE = "region_codes.npy"
DELTA_FILE = "region_codes_delta.npy"
CODEBOOKS_FILE = "region_codebooks.npy"

TRAIN_ON = 10_240
"""Radiographs that the codebooks are learnt from, at most: 40 for each of 256, as many as Faiss asks for."""

ROUNDS = 10

WIDEST_PART = 16
READ_BYTES = 64 << 20


def write_region_codes(region_vectors: RegionVectors, directory: Path, *, parts: int | None = None) -> None:
    """Learn codebooks from region vectors [N, 18, D] and write them and the codes of all, reading in blocks.

    parts: bytes a region, beside 8 for length and offset; by default one for 16 dimensions, or for fewer where vectors
    are narrow or do not divide so.
    The same vectors give the same codes. Raises InvalidValue for a zero or non-finite vector, InvalidSetting for parts
    that do not divide D.
    """
    _check_vectors(region_vectors)
    count, _, width = region_vectors.shape
    parts = _parts(width) if parts is None else parts
    if parts < 1 or width % parts:
        raise InvalidSetting(f"parts = {parts}; region vectors of width {width} need a number that divides it")
    if not count:
        raise InvalidSetting("region codes of no radiograph; give at least one")
    codebooks = np.empty((N_REGIONS, parts, CENTRES + 1, width // parts), np.float32)
    sample = np.sort(np.random.default_rng(0).permutation(count)[:TRAIN_ON])
    for region in track(list(Region), "learn region codes", unit="region"):
        codebooks[region] = _learn(_of_region(region_vectors, sample, region), parts)
    _save(directory / CODEBOOKS_FILE, codebooks)
    _write_codes(region_vectors, codebooks, _new_codes(directory / CODES_FILE, parts + TERMS, count))


def write_added_codes(old: RegionCodes, added: RegionVectors | None, directory: Path) -> None:
    """Write the second block: what `old` has in its own, then the codes of added region vectors [A, 18, D].

    The codebooks and the first block stay as they are: link them. Without radiographs in the second block, no file.
    """
    if added is not None:
        _check_vectors(added)
        if added.shape[2] != old.width:
            raise CountMismatch(f"added region vectors have width {added.shape[2]}, those of the index {old.width}")
    before, after = 0 if old.delta is None else old.delta.shape[2], 0 if added is None else len(added)
    if not before + after:
        return
    codes = _new_codes(directory / DELTA_FILE, old.codes.shape[1], before + after)
    if old.delta is not None:
        codes[:, :, :before] = old.delta
    if added is not None:
        _write_codes(added, old.codebooks, codes[:, :, before:])


def write_taken_codes(old: RegionCodes, rows: Rows, directory: Path) -> None:
    """Write the codes of these rows, in this order, as the only block; the codebooks stay as they are: link them."""
    codes = _new_codes(directory / CODES_FILE, old.codes.shape[1], len(rows))
    for region in Region:
        for piece in slices(len(rows), SCAN_ROWS):
            codes[region, :, piece] = old.of(region, rows[piece])


def open_region_codes(directory: Path, rows: int, added: int = 0) -> RegionCodes:
    """The codes of a directory, which must be of so many rows and, in the second block, so many added, as memory maps.

    Raises DamagedArtifact where a file is missing or not such an array. The caller has compared their digests.
    """
    codebooks = _load(directory / CODEBOOKS_FILE, np.dtype(np.float32), (N_REGIONS, None, CENTRES + 1, None))
    if not all(np.isfinite(book).all() for book in codebooks):
        raise DamagedArtifact(f"{directory / CODEBOOKS_FILE} has values that are not finite; build the index again")
    size = codebooks.shape[1] + TERMS
    codes = _load_codes(directory / CODES_FILE, (N_REGIONS, size, rows))
    delta = _load_codes(directory / DELTA_FILE, (N_REGIONS, size, added)) if added else None
    return RegionCodes(codes, codebooks, delta)


def _load_codes(path: Path, shape: tuple[int, int, int]) -> Codes:
    codes: Codes = _load(path, np.dtype(np.uint8), shape)
    for region in Region:
        for piece in slices(shape[2], SCAN_ROWS):
            if not np.isfinite(terms(codes[region, :, piece])).all():
                raise DamagedArtifact(f"{path} has lengths or offsets that are not finite; build the index again")
    return codes


def _load(path: Path, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> npt.NDArray[Any]:
    array = map_array(path)
    fits = array.dtype == dtype and array.ndim == len(shape)
    if not fits or any(wanted not in (None, found) for wanted, found in zip(shape, array.shape, strict=True)):
        needed = f"{dtype} {['any' if wanted is None else wanted for wanted in shape]}"
        raise DamagedArtifact(
            f"{path} holds {array.dtype} {list(array.shape)}, {needed} is needed; build the index again"
        )
    if not array.size:
        raise DamagedArtifact(f"{path} is empty; build the index again")
    return array


def _check_vectors(region_vectors: RegionVectors) -> None:
    shape = region_vectors.shape
    if len(shape) != 3 or shape[1] != N_REGIONS or not shape[2]:
        raise CountMismatch(f"region vectors have shape {list(shape)}; {['number', N_REGIONS, 'width']} is needed")


def _parts(width: int) -> int:
    """Equal parts of at most 16 dimensions, and 16 parts or more where the width allows."""
    widest = min(WIDEST_PART, max(1, width // WIDEST_PART))
    return width // max(size for size in range(1, widest + 1) if width % size == 0)


def _learn(sample: Vectors, parts: int) -> Vectors:
    """[parts, 257, D / parts] float32 for unit vectors [n, D]; up to 256 different ones are kept as they are."""
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    directions = _directions(sample, mean)[0]
    different: dict[bytes, Vectors] = {}
    for line in directions:
        different.setdefault(line.tobytes(), line)
        if len(different) > CENTRES:
            centres = _clusters(directions, parts)
            break
    else:
        kept = np.resize(np.stack(list(different.values())), (CENTRES, len(mean)))
        centres = kept.reshape(CENTRES, parts, -1).swapaxes(0, 1)
    return np.concatenate([centres, mean.reshape(parts, 1, -1)], axis=1)


def _clusters(directions: Vectors, parts: int) -> Vectors:
    """[parts, 256, D / parts] float32."""
    faiss = require("faiss", extra="index")
    quantizer = faiss.ProductQuantizer(directions.shape[1], parts, 8)
    quantizer.cp.niter, quantizer.cp.seed, quantizer.cp.min_points_per_centroid = ROUNDS, 0, 1
    quantizer.train(directions)
    return np.asarray(faiss.vector_to_array(quantizer.centroids).reshape(parts, CENTRES, -1))


def _directions(unit: Vectors, mean: Vectors) -> tuple[Vectors, Vectors]:
    """How vectors differ from the mean: directions [n, D] of length 1, zero where they do not, and lengths [n]."""
    rest = unit - mean
    lengths = np.linalg.norm(rest, axis=1)
    return np.asarray(rest / np.where(lengths > 0, lengths, 1)[:, None], np.float32), lengths


def _encode(unit: Vectors, codebook: Vectors) -> Codes:
    """Codes [parts + 8, n] of unit vectors [n, D] of one region."""
    faiss = require("faiss", extra="index")
    parts, _, size = codebook.shape
    centres, mean = codebook[:, :CENTRES], np.ascontiguousarray(codebook[:, CENTRES]).ravel()
    directions, lengths = _directions(unit, mean)
    codes = np.empty((parts + TERMS, len(unit)), np.uint8)
    squares = np.zeros(len(unit), np.float64)
    for part in range(parts):  # a flat index finds the nearest four times as fast as ProductQuantizer.compute_codes
        nearest = faiss.IndexFlatL2(size)
        nearest.add(np.ascontiguousarray(centres[part]))
        wanted = np.ascontiguousarray(directions[:, part * size : (part + 1) * size])
        codes[part] = nearest.assign(wanted, 1)[:, 0]
        squares += np.square(centres[part], dtype=np.float64).sum(axis=1)[codes[part]]
    kept = np.empty((len(unit), 2), "<f4")
    kept[:, 0] = lengths / np.sqrt(np.where(squares > 0, squares, 1))
    kept[:, 1] = (unit.astype(np.float64) - mean) @ mean.astype(np.float64)
    codes[parts:] = kept.view(np.uint8).T
    return codes


def _write_codes(region_vectors: RegionVectors, codebooks: Vectors, codes: Codes) -> None:
    """Fill codes [18, parts + 8, n]."""
    rows = max(1, READ_BYTES // (4 * N_REGIONS * region_vectors.shape[2]))
    for piece in track(list(slices(len(region_vectors), rows)), "encode regions", unit="block"):
        block = region_vectors[piece]
        for region in Region:
            unit = unit_rows(block[:, region], f"{region.label} of radiograph", first=piece.start)
            codes[region, :, piece] = _encode(unit, codebooks[region])


def _of_region(region_vectors: RegionVectors, rows: Rows, region: Region) -> Vectors:
    """Unit vectors [n, D] of one region."""
    return unit_rows(region_vectors[rows, region], f"{region.label} of the training sample")


def _new_codes(path: Path, size: int, count: int) -> Codes:
    """A new file, never another's content: what was there may be linked elsewhere."""
    path.unlink(missing_ok=True)
    codes: Codes = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(N_REGIONS, size, count))
    reserve(path)
    return codes


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    path.unlink(missing_ok=True)
    np.save(path, array)
