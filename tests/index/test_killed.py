"""Writers that are killed at any moment: readers find the old or the new, and the next writer works."""

import json
import logging
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from chextriev.errors import NotAnArtifact
from chextriev.index.growth import remove
from chextriev.index.info import verify_index
from chextriev.index.search import open_index
from chextriev.index.store import CURRENT, IndexStore
from tests.index.growing import COUNT, built, encoded, queries
from tests.index.killing import OPERATIONS, RADIOGRAPHS, ROWS, prepare

LOG = logging.getLogger(__name__)


class Killer:
    """The process that has writers die."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "tests.index.killing", str(folder / "warm")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready\n"

    def answer(self):
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def __call__(self, directory, operation, moments, point=None):
        order = {"directory": str(directory), "operation": operation, "moments": moments, "point": point}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.answer())


@dataclass
class Scene:
    """An index before operations, what it answers before and after each, and how many moments each has."""

    folder: object
    killer: Killer
    answers: dict
    moments: dict

    def fresh(self, name, operation):
        """A copy of the index; none for the first build."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "another").symlink_to(self.folder / "another")
        if operation != "build":
            shutil.copytree(self.folder / "index", folder / "index")
        return folder / "index"


def content(directory):
    """All that an index answers; None where there is none."""
    try:
        index = open_index(directory)
    except NotAnArtifact:
        assert not (directory / CURRENT).exists()
        return None
    known = encoded(RADIOGRAPHS.of([5, 42]))
    found = index.search(queries(2), COUNT) + index.search(known, 5, regions={"left lung": 1.0})
    return len(index), [[replace(hit, row=-1) for hit in hits] for hits in found]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    prepare(folder / "index")
    built(RADIOGRAPHS.of(ROWS[70:80]), folder / "another")
    scene = Scene(folder, Killer(folder), {}, {})
    for operation in OPERATIONS:
        for moments in ("files", "calls"):
            out = scene.fresh(f"{operation} {moments}", operation)
            before = content(out)
            scene.moments[operation, moments] = scene.killer(out, operation, moments)["moments"]
            scene.answers[operation] = before, content(out)
    yield scene
    scene.killer.process.communicate()


def die_at_random(scene, rng, number, count):
    """Kill `count` writers; reports what came of each: its operation, whether it was too late, seconds to reopen."""
    report = []
    for kill in range(count):
        operation = list(OPERATIONS)[kill % len(OPERATIONS)]
        moments = "files" if kill // len(OPERATIONS) % 2 else "calls"
        out = scene.fresh(f"{number}-{kill}", operation)
        held = {each.directory.name for each in IndexStore(out).generations()} if out.exists() else set()
        point = int(rng.integers(1, scene.moments[operation, moments] + 1))
        killed = scene.killer(out, operation, moments, point).get("killed", False)
        start = time.perf_counter()
        if operation != "build":
            open_index(out)
        took = time.perf_counter() - start
        old, new = scene.answers[operation]
        found = content(out)
        assert found in (old, new), (operation, moments, point)
        report.append((operation, killed, found == new and old != new, took))
        if operation != "gc":
            assert held <= {each.directory.name for each in IndexStore(out).generations()}, (operation, moments, point)
        next_writer_works(out, found)
        shutil.rmtree(out.parent)
    return report


def next_writer_works(out, found):
    if found is None:
        built(RADIOGRAPHS.of(ROWS[:20]), out)
        held = 20
    else:
        held = found[0] - 1
        remove(out, [open_index(out).search(queries(1), 1)[0][0].image_id])
    assert len(open_index(out)) == held
    assert [str(path) for path in out.rglob(".*")] == []
    assert len(verify_index(out)) == len(IndexStore(out).generations())


def test_a_killed_writer_leaves_the_old_or_the_new(scene):
    report = die_at_random(scene, np.random.default_rng(0), "few", 4 * len(OPERATIONS))
    assert sum(killed for _, killed, _, _ in report) >= 0.9 * len(report)


@pytest.mark.slow
def test_two_hundred_killed_writers_leave_the_old_or_the_new(scene):
    report = die_at_random(scene, np.random.default_rng(1), "many", 220)
    killed = [line for line in report if line[1]]
    for operation in OPERATIONS:
        died = [line for line in killed if line[0] == operation]
        moments = [scene.moments[operation, each] for each in ("files", "calls")]
        LOG.info(
            "%s: %d killed, %d after it was published, of %s moments",
            operation,
            len(died),
            sum(line[2] for line in died),
            moments,
        )
    LOG.info("slowest reopening: %.3f s", max(line[3] for line in report))
    assert len(killed) >= 200
    assert {line[2] for line in killed} == {False, True}


@pytest.mark.parametrize("operation", ["build", "add", "compact", "publish"])
def test_the_last_steps_of_an_operation_are_safe_one_by_one(scene, operation):
    """Between the rename of the generation and the end: every step that touches a file."""
    last = scene.moments[operation, "files"]
    seen = set()
    for point in range(max(1, last - 30), last + 1, 3):
        out = scene.fresh(f"{operation} at {point}", operation)
        scene.killer(out, operation, "files", point)
        found = content(out)
        assert found in scene.answers[operation]
        seen.add(found == scene.answers[operation][1])
        next_writer_works(out, found)
    assert True in seen
