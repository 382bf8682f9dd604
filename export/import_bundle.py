"""A checkpoint of the published code becomes an encoder bundle."""

from pathlib import Path

from chextriev.artifacts import Recipe, check_output, file_digest, find_current
from chextriev.bundle import KIND, EncoderBundle, open_bundle
from chextriev.errors import InvalidSetting, MismatchedWeights, OtherBackbone, UnknownBackbone
from chextriev.export.build_bundle import METHOD, publish_bundle
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.export.reference import ImportedEncoder, import_checkpoint
from chextriev.systems import trains_backbone
from chextriev.train.backbones import BACKBONES, Backbone, load_backbone


def import_bundle(
    checkpoint: str | Path,
    out: str | Path,
    *,
    system: str,
    backbone: str | None = None,
    weights: str | Path | None = None,
) -> tuple[EncoderBundle, bool]:
    """Import a published checkpoint as a bundle; and say whether it was there already.

    The backbone is that of the checkpoint. Where it holds a head alone, it is `backbone` (default: the first one of the
    head's width) with `weights`, as for `chextriev data features`; that the head was trained on its features nobody can
    check. The card's `training` has `imported`, the file's sha256, and `unused`, its names that no answer depends on.

    Raises what `import_checkpoint` and `load_backbone` do; OtherBackbone for one of another width; InvalidSetting where
    the checkpoint brings its own; EngineDiffers; nothing is written then.
    """
    check_output(Path(out), KIND)
    imported = import_checkpoint(checkpoint, system)
    chosen = _backbone(imported, backbone, weights, where=str(checkpoint))
    digest = file_digest(Path(checkpoint))
    settings = {"format": "onnx-fp32", "method": METHOD, "imported as": system}
    recipe = Recipe(settings, {"checkpoint": digest, "backbone": chosen.digest})
    if find_current(Path(out), KIND, recipe) is not None:
        return open_bundle(out), True
    provenance = {"backbone": chosen.spec.name, "backbone_digest": chosen.digest}
    trained = TrainedEncoder(imported.encoder, imported.feature_width, provenance, imported.backbone)
    publish_bundle(Path(out), recipe, trained, chosen, training={"imported": digest, "unused": imported.unused})
    return open_bundle(out), False


def _backbone(imported: ImportedEncoder, name: str | None, weights: str | Path | None, *, where: str) -> Backbone:
    if imported.backbone is not None:
        if name is not None or weights is not None:
            raise InvalidSetting(f"{where} has a backbone of its own; leave out --backbone and --weights")
        return imported.backbone
    if trains_backbone(imported.spec):
        raise MismatchedWeights(
            f"{where} holds no backbone, and that of {imported.spec.name} was trained with the head; give the whole"
            " checkpoint"
        )
    fitting = [spec.name for spec in BACKBONES.values() if spec.width == imported.feature_width]
    if name is not None and name not in BACKBONES:
        raise UnknownBackbone(name, BACKBONES)
    if name is not None and name not in fitting:
        raise OtherBackbone(
            f"the head in {where} takes {imported.feature_width} features a crop, {name} gives"
            f" {BACKBONES[name].width}; choose --backbone from {', '.join(fitting)}"
        )
    return load_backbone(name or fitting[0], weights=weights)
