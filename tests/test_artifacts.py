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
    seal,
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


def test_killed_writers_leave_scratch_that_the_next_one_reaps(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from chextriev.artifacts import publishing\n"
        "with publishing(sys.argv[1], 'thing') as scratch:\n"
        "    (scratch / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "one")], check=False)
    (leftover,) = tmp_path.iterdir()
    assert ".tmp-" in leftover.name
    publish(tmp_path / "one")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_swap_that_died_half_way_is_completed_backwards(tmp_path: Path) -> None:
    digest = publish(tmp_path / "one")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "one").rename(tmp_path / f".one.old-{dead.pid}")
    with pytest.raises(KeyboardInterrupt), publishing(tmp_path / "one", "thing"):
        raise KeyboardInterrupt
    assert read_manifest(tmp_path / "one", "thing").digest == digest


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
    with pytest.raises(NotAnArtifact, match="not a complete bundle"):
        read_manifest(tmp_path / "two", "bundle")
