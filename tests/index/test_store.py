"""Generations of an index: publish, go back, collect, one writer, and what lies about in its directory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chextriev.artifacts import MANIFEST, Recipe, seal
from chextriev.cli import main
from chextriev.errors import (
    ArtifactError,
    BusyIndex,
    DamagedArtifact,
    InvalidSetting,
    InvalidValue,
    NotAnArtifact,
    OutputExists,
)
from chextriev.index import search
from chextriev.index.generation import KIND, open_generation
from chextriev.index.growth import add, remove
from chextriev.index.info import copy_index, describe_index, verify_index
from chextriev.index.search import open_index
from chextriev.index.store import CURRENT, GENERATIONS, IndexStore
from tests.index.growing import built, queries, universe

# Holds the lock and half a generation until it reads a line, and then dies as by kill -9.
WRITER = """
import os, signal, sys
from chextriev.index.store import IndexStore

def write(scratch):
    (scratch / "half").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)

store = IndexStore(sys.argv[1])
with store.writing(new=True):
    store.add(write)
"""


def publish(directory, *words, publish=True):
    """Add a generation of one small file for each word."""
    store = IndexStore(directory)

    def write(word, scratch):
        (scratch / "word").write_text(word)
        return seal(scratch, KIND, Recipe({"word": word}))

    for word in words:
        with store.writing(new=True):
            made = store.add(lambda scratch, word=word: write(word, scratch), publish=publish)
    return made


def shown(directory):
    """The word that readers see, and the numbers of all generations."""
    store = IndexStore(directory)
    return (store.current / "word").read_text(), [each.number for each in store.generations()]


def hidden(directory):
    return [path.name for path in directory.rglob("*") if path.name.startswith(".")]


@pytest.fixture
def three(tmp_path):
    publish(tmp_path / "index", "one", "two", "three")
    return tmp_path / "index"


def writing(directory, call):
    store = IndexStore(directory)
    with store.writing(new=True):
        return call(store)


def test_a_generation_is_published_under_a_number_of_its_own(tmp_path):
    store = IndexStore(tmp_path / "folder" / "index")
    assert not store.exists
    made = publish(store.directory, "one")
    assert (made.number, made.current, made.directory) == (1, True, store.current)
    assert made.directory.name.startswith("000001-")
    assert publish(store.directory, "two", publish=False).current is False
    assert shown(store.directory) == ("one", [1, 2])
    assert publish(store.directory, "three").number == 3
    assert [(each.number, each.current) for each in store.generations()] == [(1, False), (2, False), (3, True)]
    assert [name[:6] for name in store.history()] == ["000003", "000001"]
    assert hidden(store.directory) == []


def test_going_back_follows_what_readers_opened_before(three):
    assert writing(three, lambda store: store.publish(1)).number == 1
    assert [name[:6] for name in IndexStore(three).history()] == ["000001", "000003", "000002"]
    assert writing(three, IndexStore.rollback).number == 3
    assert writing(three, IndexStore.rollback).number == 2
    before = (three / CURRENT).read_bytes()
    with pytest.raises(InvalidSetting, match="no generation that was published before 2; it has 1, 2, 3"):
        writing(three, IndexStore.rollback)
    assert (three / CURRENT).read_bytes() == before
    assert publish(three, "four").number == 4


def test_publishing_what_is_not_there_or_damaged_changes_nothing(three):
    before = (three / CURRENT).read_bytes()
    with pytest.raises(InvalidSetting, match="no generation 7; it has 1, 2, 3"):
        writing(three, lambda store: store.publish(7))
    first = IndexStore(three).generations()[0].directory
    (first / "word").write_text("eno")
    with pytest.raises(DamagedArtifact, match="sha256"):
        writing(three, lambda store: store.publish(1))
    assert (three / CURRENT).read_bytes() == before


@pytest.mark.parametrize(("keep", "left"), [(0, [3]), (1, [2, 3]), (2, [1, 2, 3]), (9, [1, 2, 3])])
def test_collecting_keeps_the_current_one_and_those_before_it(three, keep, left):
    removed = writing(three, lambda store: store.collect(keep))
    assert [each.number for each in removed] == [number for number in (1, 2, 3) if number not in left]
    assert shown(three) == ("three", left)
    assert hidden(three) == []
    assert publish(three, "four").number == 4


def test_collecting_goes_by_what_was_published_not_by_numbers(three):
    writing(three, lambda store: store.publish(1))
    publish(three, "never", publish=False)
    writing(three, lambda store: store.collect(1))
    assert shown(three) == ("one", [1, 3])
    with pytest.raises(InvalidSetting, match="keep = -1"):
        writing(three, lambda store: store.collect(-1))


def started_writer(directory):
    pipe = subprocess.PIPE
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdin=pipe, stdout=pipe, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_one_process_writes_at_a_time_and_a_dead_one_holds_nothing(three):
    with started_writer(three) as writer:
        for write in (IndexStore.rollback, lambda store: store.collect(0), lambda store: store.publish(1)):
            with pytest.raises(BusyIndex, match=r"another process writes to .* run this again when it has finished"):
                writing(three, write)
        assert shown(three) == ("three", [1, 2, 3])
        writer.communicate("die\n")
    assert writer.returncode == -signal.SIGKILL
    assert hidden(three) != []
    assert publish(three, "four").number == 4
    assert shown(three) == ("four", [1, 2, 3, 4])
    assert hidden(three) == []


def test_a_second_first_writer_leaves_the_folders_of_the_first(tmp_path):
    with started_writer(tmp_path / "index") as writer:
        with pytest.raises(BusyIndex):
            publish(tmp_path / "index", "mine")
        with pytest.raises(NotAnArtifact, match="it has no CURRENT"):
            open_index(tmp_path / "index")
        assert (tmp_path / "index" / GENERATIONS).is_dir()
        writer.communicate("die\n")
    publish(tmp_path / "index", "mine")
    assert shown(tmp_path / "index") == ("mine", [1])
    assert hidden(tmp_path / "index") == []


def test_leftovers_are_reaped_and_files_of_others_left_alone(three):
    token = "0123456789abcdef"
    dead = [three / f".{CURRENT}.tmp-{token}", three / GENERATIONS / f".000009.tmp-{token}" / "index.faiss"]
    others = [three / "notes.txt", three / ".hidden", three / GENERATIONS / "mine" / "a", three / ".CURRENT.tmp-short"]
    for path in dead + others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("left")
    assert shown(three) == ("three", [1, 2, 3])
    assert publish(three, "four").number == 4
    assert [path.exists() for path in dead] == [False, False]
    assert not dead[1].parent.exists()
    assert all(path.read_text() == "left" for path in others)


def test_a_failing_writer_leaves_nothing(tmp_path, three):
    def fail(scratch):
        (scratch / "half").write_text("half")
        raise InvalidValue("a vector is zero")

    for directory in (tmp_path / "new" / "index", three):
        with pytest.raises(InvalidValue, match="zero"):
            writing(directory, lambda store: store.add(fail))
    assert not (tmp_path / "new" / "index").exists()
    with pytest.raises(NotAnArtifact):
        writing(three, lambda store: store.add(lambda scratch: None))
    assert shown(three) == ("three", [1, 2, 3])
    assert hidden(three) == []


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


def test_the_directory_of_an_index_may_be_a_link(three):
    link = Path(f"{three}-link")
    link.symlink_to(three)
    assert publish(link, "four").number == 4
    assert shown(three) == ("four", [1, 2, 3, 4])


def test_a_writer_that_needs_an_index_makes_nothing_and_removes_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    for place in ("mine", "deep/a/b"):
        with pytest.raises(NotAnArtifact), IndexStore(tmp_path / place).writing():
            raise AssertionError("there is no index to write to")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_first_writer_that_fails_removes_only_what_it_made(tmp_path):
    (tmp_path / "mine").mkdir()
    for place in ("mine", "deep/a/b"):
        with pytest.raises(InterruptedError), IndexStore(tmp_path / place).writing(new=True):
            raise InterruptedError
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]
