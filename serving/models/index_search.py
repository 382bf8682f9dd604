"""Model `index_<system>`: embeddings to similar cases, by an index that lies in the repository."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from chextriev.errors import InvalidSetting
from chextriev.index.search import open_index
from chextriev.serving.models.answers import Tensors, answer_each, check_numpy, read_tensor
from chextriev.serving.wire import HITS, IMAGE_IDS, MAX_HITS, PATIENT_IDS, VECTORS, K


class IndexSearch:
    """An index behind Triton.

    vectors [B, D] float32, k [B, 1] int32, image_ids and patient_ids [B, 1] bytes (of the queries, which are left out
    of the hits; empty where unknown) -> hits [B, 1] bytes: a JSON list, best first, of objects with image_id, study_id,
    patient_id, score, findings, view, sex, age and row.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's call before the first request."""
        check_numpy()
        self._index = open_index(Path(args["model_repository"]) / args["model_version"] / "index")
        parameters = json.loads(args["model_config"])["parameters"]
        self._index.check_encoder(parameters["encoder_digest"]["string_value"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's call for the requests of one batch."""
        return answer_each(requests, self._search)

    def _search(self, request: Any) -> Tensors:
        wanted = read_tensor(request, K)[:, 0]
        if not len(wanted) or wanted.min() < 1 or wanted.max() > MAX_HITS:
            raise InvalidSetting(f"k is {wanted.tolist()}; ask for 1 to {MAX_HITS:,} hits")
        found = self._index.search(
            read_tensor(request, VECTORS),
            int(wanted.max()),
            image_ids=_ids(read_tensor(request, IMAGE_IDS)),
            patient_ids=_ids(read_tensor(request, PATIENT_IDS)),
        )
        hits = np.empty((len(found), 1), np.object_)
        for row, (line, k) in enumerate(zip(found, wanted.tolist(), strict=True)):
            hits[row, 0] = json.dumps([asdict(hit) for hit in line[:k]]).encode()
        return {HITS: hits}


def _ids(tensor: Any) -> list[str | None]:
    return [bytes(name).decode("utf-8", "replace") or None for name in tensor[:, 0]]
