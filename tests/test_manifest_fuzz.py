"""Whatever a manifest says, opening gives our own errors, and nothing outside the directory is read."""

import copy
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chextriev.artifacts import (
    MANIFEST,
    Recipe,
    check_contents,
    digest_of,
    file_digest,
    open_artifact,
    read_verified,
    seal,
)
from chextriev.errors import ChextrievError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
NAMES = st.text(max_size=12) | st.sampled_from(
    [
        *("../secret", "sub/../../secret", "folder/secret", "link", "pipe", "sub", "sub/", "a", "sub/a", "a/b", "/"),
        *("", ".", "..", "a\0", "\ud800", "é" * 200, "b/" * 3000 + "b", MANIFEST, f"./{MANIFEST}", "/dev/zero"),
    ]
)


@dataclass(frozen=True)
class Artefact:
    """With a link, a linked folder and a pipe that its manifest does not name, beside a secret.

    content: of its manifest. secret: the true record of the secret.
    """

    directory: Path
    content: dict[str, Any]
    secret: dict[str, Any]


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("the secret of another directory")
    (folder / "one" / "sub").mkdir(parents=True)
    for name in ("a", "sub/a"):
        (folder / "one" / name).write_text("x")
    manifest = seal(folder / "one", "thing", Recipe({"k": [1, 2]}, {"parent": "abc"}), {"n": 1})
    (folder / "one" / "link").symlink_to(folder / "secret")
    (folder / "one" / "folder").symlink_to(folder)
    os.mkfifo(folder / "one" / "pipe")
    secret = {"size": 31, "sha256": file_digest(folder / "secret")}
    return Artefact(folder / "one", json.loads(manifest.to_json()), secret)


def entries(value: object) -> Iterator[tuple[dict[str, Any], str]]:
    """Every dictionary in a JSON value with each of its keys."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from entries(inner)


def mutated(artefact: Artefact, data: st.DataObject) -> dict[str, Any]:
    """The manifest with entries changed, dropped or renamed, or with the secret's true record under another name."""
    content = copy.deepcopy(artefact.content)
    for change in data.draw(st.lists(st.sampled_from(["value", "drop", "name", "secret", "secret"]), max_size=3)):
        holder, key = data.draw(st.sampled_from(list(entries(content))))
        if change == "value":
            holder[key] = data.draw(VALUES)
        elif change == "drop":
            del holder[key]
        elif change == "name":
            holder[data.draw(NAMES)] = holder.pop(key)
        elif isinstance(content.get("files"), dict):
            content["files"][data.draw(NAMES)] = dict(artefact.secret)
    return content


def with_right_digest(content: dict[str, Any]) -> dict[str, Any]:
    """Anybody can compute it; what can have none stays as it is."""
    try:
        return {**content, "digest": digest_of({key: content[key] for key in ("kind", "recipe", "files")})}
    except (KeyError, ValueError):
        return content


def opens_harmlessly(directory: Path) -> bool:
    """Open the artefact in every way; whether it opened."""
    try:
        manifest = open_artifact(directory, "thing")
    except ChextrievError:
        return False
    for name in manifest.files:
        assert (directory / name).resolve() == directory.resolve() / name
        assert read_verified(directory, manifest, name) == b"x"
    with pytest.raises(ChextrievError, match="symbolic link"):
        check_contents(directory, manifest)
    return True


@settings(deadline=None, max_examples=150)
@given(data=st.data(), redo=st.booleans())
def test_changed_manifests_lead_nowhere(artefact: Artefact, data: st.DataObject, redo: bool) -> None:
    content = mutated(artefact, data)
    (artefact.directory / MANIFEST).write_text(json.dumps(with_right_digest(content) if redo else content))
    opened = opens_harmlessly(artefact.directory)
    assert opened or json.dumps(content) != json.dumps(artefact.content)  # to Python true is 1, in JSON it is not


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_damaged_text_leads_nowhere(artefact: Artefact, data: st.DataObject) -> None:
    text = bytearray(json.dumps(artefact.content).encode())
    for bit in data.draw(st.lists(st.integers(0, 8 * len(text) - 1), max_size=3)):
        text[bit // 8] ^= 1 << bit % 8
    (artefact.directory / MANIFEST).write_bytes(text[: data.draw(st.integers(0, len(text)))])
    opens_harmlessly(artefact.directory)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_lead_nowhere(artefact: Artefact, text: bytes) -> None:
    (artefact.directory / MANIFEST).write_bytes(text)
    assert not opens_harmlessly(artefact.directory)


@pytest.mark.parametrize("name", ["../secret", "link", "folder/secret"])
def test_the_secrets_true_record_does_not_lead_to_it(artefact: Artefact, name: str) -> None:
    files = {**artefact.content["files"], name: artefact.secret}
    (artefact.directory / MANIFEST).write_text(json.dumps(with_right_digest({**artefact.content, "files": files})))
    assert (artefact.directory / name).read_text().startswith("the secret"), "the name does lead there"
    assert not opens_harmlessly(artefact.directory)
