"""A process that changes indexes in children that die at a given moment, as by kill -9; run as a program.

Reads lines of JSON {"directory", "operation", "moments", "point"} and answers each with one: {"killed": true}, or
{"moments": how many there were} of a child that came to its end. Moments are "files" (what Python is about to do to a
file or folder) or "calls" (every call and return, those of numpy and Faiss among them).
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np

from chextriev.index.build import build_index
from chextriev.index.growth import add, compact, remove
from chextriev.index.info import copy_index
from chextriev.index.search import open_index
from chextriev.index.store import IndexStore
from tests.index.growing import COUNT, universe

RADIOGRAPHS = universe(regions=True)
ROWS = np.arange(COUNT)
_FILES = ("open", "os.", "shutil.", "fcntl.", "mmap.")


def prepare(directory):
    """An index of three generations, the last of which, with a delta and removed rows, is published."""
    build_index(RADIOGRAPHS.of(ROWS[:40]), directory)
    add(directory, RADIOGRAPHS.of(ROWS[40:50]))
    remove(directory, RADIOGRAPHS.ids([3, 44]))


def write(directory, call):
    store = IndexStore(directory)
    with store.writing(new=True):
        return call(store)


OPERATIONS = {
    "build": lambda out: build_index(RADIOGRAPHS.of(ROWS[10:30]), out),  # where there is none
    "build anew": lambda out: build_index(RADIOGRAPHS.of(ROWS[10:30]), out),
    "add": lambda out: add(out, RADIOGRAPHS.of(ROWS[60:70])),
    "remove": lambda out: remove(out, RADIOGRAPHS.ids(ROWS[10:20])),
    "compact": compact,
    "publish": lambda out: write(out, lambda store: store.publish(1)),
    "publish another": lambda out: copy_index(out.parent / "another", out),
    "rollback": lambda out: write(out, IndexStore.rollback),
    "gc": lambda out: write(out, lambda store: store.collect(1)),
}


class Moments:
    """Counts moments and kills the process at one of them."""

    def __init__(self, point):
        self.point, self.count = point, 0

    def __call__(self, *_):
        self.count += 1
        if self.count == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_files(self, event, arguments):
        if event.startswith(_FILES):
            self()


def die(order, answer):
    """In the child: change the index, and say how many moments there were if it was not killed before."""
    moments = Moments(order["point"])
    operation = partial(OPERATIONS[order["operation"]], Path(order["directory"]))
    if order["moments"] == "files":
        sys.addaudithook(moments.on_files)
        operation()
        count = moments.count
    else:
        sys.setprofile(moments)
        operation()
        sys.setprofile(None)
        count = moments.count
    os.write(answer, json.dumps({"moments": count}).encode())


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    import faiss

    faiss.omp_set_num_threads(1)  # a child has no other threads than the one that forked it
    warm = Path(sys.argv[1])
    prepare(warm)
    open_index(warm).search(RADIOGRAPHS.everything.vectors[:1], 2)
    say("ready")
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                die(json.loads(line), writing)
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        say(text if text else json.dumps({"killed": killed}))


if __name__ == "__main__":
    main()
