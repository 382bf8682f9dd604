"""chextriev eval lists: anybody's ranked lists under our protocols."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from chextriev.cli.output import add_action, emit
from chextriev.errors import InvalidSetting, MissingFile

NAME_FILES = (".txt", ".json", ".npy")


def configure(actions: Any) -> None:
    """Add the action."""
    parser = add_action(actions, "lists", "score ranked lists that any program has found", _lists)
    parser.add_argument(
        "--neighbours",
        type=Path,
        required=True,
        metavar="N.npy",
        help="int [queries, ranks], gallery rows in rank order without the query; a line of -1 was not evaluated, -1"
        " otherwise fills the end",
    )
    parser.add_argument("--labels", type=Path, required=True, metavar="Y.npy", help="int8 [gallery, findings], 1 or 0")
    parser.add_argument("--queries", type=Path, metavar="Q.npy", help="gallery row of each query (default: 0, 1, ...)")
    parser.add_argument(
        "--names", metavar="NAME,NAME,...", help="of the findings; or a file of them: .txt, one a line, .json or .npy"
    )
    parser.add_argument("--groups", type=Path, metavar="G.npy", help="patient of each gallery row, numbers or text")
    add_protocol(parser)


def add_protocol(parser: argparse.ArgumentParser) -> None:
    """Add `-k` and `--protocol`."""
    parser.add_argument("-k", dest="ks", metavar="K,K,...", help="list lengths (default: those of the protocol)")
    parser.add_argument(
        "--protocol",
        default="default",
        help="conventions by name: default, reference or reference-skip (default: %(default)s)",
    )


def chosen_protocol(options: argparse.Namespace) -> Any:
    """The protocol that the options name, with their list lengths."""
    from chextriev.eval.protocol import find_protocol

    protocol = find_protocol(options.protocol)
    return protocol if options.ks is None else replace(protocol, ks=_list_lengths(options.ks))


def _lists(options: argparse.Namespace) -> None:
    from chextriev.eval.lists import evaluate_lists, given_lists
    from chextriev.eval.markdown import render_lists
    from chextriev.row_file import load_array

    def optional(path: Path | None) -> Any:
        return None if path is None else load_array(path)

    protocol = chosen_protocol(options)
    lists = given_lists(
        load_array(options.neighbours),
        load_array(options.labels),
        queries=optional(options.queries),
        names=None if options.names is None else _names(options.names),
        groups=optional(options.groups),
    )
    found = evaluate_lists(lists, protocol)
    emit(options, render_lists(found), found.as_dict())


def _names(text: str) -> tuple[str, ...]:
    """Names with commas, or those of a file: a JSON list, a .npy of text, or one a line."""
    path = Path(text)
    if path.suffix not in NAME_FILES:
        return tuple(name.strip() for name in text.split(","))
    if path.suffix == ".npy":
        from chextriev.row_file import load_array

        return tuple(str(name) for name in load_array(path).ravel())
    try:
        content = path.read_text(encoding="utf-8-sig")
        return tuple(map(str, json.loads(content) if path.suffix == ".json" else content.splitlines()))
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}; give names with commas, or a file of them") from None
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSetting(f"--names {path} cannot be read: a JSON list, or one a line ({error})") from error


def _list_lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise InvalidSetting(f"-k {text}: whole numbers with commas are needed, as 3,5,10") from None
