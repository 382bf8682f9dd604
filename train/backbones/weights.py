"""Weights of a backbone: where they come from, what a file must hold, and their identity."""

import hashlib
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from chextriev.artifacts import file_digest
from chextriev.errors import InvalidSetting, MismatchedWeights, UnreadableCheckpoint, WeightsUnavailable
from chextriev.train.backbones.trunk import Trunk
from chextriev.train.torch_files import load_plain

RANDOM = "random:"
_COUNTER = "num_batches_tracked"  # counts training steps; features do not depend on it, and old files lack it
_SHOWN = 5

StateDict = Mapping[str, torch.Tensor]


def read_state(path: Path) -> StateDict:
    """The tensors of a PyTorch weights file, read without running any code that it may hold.

    Raises WeightsUnavailable where there is no file, UnreadableCheckpoint for a truncated file or one of other content.
    """
    if not path.is_file():
        raise WeightsUnavailable(f"{path}: no such file; give the path of a PyTorch weights file (.pth)")
    state = load_plain(path)
    if not isinstance(state, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UnreadableCheckpoint(f"{path}: not a state dict; a mapping of names to tensors is needed")
    return state


def fill(trunk: Trunk, state: StateDict, *, where: str) -> None:
    """Copy published weights into a network; MismatchedWeights lists every name that is missing, extra or misshaped."""
    wanted = trunk.state_dict()
    given = {own: tensor for name, tensor in state.items() if (own := trunk.own_name(name)) is not None}
    missing = [name for name in wanted if name not in given and not name.endswith(_COUNTER)]
    extra = [name for name in given if name not in wanted]
    misshaped = [
        f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = {"missing": missing, "extra": extra, "misshaped": misshaped}
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in faults.items() if names)
        raise MismatchedWeights(f"{where} does not fit {type(trunk).__name__}; {listed}")
    trunk.load_state_dict(given, strict=False)


def random_state(trunk: Trunk, seed: int) -> StateDict:
    """Weights that depend on nothing but the names and the seed; activations keep their scale through the layers."""
    return {name: _random_tensor(name, tensor, seed) for name, tensor in trunk.state_dict().items()}


def random_seed(source: str) -> int:
    """The seed of "random:SEED"."""
    seed = source.removeprefix(RANDOM)
    if not seed.isdecimal():
        raise InvalidSetting(f"weights {source!r}; after {RANDOM!r} a whole number from 0 is needed")
    return int(seed)


def weights_digest(module: nn.Module) -> str:
    """sha256 (hex) over names, shapes, dtypes and bytes of all weights, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith(_COUNTER):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def fetch(url: str, backbone: str) -> Path:
    """The file of `url` in PyTorch's cache of downloads, downloaded if it is not there, and checked against its name.

    The names of PyTorch's files end in the first eight hex digits of their sha256.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rpartition("/")[2]
    match = re.search(r"-([0-9a-f]{8,})\.pth$", path.name)
    prefix = match.group(1) if match else ""
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise WeightsUnavailable(
                f"weights of {backbone} could not be downloaded from {url} ({error});"
                f" give --weights FILE with a copy of {path.name}, or put it at {path}"
            ) from None
    if not file_digest(path).startswith(prefix):
        raise UnreadableCheckpoint(
            f"{path}: its sha256 does not begin with {prefix}; delete it, and it is fetched again"
        )
    return path


def _random_tensor(name: str, like: torch.Tensor, seed: int) -> torch.Tensor:
    if like.ndim < 2:
        constant = torch.ones if name.endswith(("weight", "running_var")) else torch.zeros
        return constant(like.shape, dtype=like.dtype)
    shape = tuple(like.shape)
    normal = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
    return torch.from_numpy(normal / np.float32(np.sqrt(np.prod(shape[1:]))))


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
