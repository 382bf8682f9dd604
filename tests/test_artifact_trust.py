"""What a manifest may vouch for: names, records, links, and bytes that are read once."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from chextriev import artifacts
from chextriev.artifacts import (
    MANIFEST,
    check_contents,
    digest_of,
    find_current,
    open_artifact,
    read_manifest,
    read_verified,
    seal,
)
from chextriev.errors import DamagedArtifact, NotAnArtifact, OutputExists
from tests.test_artifacts import RECIPE, publish


def altered(target: Path, name: object, record: object) -> None:
    """Put an entry into a manifest and make its digest right again, as anybody can."""
    content = json.loads((target / MANIFEST).read_text())
    content["files"][name] = record
    content["digest"] = digest_of({key: content[key] for key in ("kind", "recipe", "files")})
    (target / MANIFEST).write_text(json.dumps(content))


def secret_beside(target: Path) -> dict[str, Any]:
    """Write a file that no artefact may lead to; a true record of it."""
    (target.parent / "secret").write_text("secret")
    return {"size": 6, "sha256": artifacts.file_digest(target.parent / "secret")}


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "sub/../../secret", "./sub/a.txt", "sub//a.txt", "sub/a.txt/", "/etc/hostname", "", ".", ".."),
        *("sub\\a.txt", "sub/a.txt\0", "sub/a\n.txt", ".hidden", ".sub/a.txt", MANIFEST, f"{MANIFEST}.sig"),
    ],
)
def test_names_that_are_no_plain_relative_paths_are_refused(tmp_path: Path, name: str) -> None:
    publish(tmp_path / "one")
    altered(tmp_path / "one", name, secret_beside(tmp_path / "one"))
    for use in (open_artifact, read_manifest):
        with pytest.raises(DamagedArtifact, match=r"manifest\.json names the file .* a name is a relative path"):
            use(tmp_path / "one", "thing")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"size": -1, "sha256": "0" * 64}, "the size -1"),
        ({"size": True, "sha256": "0" * 64}, "the size True"),
        ({"size": 1.0, "sha256": "0" * 64}, r"the size 1\.0"),
        ({"size": "1", "sha256": "0" * 64}, "the size '1'"),
        ({"size": 1, "sha256": "0" * 63}, "64 digits"),
        ({"size": 1, "sha256": "0" * 63 + "\n"}, "64 digits"),
        ({"size": 1, "sha256": "G" * 64}, "64 digits"),
        ({"size": 1, "sha256": None}, "64 digits"),
        ({"size": 1}, "size and sha256 of more"),
        ({"size": 1, "sha256": "0" * 64, "url": "http://"}, "nothing else"),
        ([1, "0" * 64], "size and sha256"),
        (None, "size and sha256"),
    ],
)
def test_records_that_no_seal_writes_are_refused(tmp_path: Path, record: object, reason: str) -> None:
    publish(tmp_path / "one")
    altered(tmp_path / "one", "more", record)
    with pytest.raises(DamagedArtifact, match=reason):
        read_manifest(tmp_path / "one", "thing")


@pytest.mark.parametrize(
    ("field", "value"), [("kind", 7), ("kind", ""), ("files", []), ("facts", None), ("digest", None), ("recipe", 1)]
)
def test_fields_of_another_type_make_no_manifest(tmp_path: Path, field: str, value: object) -> None:
    publish(tmp_path / "one")
    content = json.loads((tmp_path / "one" / MANIFEST).read_text())
    (tmp_path / "one" / MANIFEST).write_text(json.dumps({**content, field: value}))
    with pytest.raises(NotAnArtifact, match="not a manifest of this package"):
        read_manifest(tmp_path / "one", "thing")


def test_a_manifest_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "one")
    monkeypatch.setattr(artifacts, "MANIFEST_LIMIT", 100)
    with pytest.raises(NotAnArtifact, match="over 100 bytes"):
        read_manifest(tmp_path / "one", "thing")


def test_a_linked_folder_is_refused_though_its_files_are_right(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    manifest = read_manifest(tmp_path / "one", "thing")
    (tmp_path / "one" / "sub").rename(tmp_path / "elsewhere")
    (tmp_path / "one" / "sub").symlink_to(tmp_path / "elsewhere")
    for use in (
        lambda: open_artifact(tmp_path / "one", "thing"),
        lambda: read_verified(tmp_path / "one", manifest, "sub/a.txt"),
        lambda: check_contents(tmp_path / "one", manifest),
        lambda: seal(tmp_path / "one", "thing", RECIPE),
        lambda: seal(tmp_path / "one", "thing", RECIPE, names=["sub/a.txt"]),
    ):
        with pytest.raises(DamagedArtifact, match="symbolic link; an artefact holds regular files"):
            use()
    assert find_current(tmp_path / "one", "thing", RECIPE) is None


def test_a_linked_file_is_neither_read_nor_sealed(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    manifest = read_manifest(tmp_path / "one", "thing")
    (tmp_path / "one" / "sub" / "a.txt").rename(tmp_path / "elsewhere")
    (tmp_path / "one" / "sub" / "a.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedArtifact, match=r"a\.txt is, or lies behind, a symbolic link"):
        read_verified(tmp_path / "one", manifest, "sub/a.txt")
    with pytest.raises(DamagedArtifact, match="symbolic link"):
        seal(tmp_path / "one", "thing", RECIPE)


def test_a_linked_manifest_is_none_and_its_directory_is_not_replaced(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    (tmp_path / "one" / MANIFEST).rename(tmp_path / "elsewhere")
    (tmp_path / "one" / MANIFEST).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotAnArtifact, match="symbolic link"):
        read_manifest(tmp_path / "one", "thing")
    with pytest.raises(OutputExists):
        publish(tmp_path / "one")


def test_an_artefact_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    digest = publish(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    manifest = open_artifact(tmp_path / "current", "thing")
    check_contents(tmp_path / "current", manifest)
    assert manifest.digest == digest
    assert read_verified(tmp_path / "current", manifest, "sub/a.txt") == b"x"


@pytest.mark.parametrize("name", ["sub/a.txt", MANIFEST])
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path, name: str) -> None:
    publish(tmp_path / "one", "")
    (tmp_path / "one" / name).unlink()
    os.mkfifo(tmp_path / "one" / name)
    with pytest.raises((DamagedArtifact, NotAnArtifact), match="is a pipe or a device"):
        open_artifact(tmp_path / "one", "thing")


def test_a_file_in_place_of_the_directory_is_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a file")
    with pytest.raises(NotAnArtifact, match="Not a directory"):
        read_manifest(tmp_path / "one", "thing")


def test_read_verified_gives_the_bytes_that_it_compared(tmp_path: Path) -> None:
    publish(tmp_path / "one", "abcd")
    manifest, path = read_manifest(tmp_path / "one", "thing"), tmp_path / "one" / "sub" / "a.txt"
    assert read_verified(tmp_path / "one", manifest, "sub/a.txt", limit=4) == b"abcd"
    with pytest.raises(DamagedArtifact, match=r"a\.txt has 4 bytes; at most 3 are read into memory"):
        read_verified(tmp_path / "one", manifest, "sub/a.txt", limit=3)
    for name in ("sub", "sub/b.txt", "../secret", "sub/../sub/a.txt", str(path)):
        with pytest.raises(DamagedArtifact, match="names no file"):
            read_verified(tmp_path / "one", manifest, name)
    for text, reason in (("abce", "sha256"), ("abcde", "has 5 bytes, its manifest says 4")):
        path.write_text(text)
        with pytest.raises(DamagedArtifact, match=reason):
            read_verified(tmp_path / "one", manifest, "sub/a.txt")
    path.unlink()
    with pytest.raises(DamagedArtifact, match="is missing"):
        read_verified(tmp_path / "one", manifest, "sub/a.txt")
    path.mkdir()
    with pytest.raises(DamagedArtifact, match="Is a directory"):
        read_verified(tmp_path / "one", manifest, "sub/a.txt")


def test_a_file_that_is_exchanged_while_it_is_read_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "one", "abcd")
    manifest, path = read_manifest(tmp_path / "one", "thing"), tmp_path / "one" / "sub" / "a.txt"
    stream = artifacts.open_inside(tmp_path / "one", "sub/a.txt")
    monkeypatch.setattr(artifacts, "open_inside", lambda directory, name: stream)
    path.write_text("evil")  # the same size, after the file was opened
    with pytest.raises(DamagedArtifact, match="sha256"):
        read_verified(tmp_path / "one", manifest, "sub/a.txt")
    assert stream.closed


def test_check_contents_refuses_what_the_manifest_does_not_name(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    one, manifest = tmp_path / "one", read_manifest(tmp_path / "one", "thing")
    (one / "empty").mkdir()
    (one / f"{MANIFEST}.sig").write_bytes(b"0" * 64)
    for name in (f".{MANIFEST}.tmp-0123456789abcdef", "sub/.a.txt.tmp-0123456789abcdef"):
        (one / name).write_text("half")
    check_contents(one, manifest)
    for name in (
        *("more", "sub/weights.bin", ".hidden", "sub/.a.txt.tmp-1", ".a.txt.tmp-0123456789abcdef"),
        *(f"sub/{MANIFEST}", ".more.tmp-0123456789abcdef"),
    ):
        (one / name).write_text("x")
        with pytest.raises(DamagedArtifact, match=f"holds '{name}', which its manifest.json does not name"):
            check_contents(one, manifest)
        assert find_current(one, "thing", RECIPE) is not None
        (one / name).unlink()
    check_contents(one, manifest)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", os.fsdecode(b"\xff")])
def test_seal_refuses_names_that_no_manifest_may_hold(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(DamagedArtifact, match="a name is a relative path"):
        seal(tmp_path, "thing", RECIPE)
    assert not (tmp_path / MANIFEST).exists()


def test_seal_leaves_hidden_files_and_folders_out(tmp_path: Path) -> None:
    for name in ("a", ".b", "sub/.c", ".d/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert set(seal(tmp_path, "thing", RECIPE).files) == {"a"}
