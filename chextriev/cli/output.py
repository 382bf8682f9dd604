"""How every verb prints: sentences for a person, or one JSON document for a machine."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chextriev.errors import InvalidSetting

EXIT_REFUSED = 2
"""Of a command whose input was refused, or that found what it judged to fail."""


def add_action(
    actions: Any, name: str, purpose: str, run: Callable[[argparse.Namespace], Any]
) -> argparse.ArgumentParser:
    """Add the action `name` of a verb, with `--json`."""
    parser: argparse.ArgumentParser = actions.add_parser(name, help=purpose, description=purpose)
    finish_parser(parser, run)
    return parser


def finish_parser(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], Any]) -> None:
    """Give a parser its `--json` option and the function it runs."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def emit(options: argparse.Namespace, text: str, content: object) -> None:
    """Print `content` as JSON if asked for, else `text`."""
    print(json.dumps(content, indent=2, ensure_ascii=False) if options.json else text)


def check_file_place(path: Path | None, option: str) -> None:
    """InvalidSetting where the file that an option names cannot be written, before hours go into its content."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        raise InvalidSetting(f"there is no folder {path.absolute().parent} for {option}; make it first")
    if path.is_dir():
        raise InvalidSetting(f"{path} is a folder; {option} takes the name of a file")


def hit_as_json(hit: Any) -> dict[str, Any]:
    """A hit of an index under the names that every verb prints: `id` and `score` first."""
    fields = asdict(hit)
    return {"id": fields.pop("image_id"), "score": fields.pop("score"), **fields}
