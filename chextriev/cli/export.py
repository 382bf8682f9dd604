"""`chextriev export`: checkpoints to bundles, bundles to what a server loads."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.bundle import ENGINES
from chextriev.cli.output import EXIT_REFUSED, add_action, emit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chextriev.bundle import EncoderBundle, Verdict


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    bundle = add_action(actions, "bundle", "export a training run to an encoder bundle", _bundle)
    bundle.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run of `train fit`, or a .ckpt file of one")
    bundle.add_argument("out", type=Path, metavar="OUT")
    bundle.add_argument("--weights", help="weights of the backbone: a file, or random:SEED as in `data features`")
    imported = add_action(actions, "import", "make an encoder bundle of a checkpoint of the published code", _import)
    imported.add_argument("checkpoint", type=Path, metavar="CKPT", help="a .ckpt file; its code, if any, is never run")
    imported.add_argument("out", type=Path, metavar="OUT")
    imported.add_argument("--system", required=True, metavar="NAME", help="what it was trained as; the file cannot say")
    imported.add_argument(
        "--backbone", metavar="NAME", help="where the file holds a head alone (default: by its width)"
    )
    imported.add_argument("--weights", metavar="SRC", help="weights of that backbone: a file, or random:SEED")

    engines = add_action(
        actions, "engines", "add engines to a bundle; only those that answer as PyTorch does are kept", _engines
    )
    engines.add_argument("bundle", type=Path, metavar="BUNDLE")
    engines.add_argument("data", type=Path, metavar="DATA", help="a study table: train to calibrate, validate to judge")
    engines.add_argument("--engines", nargs="+", required=True, metavar="NAME", help=", ".join(ENGINES[1:]))
    engines.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    engines.add_argument("--remake", action="store_true", help="make anew what is there; else it is only measured")
    engines.add_argument("--force", action="store_true", help="keep what fails as unproven; serving refuses it")
    repository = add_action(actions, "repository", "write the Triton model repository of some bundles", _repository)
    repository.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="each of its own system")
    repository.add_argument("out", type=Path, metavar="OUT")
    repository.add_argument("--target", default="cpu", help="cpu, onnxruntime or tensorrt (default: %(default)s)")
    repository.add_argument("--engine", help="of each bundle (default: onnx-fp32; tensorrt-fp16 for tensorrt)")
    repository.add_argument("--localizer", type=Path, metavar="BUNDLE", help="proposes boxes where none are sent")
    repository.add_argument("--localizer-engine", metavar="NAME", help="of it (default: that of the bundles)")
    repository.add_argument("--version", type=int, default=1, help="of every model in it (default: %(default)s)")
    repository.add_argument("--index", type=Path, action="append", default=[], metavar="DIR", help="to search there")
    repository.add_argument("--signed-by", type=Path, metavar="PEM", help="public key that must have signed them")
    sign = add_action(actions, "sign", "sign a bundle's manifest with an ed25519 key", _sign)
    sign.add_argument("bundle", type=Path, metavar="BUNDLE")
    sign.add_argument(
        "--key", type=Path, required=True, metavar="PEM", help="private; openssl genpkey -algorithm ed25519"
    )
    verify = add_action(actions, "verify", "compare every file of a bundle with its manifest", _verify)
    verify.add_argument("bundle", type=Path, metavar="BUNDLE")
    verify.add_argument("--signed-by", type=Path, metavar="PEM", help="public key whose signature is required")


def _bundle(options: argparse.Namespace) -> None:
    from chextriev.export.build_bundle import build_bundle

    bundle, reused = build_bundle(options.checkpoint, options.out, weights=options.weights)
    text = f"{options.out}: {bundle.card.system} on {_measured(bundle, reused)}"
    emit(options, text, _as_json(bundle, reused))


def _import(options: argparse.Namespace) -> None:
    from chextriev.export.import_bundle import import_bundle

    chosen = {"system": options.system, "backbone": options.backbone, "weights": options.weights}
    bundle, reused = import_bundle(options.checkpoint, options.out, **chosen)
    unused = bundle.card.training["unused"]
    text = f"{options.out}: {bundle.card.system} of {options.checkpoint} on {_measured(bundle, reused)}"
    emit(options, f"{text}; {len(unused)} of its names are unused", {**_as_json(bundle, reused), "unused": unused})


def _engines(options: argparse.Namespace) -> int:
    from chextriev.artifact_files import SIGNATURE
    from chextriev.export.engines import ProofSettings, prove_engines
    from chextriev.study_table import read_study_table

    settings = ProofSettings(device=options.device, force=options.force, remake=options.remake)
    signed = (options.bundle / SIGNATURE).exists()
    verdicts = prove_engines(options.bundle, read_study_table(options.data), options.engines, settings)
    emit(options, "\n".join(map(_in_words, verdicts)), [asdict(verdict) for verdict in verdicts])
    if signed:
        print("chextriev: note: the bundle has changed and lost its signature; sign it again", file=sys.stderr)
    return EXIT_REFUSED if any(verdict.status == "failed" for verdict in verdicts) else 0


def _in_words(verdict: "Verdict") -> str:
    told = _boxes_in_words if "mean_iou" in verdict.measured else _retrieval_in_words
    lines = [
        f"{verdict.engine}: {verdict.status} on {verdict.arithmetic}; {told(verdict.measured)}",
        *(f"  {remark}" for remark in verdict.remarks),
    ]
    if verdict.status != "proven":
        lines += [f"  {layer['layer']}: alone costs {layer['loss_of_cosine']:.5f}" for layer in verdict.worst_layers]
    return "\n".join(lines)


def _retrieval_in_words(measured: "Mapping[str, Any]") -> str:
    changes = ", ".join(f"{name} {_change(measured[name])}" for name in ("ap@5", "precision@5"))
    return (
        f"least cosine {measured['cosine']:.5f}, overlap {measured['overlap']:.4f}, rank correlation"
        f" {measured['rank_correlation']:.4f}, {changes}"
    )


def _boxes_in_words(measured: "Mapping[str, Any]") -> str:
    return (
        f"IoU with PyTorch's boxes {measured['iou_with_pytorch']:.4f}, of the worst region"
        f" {measured['least_region']:.4f}, of the worst box {measured['least_box']:.4f}, mean IoU"
        f" {_change(measured['mean_iou'])}"
    )


def _change(measured: "Mapping[str, Any]") -> str:
    low, high = measured["interval"]
    return f"{measured['change']:+.4f} ({low:+.4f} to {high:+.4f})"


def _repository(options: argparse.Namespace) -> None:
    from chextriev.bundle import open_bundle
    from chextriev.serving.repository import build_repository
    from chextriev.serving.repository_settings import RepositorySettings

    settings = RepositorySettings(
        target=options.target,
        engine=options.engine,
        version=options.version,
        indexes=tuple(options.index),
        localizer_engine=options.localizer_engine,
    )
    bundles = [open_bundle(path, signed_by=options.signed_by) for path in options.bundles]
    localizer = open_bundle(options.localizer, signed_by=options.signed_by) if options.localizer else None
    manifest, reused = build_repository(bundles, options.out, settings, localizer=localizer)
    models = manifest.facts["models"]
    said = ", unchanged, reused" if reused else ""
    text = f"{options.out}: {', '.join(models)}; engine {settings.chosen_engine}, target {settings.target}{said}"
    emit(options, text, {"models": models, "digest": manifest.digest, "reused": reused})


def _sign(options: argparse.Namespace) -> None:
    from chextriev.bundle import open_bundle
    from chextriev.signature import sign_artifact

    bundle = open_bundle(options.bundle)
    bundle.verify()
    sign_artifact(options.bundle, options.key)
    emit(options, f"{options.bundle}: signed", {"digest": bundle.digest, "manifest": bundle.manifest.digest})


def _verify(options: argparse.Namespace) -> None:
    from chextriev.bundle import open_bundle

    bundle = open_bundle(options.bundle, signed_by=options.signed_by)
    bundle.verify()
    signed = f", signed by {options.signed_by}" if options.signed_by else ""
    content = {"digest": bundle.digest, "files": len(bundle.manifest.files), "signed": options.signed_by is not None}
    emit(options, f"{options.bundle}: {len(bundle.manifest.files)} files are those of the manifest{signed}", content)


def _measured(bundle: "EncoderBundle", reused: bool) -> str:
    said = "unchanged, reused" if reused else f"digest {bundle.digest[:12]}"
    worst = max(bundle.card.parity.values())
    return f"{bundle.card.backbone}, ONNX within {worst:.1e} of PyTorch ({said})"


def _as_json(bundle: "EncoderBundle", reused: bool) -> dict[str, Any]:
    return {"digest": bundle.digest, "reused": reused, "card": asdict(bundle.card)}
