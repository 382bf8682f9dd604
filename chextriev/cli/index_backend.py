"""Where an index lies: a directory of this machine, or a collection of Milvus."""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chextriev.errors import InvalidSetting

if TYPE_CHECKING:
    from chextriev.index.milvus import MilvusIndex
    from chextriev.index.retriever import Retriever

FAISS, MILVUS = "faiss", "milvus"
TOKEN = "MILVUS_TOKEN"
"""The variable that holds the secret: one on a command line is seen by every user."""

_INTEGER = "integer"


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """Add the backend and the address of Milvus."""
    parser.add_argument("--backend", choices=(FAISS, MILVUS), default=FAISS, help="default: %(default)s")
    parser.add_argument(
        "--uri",
        help="of Milvus: http://HOST:19530, or FILE.db for milvus-lite; the index is then the name of a collection,"
        f" and the variable {TOKEN} holds user:password or a key",
    )


def add_device_option(parser: argparse.ArgumentParser, *, name: str = "--device") -> None:
    """Add where an index of this machine is searched."""
    parser.add_argument(
        name, dest="index_device", default="cpu", metavar="DEVICE", help="cpu, cuda, cuda:0,1 (default: %(default)s)"
    )


def uses_milvus(options: argparse.Namespace) -> bool:
    """Whether the index is a collection of Milvus. InvalidSetting where the address and the backend do not agree."""
    if options.backend == MILVUS and not options.uri:
        raise InvalidSetting("--backend milvus needs its address: --uri http://HOST:19530, or FILE.db for milvus-lite")
    if options.backend != MILVUS and options.uri:
        raise InvalidSetting("--uri is the address of Milvus; give --backend milvus too, or leave it out")
    return bool(options.backend == MILVUS)


def milvus_token() -> str | None:
    """What opens Milvus, from the environment."""
    return os.environ.get(TOKEN) or None


@contextmanager
def opened(options: argparse.Namespace) -> "Iterator[Retriever]":
    """The index that the options name."""
    if uses_milvus(options):
        if options.index_device != "cpu":
            raise InvalidSetting("a collection of Milvus is searched where it was built to be; leave the device out")
        with opened_collection(options) as collection:
            yield collection
        return
    from chextriev.index.search import open_index

    index = open_index(options.index, device=options.index_device)
    if index.device_words:
        print(f"chextriev: note: the index is searched {index.device_words}", file=sys.stderr)
    yield index


@contextmanager
def opened_collection(options: argparse.Namespace) -> "Iterator[MilvusIndex]":
    """The collection that the options name."""
    from chextriev.index.milvus import open_collection

    with open_collection(options.uri, str(options.index), token=milvus_token()) as collection:
        yield collection


def as_ids(texts: list[str], kind: str) -> list[Any]:
    """Ids of the command line as an index has them: `kind` is "integer" or "text"."""
    if kind != _INTEGER:
        return list(texts)
    wrong = next((text for text in texts if not re.fullmatch("[+-]?[0-9]{1,19}", text)), None)
    if wrong is not None:
        raise InvalidSetting(f"image id {wrong!r:.80}; the ids of this index are integers")
    return [int(text) for text in texts]
