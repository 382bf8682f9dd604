"""Checkpoints of our own training: read without running code, refused in words."""

import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chextriev.errors import ChextrievError, UnreadableCheckpoint
from chextriev.train.region_encoder import RegionEncoder
from chextriev.variants import VariantSpec

_PREFIX = "encoder."


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
    content = read_tensors(path)
    try:
        settings = content["hyper_parameters"]
        spec = VariantSpec.from_dict(settings["variant"])
        encoder = RegionEncoder(spec, settings["feature_width"])
        weights = {name.removeprefix(_PREFIX): tensor for name, tensor in content["state_dict"].items()}
        encoder.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError, ChextrievError) as error:
        raise UnreadableCheckpoint(f"{path} is not a checkpoint of `chextriev train fit`: {error}") from error
    return TrainedEncoder(encoder.eval(), settings["feature_width"], dict(settings["provenance"]))


def read_tensors(path: str | Path) -> dict[str, Any]:
    """The content of a torch file that holds tensors and plain values only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on pickles that are then refused
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnreadableCheckpoint(
            f"{path} is truncated or holds more than tensors and plain values: refused"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise UnreadableCheckpoint(f"{path} cannot be read as a checkpoint ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UnreadableCheckpoint(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary")
    return content
