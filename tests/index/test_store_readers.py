"""What readers of an index make of its directory: damaged pointers, folders of others, generations that come and go."""

import json
import os
import subprocess
import sys

import pytest

from chextriev.artifacts import MANIFEST, Recipe, seal
from chextriev.cli import main
from chextriev.errors import (
    ArtifactError,
    DamagedArtifact,
    NotAnArtifact,
    OutputExists,
)
from chextriev.index import search
from chextriev.index.generation import KIND, open_generation
from chextriev.index.growth import add, remove
from chextriev.index.info import copy_index, describe_index, verify_index
from chextriev.index.search import open_index
from chextriev.index.store import CURRENT, IndexStore
from tests.index.growing import built, queries, universe
from tests.index.storing import hidden, publish, writing


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"garbage", b"\xff\xfe\n", b"../../etc\n", b"000001-0123456789ab/../x\n", b"/etc/passwd\n"),
        *(b"000001-0123456789ab", b"000001-0123456789ab\n\n", b"000001-0123456789ab\0\n", b"." * (1 << 20)),
        b"000001-0123456789ab\n" * (1 << 16),
    ],
)
def test_a_damaged_pointer_is_refused_by_readers_and_writers(three, content):
    (three / CURRENT).write_bytes(content)
    for call in (
        lambda: open_index(three),
        lambda: describe_index(three),
        lambda: verify_index(three),
        IndexStore(three).generations,
        lambda: publish(three, "x"),
    ):
        with pytest.raises(DamagedArtifact, match=r"does not name generations|cannot be read as names"):
            call()
    assert (three / CURRENT).read_bytes() == content
    assert hidden(three) == []


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_pointer_that_is_no_file_is_refused(three, tmp_path, kind):
    (three / CURRENT).rename(tmp_path / "elsewhere")
    if kind == "link":
        (three / CURRENT).symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(three / CURRENT)
    with pytest.raises(ArtifactError, match=r"symbolic link|pipe"):
        open_index(three)


def test_a_pointer_to_nothing_says_so(three):
    (three / CURRENT).write_text("000009-0123456789ab\n")
    with pytest.raises(NotAnArtifact, match=r"there is no .*000009-0123456789ab"):
        open_index(three)


@pytest.mark.parametrize("kind", ["file", "folder", "embeddings", "generation"])
def test_an_output_that_is_something_else_is_left_alone(tmp_path, small, small_dir, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "embeddings":
        out = small_dir
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
        if kind == "generation":
            seal(out, KIND, Recipe({}))
    before = sorted(small_dir.parent.rglob("*")) + sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputExists, match="exists and is not an index"):
        built(small, out)
    assert sorted(small_dir.parent.rglob("*")) + sorted(tmp_path.rglob("*")) == before


NOBODY = 65534
# Everything is imported before the rights to read it are given up.
REFUSED_WRITER = """
import mmap, os, sys
import numpy, pyarrow.parquet
import chextriev.index.growth, chextriev.index.info, chextriev.index.vectors_file
from chextriev.cli import main

folder, user, image = sys.argv[1:]
os.chdir(folder)
if os.geteuid() == 0:
    os.setuid(int(user))
for call in (["remove", "index", image], ["rollback", "index"], ["compact", "index"], ["gc", "index", "--keep", "0"]):
    print(main(["index", *call]))
print(main(["index", "info", "index", "--json"]))
"""


def test_a_folder_that_may_not_be_written_says_so_in_words(tmp_path):
    radiographs = universe()
    out = built(radiographs.of(range(30)), tmp_path / "index")
    remove(out, radiographs.ids([3]))
    for path in (out, *out.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    tmp_path.chmod(0o755)
    arguments = [str(tmp_path), str(NOBODY), *radiographs.ids([4])]
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_WRITER, *arguments], capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    assert (lines[:4], lines[-1]) == (["2"] * 4, "0"), done.stderr
    assert json.loads("\n".join(lines[4:-1]))["holds"] == 29
    refusals = done.stderr.splitlines()
    assert len(refusals) == 4
    assert all("index/" in line and "Permission denied" in line for line in refusals)


def test_a_reader_tries_again_when_a_generation_goes_while_it_is_opened(tmp_path, monkeypatch):
    radiographs = universe()
    out = built(radiographs.of(range(30)), tmp_path / "index")
    opened = []

    def removing(directory):
        if not opened:
            add(out, radiographs.of(range(30, 40)))
            writing(out, lambda store: store.collect(0))
        opened.append(directory)
        return open_generation(directory)

    monkeypatch.setattr(search, "open_generation", removing)
    assert len(open_index(out)) == 40
    assert [each.name[:6] for each in opened] == ["000001", "000002"]


def test_a_reader_keeps_what_it_opened(tmp_path):
    radiographs = universe(regions=True)
    out = built(radiographs.of(range(30)), tmp_path / "index")
    index = open_index(out)
    before = index.search(queries(), 40)
    assert index.reloaded() is index
    add(out, radiographs.of(range(30, 40)))
    remove(out, radiographs.ids([0, 1, 2]))
    writing(out, lambda store: store.collect(0))
    assert index.search(queries(), 40) == before
    assert len(index.reloaded()) == 37
    assert index.reloaded().reloaded().directory == out


def test_one_generation_in_the_place_of_another_is_refused(three):
    first, second, third = (each.directory for each in IndexStore(three).generations())
    for number, other in ((3, second), (2, first)):
        other.rename(three / "aside")
        target = IndexStore(three).generations()[-1].directory if number == 3 else third
        target.rename(other)
        (three / "aside").rename(target)
    with pytest.raises(DamagedArtifact, match=r"is not the one that .* is named after"):
        open_index(three)
    with pytest.raises(DamagedArtifact, match="is named after"):
        verify_index(three)


def test_a_generation_alone_is_opened_under_any_name(tmp_path):
    out = built(universe().of(range(30)), tmp_path / "index")
    alone = IndexStore(out).current.rename(tmp_path / "alone")
    assert len(open_index(alone)) == 30
    assert open_index(alone).reloaded().directory == alone
    copied = copy_index(alone, tmp_path / "copy")
    assert (copied.number, len(open_index(tmp_path / "copy"))) == (1, 30)


def test_info_and_verify_see_what_is_there(tmp_path, capsys):
    radiographs = universe()
    out = built(radiographs.of(range(30)), tmp_path / "index")
    remove(out, radiographs.ids([3]))
    assert [(each["holds"], each["current"]) for each in verify_index(out)] == [(30, False), (29, True)]
    facts = IndexStore(out).generations()[0].directory / MANIFEST
    facts.write_text(facts.read_text().replace("exact search", "magic search"))
    assert len(open_index(out)) == 29
    assert main(["index", "verify", str(out)]) == 2
    assert "is not the one that" in capsys.readouterr().err
