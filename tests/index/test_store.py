"""Generations of an index: publish, go back, collect, one writer, and what lies about in its directory."""

import signal
from pathlib import Path

import pytest

from chextriev.errors import (
    BusyIndex,
    DamagedArtifact,
    InvalidSetting,
    InvalidValue,
    NotAnArtifact,
)
from chextriev.index.search import open_index
from chextriev.index.store import CURRENT, GENERATIONS, IndexStore
from tests.index.storing import hidden, publish, shown, started_writer, writing


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
