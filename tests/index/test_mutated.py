"""Changed directories: none is accepted that its manifest does not vouch for, and none does harm that it does."""

import json
import logging
import subprocess
import sys

import pytest

from tests.index.mutating import prepare

LOG = logging.getLogger(__name__)
MEMORY = 64 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    prepare(folder)
    return folder


def outcome(folder, family, seed, count):
    """What became of so many changes: refused, accepted and by how many bytes memory grew."""
    command = [sys.executable, "-m", "tests.index.mutating", str(folder), family, str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, (lines[-1:], done.stderr[-2_000:])
    return {"refused": 0, "accepted": 0, **json.loads(lines[-1])}, [line for line in lines if line[:8] == "accepted"]


def check_damaged(folder, seed, count):
    found, accepted = outcome(folder, "damaged", seed, count)
    assert (found["refused"], found["accepted"], accepted) == (count, 0, [])
    assert found["grown"] < MEMORY
    return found


def check_sealed(folder, seed, count):
    found, _ = outcome(folder, "sealed", seed, count)
    assert found["refused"] + found["accepted"] == count
    assert min(found["refused"], found["accepted"]) > 0
    assert found["grown"] < MEMORY
    return found


def test_damaged_directories_are_refused(folder):
    check_damaged(folder, 0, 400)


def test_forged_directories_do_no_harm(folder):
    check_sealed(folder, 0, 150)


@pytest.mark.slow
def test_ten_thousand_damaged_directories_are_refused(folder):
    LOG.info("damaged: %s", check_damaged(folder, 1, 10_000))


@pytest.mark.slow
def test_thousands_of_forged_directories_do_no_harm(folder):
    LOG.info("sealed: %s", check_sealed(folder, 1, 4_000))
