"""The rule that makes the golden weights and inputs, so that the files need not hold them."""

import json
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

GOLDEN = Path(__file__).parent / "golden"
SYSTEMS = ("v0-global", "v1", "v3", "v6", "anaxnet", "ath")
OUTPUTS = ("embedding", "hash", "finding_logits", "region_logits")
ADJACENCY = {"v1": "adj_mat", "anaxnet": "model.anatomy_inp_tensor"}
"""Of the systems that have one, its name in a reference checkpoint."""


def golden(system: str) -> dict[str, npt.NDArray]:
    """The fields of one file."""
    with np.load(GOLDEN / f"{system}.npz") as content:
        return dict(content)


def reference_state(system: str) -> dict[str, torch.Tensor]:
    """The reference checkpoint's state dictionary."""
    fields = golden(system)
    shapes = [tuple(json.loads(str(shape))) for shape in fields["param_shapes"]]
    state = make_state(dict(zip(map(str, fields["param_names"]), shapes, strict=True)))
    if system in ADJACENCY:
        state[ADJACENCY[system]] = torch.from_numpy(fields["adjacency"])
    return state


def make_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Weights by the rule."""
    return {name: torch.from_numpy(weight(name, shape)) for name, shape in shapes.items()}


def write_reference(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """A reference checkpoint."""
    torch.save({"state_dict": state, "hyper_parameters": {}}, path)
    return path


def reference_input(system: str) -> torch.Tensor:
    """Backbone features; for ath normalised images."""
    fields = golden(system)
    rng = np.random.default_rng(int(fields["input_seed"]))
    x = rng.standard_normal(tuple(fields["input_shape"]), np.float32)
    return torch.from_numpy(x if system == "ath" else np.abs(x))


def weight(name: str, shape: tuple[int, ...]) -> npt.NDArray:
    """One tensor, from its name alone; a shared table has one name wherever it stands."""
    name = "model.pos_emb.weight" if name.endswith("pos_emb.weight") else name
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)
    if name.endswith("running_var"):
        scaled = 1 + 0.1 * np.abs(noise)
    elif name.endswith(".weight") and len(shape) == 1:
        scaled = 1 + 0.05 * noise
    elif name == "edges" or name.endswith(("pos_emb.weight", "adj_emb.weight")):
        scaled = 0.5 * noise
    elif len(shape) >= 2:
        scaled = noise / np.sqrt(np.prod(shape[1:]))
    else:
        scaled = 0.05 * noise
    return scaled.astype(np.float32)
