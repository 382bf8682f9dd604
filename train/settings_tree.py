"""Training configurations as nested mappings: read, laid over one another, and set by dotted names.

For programs that write configurations; `train fit` itself parses its own with the same YAML dialect, in which 1e-4 is a
number.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from chextriev.errors import InvalidSetting

Tree = dict[str, Any]


def parse_yaml(text: str, *, where: str) -> Any:
    """The value that a YAML text states; InvalidSetting if it is none. where: for the error."""
    try:
        return get_loader("yaml")(text)
    except yaml.YAMLError as error:
        raise InvalidSetting(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    try:
        return parse_yaml(Path(path).read_text(), where=str(path))
    except UnicodeDecodeError as error:
        raise InvalidSetting(f"{path} is not text ({error.reason})") from error


def read_configurations(paths: Sequence[Path]) -> Tree:
    """Training configurations laid over one another, as `train fit --config A --config B` does."""
    merged: Tree = {}
    for path in paths:
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise InvalidSetting(f"{path} is not a training configuration; a mapping of settings is needed")
        merged = overlay(merged, content)
    return merged


def overlay(under: Tree, over: Tree) -> Tree:
    """`over` on `under`: mappings are merged, but a system replaces the other."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = overlay(merged[key], value) if both and key != "system" else value
    return merged


def place(tree: Tree, name: str, value: Any) -> Tree:
    """The tree with the setting of this dotted name."""
    key, _, rest = name.partition(".")
    below = tree.get(key)
    return {**tree, key: place(below if isinstance(below, dict) else {}, rest, value) if rest else value}


def find(tree: Tree, name: str) -> Any:
    """The setting of a dotted name; None where it is not set."""
    value: Any = tree
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def without(tree: Tree, names: Sequence[str]) -> Tree:
    """The tree without the settings of these dotted names."""
    own = {name for name in names if "." not in name}
    below: dict[str, list[str]] = {}
    for name in names:
        key, dot, rest = name.partition(".")
        below.setdefault(key, []).extend([rest] if dot else [])
    return {
        key: without(value, below[key]) if below.get(key) and isinstance(value, dict) else value
        for key, value in tree.items()
        if key not in own
    }


def parse_words(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Names and values of `--name value` and `--name=value`, each value a YAML text."""
    left, settings = list(words), []
    while left:
        word = left.pop(0)
        name, given, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name or not (given or left):
            raise InvalidSetting(f"{word!r}: options of `train fit` are needed here, each with its value")
        settings.append((name, parse_yaml(text if given else left.pop(0), where=f"the value of --{name}")))
    return settings
