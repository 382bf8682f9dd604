"""Requests of an ensemble, and what comes back as embeddings."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding
from chextriev.encoder import Embeddings
from chextriev.errors import ChextrievError, RequestRefused, ServerFailed, UnknownModel
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import located
from chextriev.serving.client.sources import Source, as_file
from chextriev.serving.client.transport import Call, ModelDescription, Tensors
from chextriev.serving.wire import LOCATED_OUTPUTS, OUTPUTS, ensemble_tensors, takes_boxes

DIGEST = "encoder_digest"
_FIELDS = {name: "vectors" if name == "embedding" else name for name in OUTPUTS}


@dataclass(frozen=True, eq=False)
class Answer:
    """What became of one source of a stream: `embeddings` of one radiograph, or the error in its place.

    position: of the source in the stream, from 0. image_id: None where the source could not be read.
    """

    position: int
    image_id: str | None
    embeddings: Embeddings | None = None
    error: ChextrievError | None = None


def new_request() -> str:
    """A random id, which says nothing of whom it is about."""
    return secrets.token_hex(8)


def embed_call(model: ModelDescription, files: list[RadiographFile], request: str) -> Call:
    """The request for the embeddings of some files. Their ids stay here."""
    return Call(model, ensemble_tensors(model.name, files), request)


def digest_of_encoder(model: ModelDescription) -> str:
    """The bundle that a model belongs to; ServerFailed where its configuration does not say."""
    digest = model.parameters.get(DIGEST)
    if not digest:
        raise ServerFailed(
            f"model {model.name} does not say which encoder it is ({DIGEST} in its configuration); serve a repository"
            " that `chextriev export repository` wrote"
        )
    return digest


def check_encoder(model: ModelDescription) -> ModelDescription:
    """ServerFailed where a model is no encoder of radiographs."""
    names = {output.name for output in model.outputs}
    beside = set() if takes_boxes(model.name) else set(LOCATED_OUTPUTS)
    if not {"embedding", "finding_logits"} | beside <= names or not names <= set(OUTPUTS) | beside:
        raise ServerFailed(
            f"model {model.name} gives {', '.join(sorted(names))}; an encoder gives {', '.join([*OUTPUTS, *beside])}"
        )
    return model


def read_embeddings(model: ModelDescription, files: Sequence[RadiographFile], answer: Tensors) -> Embeddings:
    """The outputs of an ensemble; ServerFailed where they have other shapes than the model's configuration says."""
    for output in check_encoder(model).outputs:
        shape = (len(files), *output.shape[1:])
        found = answer[output.name]
        if found.shape != shape or found.dtype != output.dtype:
            raise ServerFailed(
                f"{model.name} answers {output.name} {list(found.shape)} {found.dtype}; its configuration says"
                f" {list(shape)} {output.dtype}"
            )
    arrays = {name: array for name, array in answer.items() if name in _FIELDS}
    return _embeddings(model, [file.image_id for file in files], arrays, located.of_boxes(model, files, answer))


def join(parts: Sequence[Embeddings], model: ModelDescription) -> Embeddings:
    """The parts as one, in order; no part at all gives zero rows of the right widths."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, npt.NDArray[Any]] = {}
    for output in model.outputs:
        arrays = [getattr(part, _FIELDS[output.name]) for part in parts]
        empty = np.empty((0, *map(int, output.shape[1:])), output.dtype)
        joined[output.name] = np.concatenate(arrays) if arrays else empty
    return _embeddings(model, [name for part in parts for name in part.image_ids], joined, located.joined(parts))


def rows(embeddings: Embeddings) -> list[Embeddings]:
    """One embedding for each radiograph."""
    arrays = {name: getattr(embeddings, name) for name in _FIELDS.values()}
    single = []
    for row, image_id in enumerate(embeddings.image_ids):
        own: dict[str, Any] = {name: array[row : row + 1] for name, array in arrays.items() if array is not None}
        own |= located.row_of(embeddings, row)
        single.append(Embeddings((image_id,), encoder_digest=embeddings.encoder_digest, **own))
    return single


def read_apart(numbered: Sequence[tuple[int, Source]]) -> tuple[list[tuple[int, RadiographFile]], list[Answer]]:
    """Numbered sources as files, and answers for those that could not be read."""
    files, unread = [], []
    for position, source in numbered:
        try:
            files.append((position, as_file(source)))
        except ChextrievError as error:
            unread.append(Answer(position, None, error=error))
    return files, unread


def answered(files: Sequence[tuple[int, RadiographFile]], embeddings: Embeddings) -> list[Answer]:
    """An answer for each file, of the embeddings of all."""
    return [Answer(position, file.image_id, one) for (position, file), one in zip(files, rows(embeddings), strict=True)]


def failed(files: Sequence[tuple[int, RadiographFile]], error: ChextrievError) -> list[Answer]:
    """An answer for each file of a request that failed."""
    return [Answer(position, file.image_id, error=error) for position, file in files]


def may_be_one_of_them(error: ChextrievError, count: int) -> bool:
    """Whether a request of so many radiographs may have been refused for one of them alone."""
    return count > 1 and isinstance(error, RequestRefused) and not isinstance(error, UnknownModel)


def in_order(answers: Sequence[Answer]) -> list[Answer]:
    """By position."""
    return sorted(answers, key=lambda answer: answer.position)


def findings_of(embeddings: Embeddings) -> dict[str, float]:
    """Probability by the name of the finding, of the first radiograph."""
    return dict(zip(Finding.labels(), embeddings.finding_probabilities[0].tolist(), strict=True))


def _embeddings(
    model: ModelDescription, image_ids: Sequence[str], arrays: Tensors, boxes: dict[str, Any]
) -> Embeddings:
    named: dict[str, Any] = {_FIELDS[name]: array for name, array in arrays.items()}
    return Embeddings(tuple(image_ids), encoder_digest=digest_of_encoder(model), **named, **boxes)
