"""Files of region codes that are not what they say are refused."""

import os

import numpy as np
import pytest

from chextriev.errors import DamagedArtifact
from chextriev.index.region_codes import CODEBOOKS_FILE, CODES_FILE, open_region_codes
from tests.index.test_region_codes import clustered, coded


def spoil(name, change):
    def apply(folder):
        array = np.array(np.load(folder / name))
        np.save(folder / name, change(array))

    return apply


def zipped(folder):
    np.savez(folder / "several.npz", codes=np.zeros(3))
    (folder / "several.npz").rename(folder / CODES_FILE)


def not_finite(codes):
    codes[2, -1, 5] = codes[2, -2, 5] = 0xFF
    return codes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            spoil(CODES_FILE, lambda codes: codes[:, :, 1:]),
            r"holds uint8 \[18, 24, 49\], uint8 \[18, 24, 50\] is needed",
        ),
        (spoil(CODES_FILE, lambda codes: codes[:, 1:]), r"\[18, 23, 50\]"),
        (spoil(CODES_FILE, lambda codes: codes.astype(np.int16)), "holds int16"),
        (spoil(CODES_FILE, lambda codes: codes.astype(object)), "is not an array"),
        (spoil(CODES_FILE, np.asfortranarray), "is not an array of numbers"),
        (spoil(CODES_FILE, not_finite), "lengths or offsets that are not finite"),
        (spoil(CODEBOOKS_FILE, lambda books: books.astype(np.float64)), "holds float64"),
        (spoil(CODEBOOKS_FILE, lambda books: books.astype(">f4")), "is not an array of numbers"),
        (spoil(CODEBOOKS_FILE, lambda books: books[:, :, :256]), "257"),
        (spoil(CODEBOOKS_FILE, lambda books: books[:, :, :, :0]), "is empty"),
        (spoil(CODEBOOKS_FILE, lambda books: np.where(books == books.max(), np.inf, books)), "not finite"),
        (lambda folder: (folder / CODES_FILE).unlink(), "cannot be read"),
        (lambda folder: (folder / CODES_FILE).write_bytes(b""), "is not an array"),
        (
            lambda folder: os.truncate(folder / CODES_FILE, 500),
            r"has 500 bytes; an array uint8 \[18, 24, 50\] has 21,728",
        ),
        (zipped, "is not an array"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    folder = tmp_path / "codes"
    coded(clustered(50), folder)
    change(folder)
    with pytest.raises(DamagedArtifact, match=words):
        open_region_codes(folder, 50)


def test_a_second_block_that_is_not_there_is_refused(tmp_path):
    folder = tmp_path / "codes"
    coded(clustered(50), folder)
    with pytest.raises(DamagedArtifact, match=r"region_codes_delta\.npy cannot be read"):
        open_region_codes(folder, 50, 1)
