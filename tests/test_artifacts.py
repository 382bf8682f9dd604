"""Artefacts appear whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chextriev.artifacts import (
    MANIFEST,
    Recipe,
    find_current,
    open_artifact,
    publishing,
    read_manifest,
    reap_scratch,
    seal,
    write_bytes,
)
from chextriev.errors import DamagedArtifact, NotAnArtifact, OutputExists

RECIPE = Recipe({"k": (1, 2)}, {"parent": "abc"})


def publish(target: Path, text: str = "x", recipe: Recipe = RECIPE) -> str:
    with publishing(target, "thing") as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "a.txt").write_text(text)
        return seal(scratch, "thing", recipe, {"n": 1}).digest


def test_digest_depends_on_content_and_recipe_alone(tmp_path: Path) -> None:
    first = publish(tmp_path / "one")
    assert publish(tmp_path / "deeper" / "two") == first
    assert publish(tmp_path / "three", "y") != first
    assert publish(tmp_path / "four", recipe=Recipe({"k": 3})) != first
    assert open_artifact(tmp_path / "one", "thing").digest == first


def test_reuse_needs_the_same_recipe_and_undamaged_files(tmp_path: Path) -> None:
    target = tmp_path / "one"
    assert find_current(target, "thing", RECIPE) is None
    publish(target)
    assert find_current(target, "thing", RECIPE) is not None
    assert find_current(target, "thing", Recipe({"k": 3})) is None
    (target / "sub" / "a.txt").write_text("z")
    assert find_current(target, "thing", RECIPE) is None


def test_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    digest = publish(tmp_path / "one")
    with pytest.raises(KeyboardInterrupt), publishing(tmp_path / "one", "thing") as scratch:
        (scratch / "half").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert read_manifest(tmp_path / "one", "thing").digest == digest


def test_unsealed_work_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(NotAnArtifact), publishing(tmp_path / "one", "thing") as scratch:
        (scratch / "half").write_text("half")
    assert not list(tmp_path.iterdir())


def test_foreign_directories_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / MANIFEST).write_text('{"name": "a web application"}')
    publish(tmp_path / "other")
    for name, kind in (("mine", "thing"), ("theirs", "thing"), ("other", "another kind")):
        with pytest.raises(OutputExists, match=name), publishing(tmp_path / name, kind):
            pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


# Containers have the same process ids: here every process is 7.
WRITER = """
import os, signal, sys
from pathlib import Path
from chextriev import artifacts
real = os.getpid()
os.getpid = lambda: 7
with artifacts.publishing(Path(sys.argv[1]), "thing") as scratch:
    (scratch / "half").write_text("half")
    print(scratch.name, flush=True)
    sys.stdin.readline()
    os.kill(real, signal.SIGKILL)
"""


def started_writer(target: Path) -> "subprocess.Popen[str]":
    """A process that is writing; it kills itself at the next line."""
    pipe = subprocess.PIPE
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdin=pipe, stdout=pipe, text=True)
    assert writer.stdout is not None
    assert (target.parent / writer.stdout.readline().strip() / "half").is_file()
    return writer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_writers_scratch_is_reaped_even_by_one_of_its_process_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    with started_writer(tmp_path / "one") as writer:
        writer.communicate("die")
    (leftover,) = names(tmp_path)
    assert leftover.startswith(".one.tmp-")
    publish(tmp_path / "one")
    assert names(tmp_path) == ["one"]


def test_the_scratch_of_a_living_writer_is_left_alone_until_it_dies(tmp_path: Path) -> None:
    with started_writer(tmp_path / "one") as writer:
        (scratch,) = names(tmp_path)
        publish(tmp_path / "one", "old")
        publish(tmp_path / "one", "new")
        assert names(tmp_path) == [scratch, "one"]
        writer.communicate("die")
    publish(tmp_path / "one")
    assert names(tmp_path) == ["one"]


def test_two_writers_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with publishing(tmp_path / "one", "thing") as scratch:
        publish(tmp_path / "one", "first")
        second = seal(scratch, "thing", RECIPE)
    assert names(tmp_path) == ["one"]
    assert read_manifest(tmp_path / "one", "thing").digest == second.digest


@pytest.mark.parametrize(
    "name", [".one.v2.old-0000000999999999", ".one.old-7", ".one.tmp-notes", ".other.tmp-999999999"]
)
def test_hidden_neighbours_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    publish(tmp_path / "one")
    publish(tmp_path / "one")
    assert names(tmp_path) == [name, "one"]


def test_an_artefact_has_the_permissions_of_any_directory(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_swap_that_died_half_way_is_completed_backwards(tmp_path: Path) -> None:
    digest = publish(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / ".one.old-0123456789abcdef")
    with pytest.raises(KeyboardInterrupt), publishing(tmp_path / "one", "thing"):
        raise KeyboardInterrupt
    assert read_manifest(tmp_path / "one", "thing").digest == digest
    assert names(tmp_path) == ["one"]


def test_a_swap_that_fails_half_way_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, rename = publish(tmp_path / "one"), Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "one", "new")
    assert read_manifest(tmp_path / "one", "thing").digest == digest
    assert names(tmp_path) == ["one"]


def test_files_are_written_whole_beside_living_and_dead_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def reaped_meanwhile(self: Path, target: Path) -> Path:
        reap_scratch(tmp_path, r"a\.txt")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", reaped_meanwhile)
    for name in (".a.txt.tmp-0123456789abcdef", ".b.txt.tmp-0123456789abcdef", ".a.txt.tmp-123"):
        (tmp_path / name).write_text("half")
    write_bytes(tmp_path / "a.txt", b"whole")
    assert names(tmp_path) == [".a.txt.tmp-123", ".b.txt.tmp-0123456789abcdef", "a.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"whole"


@pytest.mark.parametrize("damage", ["size", "content", "missing", "link", "manifest"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    publish(tmp_path / "one", "abcd")
    path = tmp_path / "one" / "sub" / "a.txt"
    if damage == "size":
        path.write_text("abcde")
    elif damage == "content":
        path.write_text("abce")
    elif damage == "missing":
        path.unlink()
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        os.symlink(tmp_path / "elsewhere", path)
    else:
        manifest = tmp_path / "one" / MANIFEST
        content = json.loads(manifest.read_text())
        content["recipe"]["parents"]["parent"] = "other"
        manifest.write_text(json.dumps(content))
    with pytest.raises(DamagedArtifact, match="one"):
        open_artifact(tmp_path / "one", "thing")


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    with pytest.raises(NotAnArtifact, match="holds a thing; a bundle is needed"):
        read_manifest(tmp_path / "one", "bundle")
    with pytest.raises(NotAnArtifact, match="the directory of a bundle is needed"):
        read_manifest(tmp_path / "two", "bundle")
    (tmp_path / "two").mkdir()
    with pytest.raises(NotAnArtifact, match="not a complete bundle"):
        read_manifest(tmp_path / "two", "bundle")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema": 1, "kind": "thing", "recipe": {"settings": %s}, "files": {}, '
        '"facts": {}, "digest": ""}' % ("[" * 900 + "]" * 900),
        "[]",
        "7",
    ],
)
def test_nested_or_foreign_json_is_no_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(NotAnArtifact, match=MANIFEST):
        read_manifest(tmp_path, "thing")


def test_a_manifest_of_another_schema_names_the_cure(tmp_path: Path) -> None:
    publish(tmp_path / "one")
    manifest = tmp_path / "one" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(NotAnArtifact, match=r"schema 2, this release of chextriev reads 1; use the release that wrote"):
        read_manifest(tmp_path / "one", "thing")
    with pytest.raises(OutputExists, match="not a thing"):
        publish(tmp_path / "one")
