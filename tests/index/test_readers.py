"""Threads that search while generations are published, left, made and removed: no answer is wrong or mixed."""

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from chextriev.index.build import BuildSettings, build_index
from chextriev.index.growth import add
from chextriev.index.search import open_index
from chextriev.index.store import IndexStore
from tests.index.growing import queries, universe

LOG = logging.getLogger(__name__)
THREADS = 8
NEW_EVERY = 20
PATIENCE_S = 60
SIZE = 48


class Publisher:
    """Makes generations whose ids name them, and knows what each answers before readers can open it."""

    def __init__(self, out):
        self.out, self.store, self.made, self.answers = out, IndexStore(out), 0, {}
        self.radiographs = universe().everything

    def make(self):
        """A generation of one batch or, every second time, of that and a second one; it is not published yet."""
        self.made += 1
        rows = np.random.default_rng(self.made).permutation(len(self.radiographs))[:SIZE]
        named = np.array([f"{self.made} {row}" for row in rows], object)
        batch = replace(self.radiographs.take(rows), image_id=named, digest="")
        build_index(batch.take(np.arange(SIZE - 8)), self.out, settings=BuildSettings(publish=False))
        newest = self.store.generations()[-1]
        self.expect(open_index(newest.directory))
        self.publish(newest.number)
        if self.made % 2 == 0:
            with_more = self.out.parent / "with more"
            build_index(batch.take(np.arange(SIZE - 8)), with_more)
            add(with_more, replace(batch.take(np.arange(SIZE - 8, SIZE)), digest=""))
            self.expect(open_index(with_more))
            add(self.out, replace(batch.take(np.arange(SIZE - 8, SIZE)), digest=""))

    def expect(self, index):
        self.answers[index.manifest.digest] = answer(index)

    def publish(self, number):
        with self.store.writing(new=True):
            self.store.publish(number)

    def cycle(self, rng):
        """Publish another generation, and go back."""
        self.publish(int(rng.choice([each.number for each in self.store.generations() if not each.current])))
        with self.store.writing(new=True):
            self.store.rollback()

    def renew(self):
        """A new generation, and away with most of the old."""
        self.make()
        with self.store.writing(new=True):
            self.store.collect(2)


@pytest.fixture(autouse=True)
def short_turns():
    """Threads change often, or the one that publishes would wait for all others at every file that it touches."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-4)
    yield
    sys.setswitchinterval(before)


def answer(index):
    found = index.search(queries(2), 4) + index.search(queries(1), 4, where="view = PA")
    return [[(hit.image_id, hit.score) for hit in hits] for hits in found]


def reader(publisher, start, stop, searched):
    """Search until told to stop, opening or reloading between searches; how many searches, of which generations."""
    index, searches, seen = open_index(publisher.out), 0, set()
    start.wait()
    while not (stop.is_set() and searches):
        found = answer(index)
        assert found == publisher.answers[index.manifest.digest]
        assert len({image_id.split(" ")[0] for hits in found for image_id, _ in hits}) == 1
        seen.add(index.manifest.digest)
        searches += 1
        searched.release()
        index = index.reloaded() if searches % 3 else open_index(publisher.out)
    return searches, seen


def run(out, cycles):
    """Publish and go back while readers search; how many searches there were, of how many generations."""
    publisher, rng = Publisher(out), np.random.default_rng(0)
    for _ in range(3):
        publisher.make()
    start, stop, searched = threading.Barrier(THREADS + 1), threading.Event(), threading.Semaphore(0)
    with ThreadPoolExecutor(THREADS) as pool:
        readers = [pool.submit(reader, publisher, start, stop, searched) for _ in range(THREADS)]
        start.wait()
        try:
            for cycle in range(1, cycles + 1):
                publisher.cycle(rng)
                assert searched.acquire(timeout=PATIENCE_S)  # readers keep up, however busy the machine is
                if cycle % NEW_EVERY == 0:
                    publisher.renew()
        finally:
            stop.set()
    found = [each.result() for each in readers]
    return sum(searches for searches, _ in found), len(set().union(*(seen for _, seen in found)))


def test_readers_of_forty_cycles_see_whole_generations(tmp_path):
    _, generations = run(tmp_path / "index", 40)
    assert generations > 3


@pytest.mark.slow
def test_readers_of_a_thousand_cycles_see_whole_generations(tmp_path):
    searches, generations = run(tmp_path / "index", 1_000)
    LOG.info("%d searches of %d generations", searches, generations)
    assert generations > 50
