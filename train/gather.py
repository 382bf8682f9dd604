"""Rows that several processes hold, put together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed


def gather_rows(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of all training processes, each row of the study table once and in its order.

    Every column has one entry a row on the CPU; the column `row` says which. Every process gets all of it.
    """
    parts: list[Any] = [columns]
    if distributed.is_available() and distributed.is_initialized():
        parts = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, dict(columns))
    joined = {name: torch.cat([part[name] for part in parts]) for name in columns}
    _, first = np.unique(joined["row"].numpy(), return_index=True)
    order = torch.from_numpy(first)
    return {name: column[order] for name, column in joined.items()}
