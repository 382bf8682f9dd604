"""The command line: parse, call, print. One module a verb; only the verb that is asked for is imported."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import chextriev
from chextriev.cli.output import EXIT_REFUSED
from chextriev.errors import ChextrievError

VERBS = {
    "data": "write phantoms, prepare a study table, compute region features",
    "train": "fit, validate, test and search encoders, and embed with them",
    "export": "turn a checkpoint into an encoder bundle",
    "embed": "encode a study table into embeddings",
    "index": "build and search an index",
    "query": "find the cases most similar to a radiograph",
    "serve": "serve encoders on this machine",
    "eval": "measure retrieval",
    "bench": "measure speed",
    "doctor": "attack a running deployment, harmlessly, and say what is open",
    "demo": "run the whole job, from radiographs to a report",
}
DESCRIPTION = "Find similar chest radiographs by anatomy: from data to an index and a report. Not a medical device."
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 2 if the input was refused in words, 130 if it was interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words[0] if words else "")
    options = parser.parse_args(words)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark for a dash
    try:
        status = int(options.run(options) or 0)
        sys.stdout.flush()
    except ChextrievError as error:
        return _refuse(f"{type(error).__name__}: {error}")
    except ModuleNotFoundError as error:
        return _refuse(f"this needs {error.name}, which is not installed; run: pip install 'chextriev[demo]'")
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(f"{error.filename or 'the disk'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("chextriev: interrupted; what is complete stays and is reused", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status


def _refuse(words: str) -> int:
    print(f"chextriev: {words}", file=sys.stderr)
    return EXIT_REFUSED


def _parser(verb: str) -> argparse.ArgumentParser:
    """The parser, with the options of `verb` alone filled in."""
    parser = argparse.ArgumentParser(prog="chextriev", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"chextriev {chextriev.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, purpose in VERBS.items():
        subparser = verbs.add_parser(name, help=purpose, description=purpose)
        if name == verb:
            import_module(f"chextriev.cli.{name}").configure(subparser)
    return parser
