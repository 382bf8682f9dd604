"""`.npy` files that grow, and those that somebody else made."""

import random
from pathlib import Path

import numpy as np
import pytest

from chextriev.errors import DamagedArtifact
from chextriev.row_file import map_array, writing_rows


def test_a_file_of_rows_is_what_numpy_writes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((1_234, 3, 2)).astype(np.float32)
    with writing_rows(tmp_path / "grown.npy", (3, 2), np.float32) as append:
        for start in range(0, len(rows), 100):
            append(rows[start : start + 100])
    np.save(tmp_path / "whole.npy", rows)
    assert (tmp_path / "grown.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    with writing_rows(tmp_path / "none.npy", (3, 2), np.float32):
        pass
    assert np.load(tmp_path / "none.npy").shape == map_array(tmp_path / "none.npy").shape == (0, 3, 2)
    with (
        pytest.raises(ValueError, match=r"rows of shape \[2, 3\] in an array of rows \[3, 2\]"),
        writing_rows(tmp_path / "wrong.npy", (3, 2), np.float32) as append,
    ):
        append(np.zeros((5, 2, 3)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64, np.bool_])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (18, 24, 257, 2)])
def test_arrays_of_numbers_are_mapped(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    mapped = map_array(tmp_path / "a.npy")
    assert mapped.dtype == array.dtype
    assert mapped.shape == array.shape
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros(3, ">f4"), np.asfortranarray(np.eye(3))])
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DamagedArtifact, match="is not an array of numbers as numpy writes one"):
        map_array(tmp_path / "a.npy")


def test_changed_headers_are_refused_or_say_the_same(tmp_path: Path) -> None:
    path, dice = tmp_path / "a.npy", random.Random(0)
    array = np.arange(270, dtype=np.uint8).reshape(18, 3, 5)
    np.save(path, array)
    whole, marks, refused = path.read_bytes(), b"()[]{}'\"\\,: \n\t#0123456789TF<>|uf-\x00\xff", 0
    for _ in range(600):
        content = bytearray(whole)
        for _ in range(dice.choice([1, 1, 3])):
            at = dice.randrange(128)
            change = dice.choice(["set", "insert", "delete"])
            content[at : at + (change != "insert")] = b"" if change == "delete" else bytes([dice.choice(marks)])
        path.write_bytes(content)
        try:
            found = map_array(path)
        except DamagedArtifact:
            refused += 1
        else:
            assert found.nbytes == array.nbytes
    assert refused > 500
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedArtifact, match=r"has 397 bytes; an array uint8 \[18, 3, 5\] has 398"):
        map_array(path)
    with pytest.raises(DamagedArtifact, match="cannot be read"):
        map_array(tmp_path)
