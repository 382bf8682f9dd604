"""Tensors of a published state dictionary, checked one by one and then copied into ours."""

from collections.abc import Mapping

import torch
from torch import Tensor

from chextriev.errors import MismatchedWeights
from chextriev.export.reference_names import ANAXNET_ADJACENCY, COUNTER, POSITIONS, VARIANT_ADJACENCY

State = Mapping[str, Tensor]
Wanted = Mapping[str, list[Tensor]]
"""Published names and the tensors of ours that each of them fills, joined along the first dimension."""

_ADJACENCIES = (VARIANT_ADJACENCY, ANAXNET_ADJACENCY)


def check(state: State, wanted: Wanted, *, extra: list[str], where: str) -> None:
    """MismatchedWeights with all that is wrong: names missing or extra, tensors misshaped or of senseless values.

    An adjacency and the counters of training steps may be missing. extra: the names of the state that have no meaning.
    """
    optional = (*_ADJACENCIES, *(name for name in wanted if name.endswith(COUNTER)))
    faults = {"missing": [name for name in wanted if name not in state and name not in optional], "extra": extra}
    for name, parts in wanted.items():
        fault = _fault(name, state[name], parts) if name in state else None
        if fault is not None:
            kind, said = fault
            faults.setdefault(kind, []).append(said)
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in faults.items() if names)
        raise MismatchedWeights(f"{where}; give the system that it was trained as, or another file; {listed}")


def fill(wanted: Wanted, state: State) -> None:
    """Copy what was checked. Keys and values are one tensor there and two here; positions are cut to the regions."""
    with torch.no_grad():
        for name in wanted.keys() & state.keys():
            parts, given = wanted[name], state[name]
            if name == POSITIONS:
                given = given[: len(parts[0])]
            pieces = [given] if len(parts) == 1 else torch.split(given, [len(part) for part in parts])
            for part, piece in zip(parts, pieces, strict=True):
                part.copy_(piece)


def _fault(name: str, given: Tensor, parts: list[Tensor]) -> tuple[str, str] | None:
    """The kind of the first fault of a tensor, and what to say of it."""
    if not _fits(name, given, parts):
        return "misshaped", f"{name} {list(given.shape)} instead of [{', '.join(map(str, _shape(name, parts)))}]"
    floating = given.is_floating_point() == parts[0].is_floating_point()
    if given.is_complex() or not (floating or name in _ADJACENCIES):
        return "of another type", f"{name} {given.dtype} instead of {parts[0].dtype}"
    if not bool(given.float().isfinite().all()):  # as float32, which a double may exceed
        return "not finite", name
    if name == VARIANT_ADJACENCY and not bool(((given == 0) | (given == 1)).all()):
        return "other than 0 and 1", name
    return None


def _fits(name: str, given: Tensor, parts: list[Tensor]) -> bool:
    if name == POSITIONS and given.ndim == 2:
        return len(given) >= len(parts[0]) and given.shape[1] == parts[0].shape[1]
    return list(given.shape) == _shape(name, parts)


def _shape(name: str, parts: list[Tensor]) -> list[int | str]:
    if parts[0].ndim == 0:
        return []
    rows = sum(len(part) for part in parts)
    return [f"{rows} or more" if name == POSITIONS else rows, *parts[0].shape[1:]]
