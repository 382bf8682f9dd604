"""`chextriev bench`: measure speed, as ratios within one run, written as JSON."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chextriev.artifacts import write_text
from chextriev.cli.output import add_action, emit

Content = dict[str, Any]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the parts that can be measured."""
    parts = parser.add_subparsers(metavar="PART", required=True)
    data = _add(parts, "data", "scene graphs/s of `data prepare`, radiographs/s of the feature stage", _data)
    data.add_argument("--scene-graphs", type=int, default=6000, metavar="N")
    data.add_argument("--radiographs", type=int, default=12, metavar="N")
    encode = _add(parts, "encode", "a radiograph to its embedding: the published pipeline against the engines", _encode)
    encode.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    encode.add_argument("--repeats", type=int, metavar="N", help="turns of each part; their median counts")
    serve = _add(
        parts, "serve", "a local Triton server against the same encoder in this process, at rising load", _serve
    )
    serve.add_argument("--bundle", type=Path, help="default: one of random weights on the backbone")
    serve.add_argument("--engine", metavar="NAME", help="default: onnx-fp32")
    serve.add_argument("--repeats", type=int, metavar="N", help="turns of each piece of work at saturation")
    serve.add_argument("--minutes", type=float, metavar="M", help="of the long run (default: half a minute)")
    serve.add_argument(
        "--perf-analyzer", type=Path, metavar="PATH", help="Triton's program, to measure with it as well"
    )
    serve.add_argument("--plot", type=Path, metavar="FILE", help="draw latencies against load there, as SVG")
    for part in (data, encode, serve):
        part.add_argument("--backbone", help="default: resnet50 for encode, efficientnet-lite0 for the others")
    _add(parts, "train", "training steps from cached features against running the backbone every step", _train)
    _configure_index(
        _add(parts, "index", "approximate against exact search, and what each type of index takes", _index)
    )
    systems = _add(parts, "systems", "train every system with several seeds and measure what it retrieves", _systems)
    systems.add_argument("--work", type=Path, default=Path("bench-systems"), help="folder of all that is made")
    systems.add_argument("--data", type=Path, help="a folder that `data prepare` accepts (default: phantoms, seed 0)")
    systems.add_argument("--patients", type=int, default=300, help="of the phantoms (default: %(default)s)")
    systems.add_argument("--systems", nargs="+", metavar="NAME", help="default: all")
    systems.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    systems.add_argument("--backbone", default="efficientnet-lite0", help="default: %(default)s")
    systems.add_argument("--weights", help="of the backbone, as for `data features`")
    _add(parts, "eval", "search and metrics in arrays against a plain loop", _eval)
    query = _add(parts, "query", "a DICOM file to its ten most similar cases through a local Triton, by stage", _query)
    query.add_argument("--bundle", type=Path, required=True, help="of the encoder")
    query.add_argument("--localizer", type=Path, required=True, help="bundle of the localizer")
    query.add_argument("--index", type=Path, required=True, help="of the encoder's embeddings")
    query.add_argument("--image", type=Path, metavar="FILE", help="default: a made-up DICOM file of 3000 x 2500 pixels")
    query.add_argument("--engine", metavar="NAME", help="of the encoder (default: onnx-fp32)")
    query.add_argument("--localizer-engine", metavar="NAME", help="default: onnx-fp32")
    query.add_argument("--repeats", type=int, metavar="N", help="queries (default: 30)")
    gpu = _add(parts, "index-gpu", "an index on NVIDIA GPUs against the same on the CPU", _index_gpu)
    gpu.add_argument("--device", default="cuda", help="cuda, cuda:1 or several as cuda:0,1 (default: %(default)s)")
    gpu.add_argument("--size", type=int, metavar="N", help="made-up vectors (default: 237000)")
    gpu.add_argument("--width", type=int, help="of the vectors (default: 1024)")


def _add(
    parts: Any, name: str, purpose: str, measure: Callable[[argparse.Namespace], Content]
) -> argparse.ArgumentParser:
    def run(options: argparse.Namespace) -> None:
        content = measure(options)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(options.out, json.dumps(content, indent=2) + "\n")
        emit(options, "\n".join(content["table"] if "table" in content else _lines(content)), content)

    parser = add_action(parts, name, purpose, run)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON document there too")
    return parser


def _data(options: argparse.Namespace) -> Content:
    from chextriev.export.onnx_runner import OnnxExtractor
    from chextriev.train.bench_data import DataBenchSettings, bench_data
    from chextriev.train.features import TorchExtractor

    settings = DataBenchSettings(
        scene_graphs=options.scene_graphs,
        radiographs=options.radiographs,
        backbone=options.backbone or DataBenchSettings.backbone,
    )
    return bench_data(settings, {"torch": TorchExtractor, "onnx": OnnxExtractor.from_backbone})


def _encode(options: argparse.Namespace) -> Content:
    from chextriev.export.bench import EncodeBenchSettings, bench_encode

    settings = EncodeBenchSettings(
        backbone=options.backbone or EncodeBenchSettings.backbone,
        device=options.device,
        repeats=options.repeats or EncodeBenchSettings.repeats,
    )
    return bench_encode(settings)


def _serve(options: argparse.Namespace) -> Content:
    from chextriev.serving.bench import ServeBenchSettings, bench_serve
    from chextriev.serving.bench.picture import draw_load

    names = ("bundle", "engine", "backbone", "repeats", "minutes", "perf_analyzer")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    content = bench_serve(ServeBenchSettings(**given))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.plot, draw_load(content))
    return content


def _train(_: argparse.Namespace) -> Content:
    from chextriev.train.bench_train import TrainBenchSettings, bench_train

    return bench_train(TrainBenchSettings())


def _configure_index(index: argparse.ArgumentParser) -> None:
    index.add_argument("--sizes", nargs="+", type=int, metavar="N", help="made-up vectors (default: 1000 20000 237000)")
    index.add_argument(
        "--spreads", nargs="+", type=float, metavar="S", help="within a centre; that between centres is 1 (0.6 1.0)"
    )
    index.add_argument("--width", type=int, help="of made-up vectors (default: 1024)")
    index.add_argument("--recall", type=float, metavar="R", help="ann_recall@10 asked of every type (default: 0.98)")
    index.add_argument("--repeats", type=int, metavar="N", help="turns of each type; their median counts")
    index.add_argument("--graph-up-to", type=int, metavar="N", help="vectors up to which a graph is built, in minutes")
    index.add_argument("--vectors", type=Path, metavar="FOLDER", help="measure what `chextriev embed` wrote, too")
    index.add_argument("--large", type=int, metavar="N", help="an index of so many as well, in a process of its own")
    index.add_argument("--plot", type=Path, metavar="FILE", help="draw speed against recall there, as SVG")


def _index(options: argparse.Namespace) -> Content:
    from chextriev.index.bench import IndexBenchSettings, bench_index
    from chextriev.index.bench.picture import draw_recall

    given: Content = {}
    for name in ("sizes", "spreads", "width", "recall", "repeats", "graph_up_to", "vectors", "large"):
        value = getattr(options, name)
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    content = bench_index(IndexBenchSettings(**given))
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.plot, draw_recall(content))
    return content


def _systems(options: argparse.Namespace) -> Content:
    from chextriev.cli.bench_systems import SystemsBenchSettings, bench_systems
    from chextriev.systems import SYSTEMS

    return bench_systems(
        SystemsBenchSettings(
            work=options.work,
            data=options.data,
            patients=options.patients,
            systems=tuple(options.systems or SYSTEMS),
            seeds=tuple(options.seeds),
            backbone=options.backbone,
            weights=options.weights,
        )
    )


def _eval(_: argparse.Namespace) -> Content:
    from chextriev.eval.bench import EvalBenchSettings, bench_eval

    return bench_eval(EvalBenchSettings())


def _query(options: argparse.Namespace) -> Content:
    from chextriev.serving.bench.query_stages import QueryBenchSettings, bench_query

    names = ("image", "engine", "localizer_engine", "repeats")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return bench_query(QueryBenchSettings(options.bundle, options.localizer, options.index, **given))


def _index_gpu(options: argparse.Namespace) -> Content:
    from chextriev.index.bench.gpu import GpuBenchSettings, bench_gpu

    given = {"n": options.size, "width": options.width}
    return bench_gpu(GpuBenchSettings(options.device, **{name: value for name, value in given.items() if value}))


def _lines(content: Content, prefix: str = "") -> list[str]:
    """One line a number: its path and its value."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{prefix}{key} / ")
        elif isinstance(value, float):
            lines.append(f"{prefix}{key}: {value:.4g}")
        else:
            lines.append(f"{prefix}{key}: {value}")
    return lines
