"""The command line: parse, call, print. One module a verb; only the verb that is asked for is imported."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

import chextriev
from chextriev.errors import ChextrievError

VERBS = {
    "data": "write phantoms, prepare a study table, compute region features",
    "train": "fit, validate and test an encoder",
    "export": "turn a checkpoint into an encoder bundle",
    "embed": "encode a study table into embeddings",
    "index": "build and search an index",
    "query": "find the cases most similar to a radiograph",
    "eval": "measure retrieval",
    "bench": "measure speed",
    "demo": "run the whole job, from radiographs to a report",
}
EXIT_REFUSED, EXIT_INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 if the input was refused in words, 130 if it was interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words[0] if words else "")
    options = parser.parse_args(words)
    try:
        return int(options.run(options) or 0)
    except ChextrievError as error:
        print(f"chextriev: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except ModuleNotFoundError as error:
        print(
            f"chextriev: this needs {error.name}, which is not installed; run: pip install 'chextriev[demo]'",
            file=sys.stderr,
        )
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("chextriev: interrupted; what was complete stays and is reused", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser(verb: str) -> argparse.ArgumentParser:
    """The parser, with the options of `verb` alone filled in."""
    parser = argparse.ArgumentParser(prog="chextriev", description=chextriev.__doc__)
    parser.add_argument("--version", action="version", version=f"chextriev {chextriev.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, purpose in VERBS.items():
        subparser = verbs.add_parser(name, help=purpose, description=purpose)
        if name == verb:
            import_module(f"chextriev.cli.{name}").configure(subparser)
    return parser
