"""Checkpoints of our own training: read without running code, refused in words."""

from dataclasses import dataclass
from pathlib import Path

from chextriev.errors import ChextrievError, UnreadableCheckpoint
from chextriev.train.region_encoder import RegionEncoder
from chextriev.train.torch_files import load_plain
from chextriev.variants import VariantSpec

_PREFIX = "encoder."


PROVENANCE = ("backbone", "backbone_digest", "crops_digest", "features_digest", "table_digest")


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder with its weights, and the digests of what it was trained on."""

    encoder: RegionEncoder
    feature_width: int
    provenance: dict[str, str]


def load_checkpoint(path: str | Path) -> TrainedEncoder:
    """Read a checkpoint written by `chextriev train fit`.

    Only tensors and plain values are accepted (`weights_only=True`); a truncated file, a pickle with code or other
    names raise UnreadableCheckpoint.
    """
    content = load_plain(Path(path))
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary")
    try:
        settings = content["hyper_parameters"]
        spec = VariantSpec.from_dict(settings["variant"])
        encoder = RegionEncoder(spec, settings["feature_width"])
        weights = {name.removeprefix(_PREFIX): tensor for name, tensor in content["state_dict"].items()}
        encoder.load_state_dict(weights)
        provenance = {key: str(settings["provenance"][key]) for key in PROVENANCE}
    except (KeyError, TypeError, RuntimeError, ChextrievError) as error:
        raise UnreadableCheckpoint(f"{path} is not a checkpoint of `chextriev train fit`: {error}") from error
    return TrainedEncoder(encoder.eval(), settings["feature_width"], provenance)
