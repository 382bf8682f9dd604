"""No identifier of a patient leaves its file: planted ones are searched in whatever is made of the files."""

import base64
import csv
import gzip
import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from chextriev.errors import ImageError
from chextriev.radiograph import read_radiograph
from chextriev.radiograph_file import RadiographFile
from chextriev.reading import ReadSettings, read_image, read_images
from chextriev.refusals import Refusal
from chextriev.uid_key import UidKey
from tests.export.tiny_bundle import TinyBundle
from tests.planted import WORDS, found_in, found_under, planted_dicom, write_planted

ROOT = Path(__file__).parent.parent
PROGRAM = Path(__file__).parent / "watched_program.py"
RADIOGRAPHS = 4


@dataclass(frozen=True)
class Job:
    """A run of the whole command line over planted files: where all it left lies, and what it said."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def job(ath: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Import, prepare, embed, index, query, evaluate and report, with logs at DEBUG and every removed file kept."""
    folder = tmp_path_factory.mktemp("private")
    write_planted(folder / "incoming", RADIOGRAPHS)
    (folder / "query.dcm").write_bytes(planted_dicom(0))
    out = folder / "out"
    for name in ("out", "tmp", "kept"):
        (folder / name).mkdir()
    UidKey.create(folder / "key")
    key = ("--uid-key", str(folder / "key"))
    said = _run(folder, [["data", "import", str(folder / "incoming"), str(out / "data"), *key]])
    _diagnose(out / "data" / "images.csv")
    bundle, study, vectors, index = str(ath.folder), str(out / "study"), str(out / "vectors"), str(out / "index")
    query = ["query", str(folder / "query.dcm"), "--index", index, "--bundle", bundle, "-k", "3", *key]
    said += _run(
        folder,
        [
            ["data", "prepare", str(out / "data"), study],
            ["embed", bundle, study, vectors],
            ["index", "build", vectors, index],
            query,
            [*query, "--json"],
            ["eval", "run", vectors, str(out / "evaluation"), "--data", study],
            ["eval", "report", str(out / "evaluation"), str(out / "report.html"), "--data", study],
        ],
    )
    return Job(folder, said)


def _run(folder: Path, words: list[list[str]]) -> str:
    (folder / "words.json").write_text(json.dumps(words))
    done = subprocess.run(
        [sys.executable, PROGRAM, folder / "kept", folder / "words.json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONWARNINGS": "default"},
    )
    opened = json.loads((folder / "kept" / "opened.json").read_text())
    with (folder / "written.txt").open("a") as written:
        written.writelines(f"{path}\n" for path in opened)
    return done.stdout + done.stderr


def _diagnose(images: Path) -> None:
    """Every radiograph has an opacity and is to be tested, as if a reader had filled in the table: else there is
    nothing to evaluate, as hashes with a new key decide who is in which split."""
    with images.open(newline="") as stream:
        rows = [{**row, "lung opacity": 1, "split": "test"} for row in csv.DictReader(stream)]
    with images.open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)


def test_the_job_was_done(job: Job) -> None:
    assert job.said.count("status 0 of") == 8, job.said[-3000:]
    rows = (job.folder / "out" / "data" / "images.csv").read_text().splitlines()
    assert len(rows) >= 1 + RADIOGRAPHS


def test_no_artefact_of_the_job_holds_an_identifier(job: Job) -> None:
    assert found_under(job.folder / "out") == {}


def test_no_temporary_or_removed_file_holds_an_identifier(job: Job) -> None:
    assert found_under(job.folder / "tmp", job.folder / "kept") == {}


def test_the_job_wrote_nowhere_else(job: Job) -> None:
    """Compiled Python and the caches of fonts and the like hold nothing of a patient, and are looked through."""
    opened = [Path(path) for path in (job.folder / "written.txt").read_text().splitlines()]
    elsewhere = [path for path in opened if path.is_file() and job.folder not in path.parents]
    assert any(job.folder in path.parents for path in opened)
    assert {str(path): words for path in elsewhere if (words := found_in(path.read_bytes()))} == {}


def test_a_file_that_is_removed_is_looked_at_too(tmp_path: Path) -> None:
    code = (
        "import os, sys, tempfile; from pathlib import Path; from tests.watched_program import keep_removed;"
        "opened = keep_removed(Path(sys.argv[1])); folder = tempfile.mkdtemp(dir=sys.argv[2]);"
        "Path(folder, 'a').write_text('Quisenberry'); Path(folder, 'b').write_text('Thaddeus');"
        "Path(folder, 'c').write_text('clean'); os.rename(Path(folder, 'c'), Path(folder, 'b'));"
        "import shutil; shutil.rmtree(folder); assert len(opened) >= 3"
    )
    (tmp_path / "kept").mkdir()
    (tmp_path / "work").mkdir()
    subprocess.run([sys.executable, "-c", code, tmp_path / "kept", tmp_path / "work"], check=True, cwd=ROOT)
    assert not any((tmp_path / "work").iterdir())
    assert sorted(map(sorted, found_under(tmp_path / "kept").values())) == [["quisenberry"], ["thaddeus"]]


def test_what_the_job_said_and_logged_holds_no_identifier(job: Job) -> None:
    assert found_in(job.said.encode()) == set()


def test_what_goes_further_are_hashes_that_only_the_key_repeats(job: Job) -> None:
    key = UidKey.read(job.folder / "key")
    rows = (job.folder / "out" / "data" / "images.csv").read_text()
    uid = "1.2.826.0.1.3680043.77.88123.{}.0"
    assert key.hash(uid.format(3), kind="image") in rows
    assert UidKey.random().hash(uid.format(3), kind="image") not in rows
    assert ",64," not in rows  # an age is a band


def test_what_python_reads_holds_no_identifier(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    write_planted(tmp_path / "incoming", 2)
    settings = ReadSettings(key=UidKey.random())
    path = tmp_path / "incoming" / "Quisenberry_Thaddeus_0.dcm"
    sent = RadiographFile.from_path(path)
    read = [
        repr(read_image(path.read_bytes(), settings=settings)),
        repr(read_radiograph(path, settings=settings)),
        repr((sent.image_id, sent.boxes)),
        caplog.text,
    ]
    assert found_in(" ".join(read).encode() + sent.content) == set()


def test_refusals_hold_no_identifier_and_no_name_of_a_file(tmp_path: Path) -> None:
    write_planted(tmp_path / "incoming", 1)
    read = list(read_images(tmp_path / "incoming", settings=ReadSettings(key=UidKey.random())))
    refused = [one for one in read if isinstance(one, Refusal)]
    assert len(refused) == 4
    assert found_in(repr(refused).encode()) == set()
    whole = (tmp_path / "incoming").rename(tmp_path / WORDS[0])  # an export is often named after its patient
    again = [one for one in read_images(whole) if isinstance(one, Refusal)]
    assert again == refused
    for changes in ({"ViewPosition": "LL"}, {"Modality": "Brombeere"}, {"BodyPartExamined": "Wilhelmine"}):
        with pytest.raises(ImageError) as caught:
            read_image(planted_dicom(0, **changes))
        assert found_in(f"{caught.value!r}".encode()) == set()


@pytest.mark.parametrize("word", WORDS)
def test_the_search_finds_each_word_in_whatever_form(word: str) -> None:
    texts = [f"x {word} y", f"{word.title()}", word.upper()]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", texts[0])
    forms = [text.encode(code) for text in texts for code in ("utf-8", "utf-16-le", "utf-16-be")]
    forms += [base64.b64encode(b"_" * shift + word.encode()) for shift in range(3)]
    forms += [packed.getvalue(), gzip.compress(texts[0].encode())]
    assert all(word in found_in(form) for form in forms)


def test_the_search_finds_what_a_file_holds_and_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "report.html").write_text("<td>Quisenberry</td>")
    (tmp_path / "Thaddeus.png").touch()
    (tmp_path / "clean.json").write_text('{"age": 60}')
    found = found_under(tmp_path)
    assert found == {
        str(tmp_path / "Thaddeus.png"): {"thaddeus"},
        str(tmp_path / "deep" / "report.html"): {"quisenberry"},
    }


def test_every_planted_word_stands_in_the_planted_files(tmp_path: Path) -> None:
    """So that none is searched for in vain."""
    write_planted(tmp_path / "incoming", 1)
    found = set().union(*found_under(tmp_path / "incoming").values())
    assert set(WORDS) - found <= {"1923-04-17", "1987-06-29"}  # the dates as reports would write them
