"""Keys of identifiers, and the files that hold them."""

import hashlib
import hmac
import os
import pickle
from pathlib import Path

import pytest

from chextriev.errors import InvalidSetting, MissingFile, OutputExists
from chextriev.uid_key import UidKey

KEY = UidKey(bytes(range(32)))


def test_a_hash_is_the_hmac_that_its_docstring_names() -> None:
    message = b"chextriev-uid-1/study/1.2.840.1"
    expected = hmac.new(bytes(range(32)), message, hashlib.sha256).hexdigest()[:32]
    assert KEY.hash("1.2.840.1", kind="study") == expected


def test_equal_strings_of_two_kinds_or_two_keys_differ() -> None:
    hashes = {KEY.hash("1", kind="patient"), KEY.hash("1", kind="study"), KEY.hash("1", kind="image")}
    assert len(hashes | {UidKey.random().hash("1", kind="patient")}) == 4
    with pytest.raises(InvalidSetting, match="no kind 'hospital'"):
        KEY.hash("1", kind="hospital")  # type: ignore[arg-type]


def test_whatever_a_file_holds_for_an_identifier_has_a_hash() -> None:
    assert len({KEY.hash(uid, kind="patient") for uid in ("", " ", "Müller^Jörg", "\udcff", "1\n")}) == 5


def test_a_key_is_written_for_its_owner_alone_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    old = os.umask(0)
    try:
        key = UidKey.create(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert UidKey.read(path) == key
    assert path.stat().st_size == 32


def test_a_key_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    key = UidKey.create(tmp_path / "key")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(OutputExists, match="never overwritten"):
            UidKey.create(tmp_path / name)
    assert UidKey.read(tmp_path / "key") == key
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    UidKey.create(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(InvalidSetting, match="chmod 600"):
        UidKey.read(tmp_path / "key")


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_file_of_another_size_is_no_key(tmp_path: Path, size: int) -> None:
    (tmp_path / "key").touch(mode=0o600)
    (tmp_path / "key").write_bytes(b"k" * size)
    with pytest.raises(InvalidSetting, match="32 bytes"):
        UidKey.read(tmp_path / "key")


def test_no_file_and_no_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"UidKey\.create"):
        UidKey.read(tmp_path / "key")
    with pytest.raises(MissingFile, match="in a folder of yours"):
        UidKey.create(tmp_path / "nowhere" / "key")


def test_a_key_shows_nothing_of_its_secret() -> None:
    key = UidKey(b"the secret of thirty-two letters")
    assert "secret of" not in f"{key!r} {key} {[key]}"
    assert pickle.loads(pickle.dumps(key)) == key  # processes that read files get it so
    with pytest.raises(InvalidSetting) as caught:
        UidKey(b"a short secret")
    assert "short secret" not in str(caught.value)
