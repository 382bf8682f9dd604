"""`chextriev index`: build and search an index of embeddings."""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.cli.output import add_action, emit, hit_as_json
from chextriev.embedding_set import read_embeddings
from chextriev.errors import InvalidValue, MissingFile


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions `build` and `search`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    build = add_action(actions, "build", "build an index of embeddings", _build)
    build.add_argument("embeddings", type=Path, metavar="EMBEDDINGS", help="what `chextriev embed` wrote")
    build.add_argument("out", type=Path, metavar="OUT", help="directory of the index")
    build.add_argument(
        "--spec",
        metavar="S",
        help="a Faiss factory string such as Flat or 'IVF512,PQ64x4fs,Refine(SQfp16)'; chosen by size if left out",
    )
    search = add_action(actions, "search", "find the nearest images for vectors", _search)
    search.add_argument("index", type=Path, metavar="INDEX")
    search.add_argument("vectors", type=Path, metavar="VECTORS.npy", help="float vectors [Q, D] of the same encoder")
    search.add_argument("-k", type=int, default=10, help="results per query (default: %(default)s)")


def _build(options: argparse.Namespace) -> None:
    from chextriev.index.build import build_or_reuse
    from chextriev.index.spec import IndexSpec

    spec = IndexSpec(options.spec) if options.spec else None
    embeddings = read_embeddings(options.embeddings)
    manifest, reused = build_or_reuse(embeddings, options.out, spec=spec)
    recall = [f"{name} {value:.3f}" for name, value in manifest.facts.items() if name.startswith("ann_recall")]
    text = "; ".join(
        [f"{len(embeddings):,} vectors of width {manifest.facts['width']}", manifest.facts["spec"], *recall]
    )
    text = f"index: {options.out}: {text}{' (unchanged, reused)' if reused else ''}"
    emit(options, text, {"out": str(options.out), "digest": manifest.digest, "reused": reused, **manifest.facts})


def _search(options: argparse.Namespace) -> None:
    from chextriev.index.search import Hit, open_index

    found = open_index(options.index).search(_read_vectors(options.vectors), options.k)
    content = [{"query": query, "hits": [hit_as_json(hit) for hit in hits]} for query, hits in enumerate(found)]

    def line(query: int, rank: int, hit: Hit) -> str:
        return f"{query}\t{rank}\t{hit.score:.4f}\t{hit.image_id}\t{', '.join(hit.findings) or 'no finding'}"

    lines = [line(query, rank, hit) for query, hits in enumerate(found) for rank, hit in enumerate(hits, start=1)]
    emit(options, "\n".join(["query\trank\tscore\timage\tfindings", *lines]), content)


def _read_vectors(path: Path) -> npt.NDArray[np.float32]:
    """[Q, D] float32 from a .npy file of floats."""
    try:
        vectors = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MissingFile(f"there is no file {path}; give a .npy file of vectors [number, width]") from None
    except (OSError, ValueError, EOFError) as error:
        raise InvalidValue(f"{path} is not a .npy file of numbers ({error}); write it with numpy.save") from error
    if not isinstance(vectors, np.ndarray) or vectors.dtype.kind != "f":
        raise InvalidValue(f"{path} holds {getattr(vectors, 'dtype', 'an archive')}; float32 vectors are needed")
    return np.asarray(vectors, np.float32)
