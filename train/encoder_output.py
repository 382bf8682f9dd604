"""What every encoder gives."""

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """What an encoder says about B radiographs; None where a system has no such output.

    embedding [B, D]: what is searched. finding_logits [B, 9]. region_logits [B, 18, 9]. region_vectors [B, 18, D] (19
    where the whole image is one of them): the embedding is their mean. hash_bits [B, D] uint8 of 0 and 1: the signs of
    the embedding, where that is a hash.
    """

    embedding: Tensor
    finding_logits: Tensor
    region_logits: Tensor | None = None
    region_vectors: Tensor | None = None
    hash_bits: Tensor | None = None

    @property
    def hash(self) -> Tensor | None:
        """The real-valued hash code [B, bits], of systems that hash: their embedding."""
        return None if self.hash_bits is None else self.embedding
