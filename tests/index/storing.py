"""Generations of one small file, and a process that writes one until it is told to die."""

import subprocess
import sys

from chextriev.artifacts import Recipe, seal
from chextriev.index.generation import KIND
from chextriev.index.store import IndexStore

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


def writing(directory, call):
    store = IndexStore(directory)
    with store.writing(new=True):
        return call(store)


def started_writer(directory):
    pipe = subprocess.PIPE
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(directory)], stdin=pipe, stdout=pipe, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer
