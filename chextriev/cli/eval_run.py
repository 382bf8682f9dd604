"""chextriev eval run: a bundle, an engine, a served model or embeddings, evaluated by a protocol."""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.cli.encoders import add_encoder_options, open_chosen
from chextriev.cli.eval_lists import add_protocol, chosen_protocol
from chextriev.cli.output import add_action, emit
from chextriev.errors import DamagedArtifact, InvalidSetting, NotAnArtifact, OtherEncoder

if TYPE_CHECKING:
    from chextriev.embedding_set import EmbeddingSet
    from chextriev.encoder import Embeddings, Source
    from chextriev.eval.batch import Batch
    from chextriev.eval.relevance import Relevance
    from chextriev.serving.client import Client

CONCURRENCY = 4
"""Requests on their way to a server."""


def configure(actions: Any) -> None:
    """Add the action."""
    parser = add_action(actions, "run", "evaluate an encoder or embeddings, with chance beside every number", _run)
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="embeddings (a folder that `chextriev embed` wrote, or a .npy file), a bundle, or the address of a server:"
        " grpc://HOST:PORT, http://HOST:PORT",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the evaluation: JSON, Markdown and Parquet")
    parser.add_argument("--data", type=Path, help="a study table: what a bundle or a server encodes")
    parser.add_argument(
        "--work", type=Path, help="folder of the embeddings of a bundle or server (default: OUT.embeddings); resumable"
    )
    parser.add_argument("--system", default="v6", help="of a server (default: %(default)s)")
    parser.add_argument("--ids", type=Path, help="of the rows of a .npy file: .npy, or text, one a line")
    parser.add_argument("--metadata", type=Path, help="of the rows of a .npy file: Parquet; patient_id and findings")
    parser.add_argument("--split", help="queries and gallery (default: test; of a .npy file without splits: all)")
    parser.add_argument(
        "--findings",
        type=int,
        choices=(9, 17),
        default=9,
        help="of the image, or with their side, which needs --data (default: %(default)s)",
    )
    parser.add_argument("--name", default="", help="what comparisons and reports call it")
    parser.add_argument("--tables", action="store_true", help="also write a text table of every query for each k")
    add_protocol(parser)
    add_encoder_options(parser)


def _run(options: argparse.Namespace) -> None:
    from chextriev.eval.evaluation_text import render_evaluation
    from chextriev.eval.query_text import write_tables
    from chextriev.eval.store import evaluate_or_reuse

    protocol = chosen_protocol(options)
    embeddings, split = _embeddings(options)
    relevance = _relevance(options, embeddings)
    evaluation, reused = evaluate_or_reuse(
        embeddings, options.out, protocol, split=split, relevance=relevance, name=options.name
    )
    tables = write_tables(evaluation, options.out.with_name(f"{options.out.name}.tables")) if options.tables else []
    said = [f"{options.out}: unchanged, reused"] if reused else []
    said += [f"wrote {path}" for path in tables]
    text = "\n\n".join([render_evaluation(evaluation), *said])
    emit(options, text, {**evaluation.as_dict(), "reused": reused, "tables": [str(path) for path in tables]})


def _embeddings(options: argparse.Namespace) -> "tuple[EmbeddingSet, str]":
    """What is evaluated, and of which split."""
    from chextriev.eval.batch import embed_with_encoder
    from chextriev.index.vectors_file import VectorFiles, read_source

    if "://" in options.target:
        return _served(options), options.split or "test"
    target = Path(options.target)
    if _is_bundle(target):
        options.bundle = target
        batch = _batch(options)
        return embed_with_encoder(open_chosen(options), batch).embeddings, batch.split
    embeddings = read_source(VectorFiles(target, options.ids, options.metadata))
    return embeddings, options.split or ("test" if "split" in embeddings.metadata else "all")


def _is_bundle(target: Path) -> bool:
    from chextriev.artifacts import read_manifest
    from chextriev.bundle import KIND

    try:
        return read_manifest(target, KIND).kind == KIND
    except DamagedArtifact:  # the encoder says what is wrong
        return True
    except NotAnArtifact:
        return False


def _batch(options: argparse.Namespace) -> "Batch":
    from chextriev.eval.batch import Batch
    from chextriev.study_table import read_study_table

    if options.data is None:
        raise InvalidSetting(f"{options.target} encodes radiographs; name their study table with --data")
    folder = options.work or options.out.with_name(f"{options.out.name}.embeddings")
    return Batch(read_study_table(options.data), folder, options.split or "test")


def _served(options: argparse.Namespace) -> "EmbeddingSet":
    from chextriev.eval.batch import embed_with_server
    from chextriev.serving.client import Client

    with Client(options.target, system=options.system) as client:
        batch, digest = _batch(options), client.encoder_digest()
        return embed_with_server(_Served(client, digest), digest, batch).embeddings


def _relevance(options: argparse.Namespace, embeddings: "EmbeddingSet") -> "Relevance":
    from chextriev.eval.relevance import image_findings, lateralised_findings
    from chextriev.study_table import read_study_table

    table = None if options.data is None else read_study_table(options.data)
    if options.findings == 9:
        return image_findings(embeddings, table)
    if table is None:
        raise InvalidSetting("findings with a side are read from the regions of a study table; name it with --data")
    return lateralised_findings(embeddings, table)


class _Served:
    """A server as what embeds a stream, which must go on with the bundle that it began with."""

    engine = "served"

    def __init__(self, client: "Client", digest: str) -> None:
        self.client, self.digest = client, digest

    def stream(self, sources: "Iterable[Source]", *, batch: int = 8) -> "Iterator[Embeddings]":
        """Embeddings in order."""
        with closing(self.client.stream(sources, concurrency=CONCURRENCY, batch=batch)) as found:
            for part in found:
                if part.encoder_digest != self.digest:
                    raise OtherEncoder(
                        f"the server encodes with {part.encoder_digest[:12]} now, with {self.digest[:12]} before; run"
                        " again to embed everything with the new one"
                    )
                yield part
