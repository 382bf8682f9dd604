"""`chextriev index`: make an index, search it, let it grow, publish it and go back."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.cli.index_backend import (
    add_backend_options,
    add_device_option,
    as_ids,
    milvus_token,
    opened,
    opened_collection,
    uses_milvus,
)
from chextriev.cli.output import add_action, emit, hit_as_json
from chextriev.errors import InvalidSetting, OutputExists

if TYPE_CHECKING:
    from chextriev.artifacts import Manifest
    from chextriev.embedding_set import EmbeddingSet
    from chextriev.index.build import BuildSettings
    from chextriev.index.milvus import MilvusIndex
    from chextriev.index.search import Hit
    from chextriev.index.store import Published
    from chextriev.index.vectors_file import VectorFiles

GIB = 1 << 30


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _configure_build(_add(actions, "build", "make an index of embeddings and publish it", _build))
    _configure_search(_add(actions, "search", "find the nearest images for vectors", _search))
    add = _add(actions, "add", "add radiographs to an index", _add_vectors)
    _add_source(add)
    remove = _add(actions, "remove", "have an index not find radiographs any more", _remove)
    remove.add_argument("image_ids", nargs="*", metavar="ID", help="image ids, before any option")
    remove.add_argument("--ids", type=Path, metavar="FILE", help="a .npy of image ids, or a text file of one a line")
    compact = _add(actions, "compact", "make one index of what was added and removed", _compact)
    compact.add_argument("--spec", metavar="S", help="another Faiss factory string")
    _add(actions, "info", "say what an index holds", _info)
    _add(actions, "verify", "compare every file of every generation with its manifest", _verify)
    publish = _add(actions, "publish", "have readers open a generation", _publish)
    publish.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="another index, to copy what it holds")
    publish.add_argument("--generation", type=int, metavar="N", help="a generation that is in INDEX already")
    _add(actions, "rollback", "have readers open the generation published before", _rollback)
    collect = _add(actions, "gc", "remove generations that readers do not open", _collect)
    collect.add_argument(
        "--keep", type=int, default=1, help="generations kept to go back to, beside the current (default: %(default)s)"
    )


def _add(actions: Any, name: str, purpose: str, run: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
    """An action on an index; `build` and `search` name their places themselves."""
    parser = add_action(actions, name, purpose, run)
    if name != "build":
        parser.add_argument("index", type=Path, metavar="INDEX", help="directory of the index")
    if name in ("build", "search", "add", "remove", "info"):
        add_backend_options(parser)
    if name in ("build", "search"):
        add_device_option(parser)
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("vectors", type=Path, metavar="SOURCE", help="what `chextriev embed` wrote, or a .npy [N, D]")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="of a .npy: image ids, .npy or text, one a line")
    parser.add_argument("--metadata", type=Path, metavar="T.parquet", help="of a .npy: columns to filter by")
    parser.add_argument("--encoder", default="", metavar="DIGEST", help="of a .npy: the bundle that made the vectors")


def _configure_build(build: argparse.ArgumentParser) -> None:
    _add_source(build)
    build.add_argument("out", type=Path, metavar="OUT", help="directory of the index")
    build.add_argument(
        "--spec",
        metavar="S",
        help="a Faiss factory string such as Flat or 'IVF512,PQ64x4fs,Refine(SQfp16)'; chosen by size if left out",
    )
    build.add_argument("--metric", choices=("cosine", "hamming"), default="cosine", help="hamming: of hash codes")
    build.add_argument("--recall", type=float, metavar="R", help="ann_recall@k that a chosen spec must reach")
    build.add_argument("--memory", type=float, metavar="GIB", help="GiB of memory that a chosen spec may take")
    build.add_argument("--nprobe", type=int, help="lists to look into, with --spec IVF...")
    build.add_argument("--rerank", type=int, help="candidates scored again per result, with --spec ...,Refine(...)")
    build.add_argument("--no-regions", action="store_true", help="leave region vectors out")
    build.add_argument("--no-publish", action="store_true", help="make the generation, but let readers keep theirs")


def _configure_search(search: argparse.ArgumentParser) -> None:
    search.add_argument("vectors", type=Path, metavar="VECTORS.npy", help="float vectors [Q, D] of the same encoder")
    search.add_argument("-k", type=int, default=10, help="results per query (default: %(default)s)")
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="find only these, such as 'view = PA', 'age >= 40' or 'finding = pneumonia'; may be given several times",
    )
    search.add_argument("--nprobe", type=int, help="lists to look into, in place of the index's own (IVF)")
    search.add_argument("--exact", action="store_true", help="compare with every vector")
    search.add_argument(
        "--ids", type=Path, metavar="FILE", help="image ids of the queries, which are left out with their patients"
    )
    search.add_argument("--out", type=Path, metavar="P.parquet", help="write query, rank, id and score as Parquet")


def _build(options: argparse.Namespace) -> None:
    from chextriev.index.build import build_or_reuse
    from chextriev.index.vectors_file import read_source

    source = read_source(_files(options))
    if uses_milvus(options):
        _build_collection(options, source)
        return
    manifest, reused = build_or_reuse(source, options.out, settings=_settings(options))
    recall = [f"{name} {value:.3f}" for name, value in manifest.facts.items() if name.startswith("ann_recall")]
    text = "; ".join([f"{len(source):,} vectors of width {manifest.facts['width']}", manifest.facts["spec"], *recall])
    text += f"; {manifest.facts['device']}" if "device" in manifest.facts else ""
    text = f"index: {options.out}: {text}{' (unchanged, reused)' if reused else ''}"
    emit(options, text, {"out": str(options.out), "digest": manifest.digest, "reused": reused, **manifest.facts})


def _build_collection(options: argparse.Namespace, source: "EmbeddingSet") -> None:
    from chextriev.index.milvus import build_collection

    for name in ("recall", "memory", "no_regions", "no_publish"):
        if getattr(options, name):
            raise InvalidSetting(
                f"--{name.replace('_', '-')} is for an index of this machine; leave it out with Milvus"
            )
    spec, device = _settings(options).spec, options.index_device
    made = build_collection(source, options.uri, str(options.out), spec, device=device, token=milvus_token())
    text = f"collection {made['collection']} at {made['address']}: {made['n']:,} vectors, {made['index_type']}"
    emit(options, text, made)


def _settings(options: argparse.Namespace) -> "BuildSettings":
    from chextriev.index.build import BuildSettings
    from chextriev.index.spec import EXACT_HASH, HAMMING, Goal, IndexSpec

    depth = {name: getattr(options, name) for name in ("nprobe", "rerank") if getattr(options, name) is not None}
    factory = options.spec or (EXACT_HASH if options.metric == HAMMING else None)
    if depth and not options.spec:
        raise InvalidSetting(f"--{next(iter(depth))} goes with --spec; a chosen spec measures how deep it must look")
    goal: dict[str, Any] = {} if options.recall is None else {"recall": options.recall}
    if options.memory is not None:
        goal["memory_bytes"] = int(options.memory * GIB)
    if goal and factory:
        raise InvalidSetting("--recall and --memory choose a spec; leave them out, or --spec and --metric hamming")
    return BuildSettings(
        spec=IndexSpec(factory, metric=options.metric, **depth) if factory else None,
        goal=Goal(**goal),
        region_vectors=not options.no_regions,
        publish=not options.no_publish,
        device=options.index_device,
    )


def _files(options: argparse.Namespace) -> "VectorFiles":
    from chextriev.index.vectors_file import VectorFiles

    return VectorFiles(options.vectors, options.ids, options.metadata, options.encoder)


def _search(options: argparse.Namespace) -> None:
    from chextriev.index.vectors_file import read_id_file, read_vectors

    if options.out is not None and options.out.exists():
        raise OutputExists(f"{options.out} exists; choose another output or move it away")
    ids = None if options.ids is None else read_id_file(options.ids).tolist()  # of the index's type, or made so
    with opened(options) as index:
        queries = read_vectors(options.vectors)
        found = index.search(
            queries, options.k, image_ids=ids, where=options.where, nprobe=options.nprobe, exact=options.exact
        )
    if options.out is not None:
        from chextriev.index.results import write_results

        write_results(found, options.out)
    short = sum(len(hits) < options.k for hits in found)
    note = (
        [f"{short} of {len(found)} queries have fewer than {options.k} results: no more can be found"] if short else []
    )
    if note and options.json:
        print(f"chextriev: note: {note[0]}", file=sys.stderr)
    content = [{"query": query, "hits": [hit_as_json(hit) for hit in hits]} for query, hits in enumerate(found)]

    def line(query: int, rank: int, hit: "Hit") -> str:
        return f"{query}\t{rank}\t{hit.score:.4f}\t{hit.image_id}\t{', '.join(hit.findings) or 'no finding'}"

    lines = [line(query, rank, hit) for query, hits in enumerate(found) for rank, hit in enumerate(hits, start=1)]
    emit(options, "\n".join(["query\trank\tscore\timage\tfindings", *lines, *note]), content)


def _add_vectors(options: argparse.Namespace) -> None:
    from chextriev.index.growth import add
    from chextriev.index.vectors_file import read_source

    source = read_source(_files(options))
    if uses_milvus(options):
        with opened_collection(options) as collection:
            _say_collection(options, f"added {collection.add(source):,} radiographs", collection)
        return
    _say(options, f"added {len(source):,} radiographs", add(options.index, source))


def _remove(options: argparse.Namespace) -> None:
    from chextriev.index.growth import remove
    from chextriev.index.search import open_index
    from chextriev.index.vectors_file import read_id_file

    listed = read_id_file(options.ids).tolist() if options.ids else []
    if uses_milvus(options):
        with opened_collection(options) as collection:
            ids = as_ids([*options.image_ids, *map(str, listed)], collection.collection.card.ids)
            _say_collection(options, f"removed {collection.remove(ids):,} radiographs", collection)
        return
    integers = open_index(options.index).columns["image_id"].dtype.kind == "i"
    ids = as_ids([*options.image_ids, *map(str, listed)], "integer" if integers else "text")
    _say(options, f"removed {len(set(ids)):,} radiographs", remove(options.index, ids))


def _say_collection(options: argparse.Namespace, text: str, collection: "MilvusIndex") -> None:
    said = collection.info()
    emit(options, f"{text}: collection {said['collection']} holds {said['n']:,}", said)


def _compact(options: argparse.Namespace) -> None:
    from chextriev.index.growth import compact
    from chextriev.index.spec import IndexSpec

    spec = IndexSpec(options.spec) if options.spec else None
    manifest = compact(options.index, spec=spec)
    _say(options, f"compacted ({manifest.facts['spec']})", manifest)


def _say(options: argparse.Namespace, text: str, manifest: "Manifest") -> None:
    """What was done, and what the index holds now."""
    said = manifest.recipe.settings
    counts = {name: said[name] for name in ("n", "added", "removed")}
    holds = said["n"] + said["added"] - said["removed"]
    text = (
        f"{text}: {options.index} holds {holds:,} radiographs ({said['n']:,} in the main part, {said['added']:,} added,"
        f" {said['removed']:,} removed)"
    )
    emit(options, text, {"index": str(options.index), "digest": manifest.digest, "holds": holds, **counts})


def _info(options: argparse.Namespace) -> None:
    if uses_milvus(options):
        with opened_collection(options) as collection:
            said = collection.info()
        emit(options, "\n".join(f"{name}: {value}" for name, value in said.items()), said)
        return
    from chextriev.index.info import describe_index

    content = describe_index(options.index)
    lines = [f"{name}: {value}" for name, value in content.items() if name not in ("generations", "tuning")]
    lines += [
        f"generation {each['number']}: {each['holds']:,} radiographs, {each['megabytes']:,.1f} MB,"
        f" digest {each['digest'][:12]}{' (current)' if each['current'] else ''}"
        for each in content["generations"]
    ]
    emit(options, "\n".join(lines), content)


def _verify(options: argparse.Namespace) -> None:
    from chextriev.index.info import verify_index

    found = verify_index(options.index)
    text = f"{options.index}: {len(found)} generations, every file as its manifest says, all opened"
    emit(options, text, {"index": str(options.index), "generations": found})


def _publish(options: argparse.Namespace) -> None:
    from chextriev.index.info import copy_index
    from chextriev.index.store import IndexStore

    if (options.source is None) == (options.generation is None):
        raise InvalidSetting("publish takes SOURCE, another index, or --generation N, one that INDEX has: one of them")
    if options.source is not None:
        made = copy_index(options.source, options.index)
    else:
        store = IndexStore(options.index)
        with store.writing():
            made = store.publish(options.generation)
    _say_published(options, "published", made)


def _rollback(options: argparse.Namespace) -> None:
    from chextriev.index.store import IndexStore

    store = IndexStore(options.index)
    with store.writing():
        made = store.rollback()
    _say_published(options, "rolled back to", made)


def _say_published(options: argparse.Namespace, verb: str, made: "Published") -> None:
    text = f"{verb} generation {made.number} of {options.index}; readers have it when they open the index anew"
    emit(options, text, {"index": str(options.index), "generation": made.number, "directory": made.directory.name})


def _collect(options: argparse.Namespace) -> None:
    from chextriev.index.store import IndexStore

    store = IndexStore(options.index)
    with store.writing():
        removed = [each.number for each in store.collect(options.keep)]
    text = f"removed generations: {', '.join(map(str, removed)) or 'none'}"
    emit(options, text, {"index": str(options.index), "removed": removed})
