"""Made-up vectors and indexes of them, and what stands in for a GPU where there is none."""

from functools import cache

import faiss
import numpy as np

from chextriev.index.gpu import GpuVectorIndex, gpu_forms
from chextriev.index.gpu_devices import in_parts
from chextriev.index.spec import IndexSpec
from chextriev.index.vector_index import train_index

WIDTH, N = 32, 6_000
RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((100, WIDTH)).astype(np.float32)
VECTORS = CENTRES[RNG.integers(0, 100, N)] + np.float32(0.6) * RNG.standard_normal((N, WIDTH)).astype(np.float32)
QUERIES = VECTORS[::100] + np.float32(0.3) * RNG.standard_normal((60, WIDTH)).astype(np.float32)
RANK = RNG.permutation(N)
WHOLE = ["Flat", "IVF32,PQ8x4fs,Refine(SQfp16)", "IVF32,PQ8x4fs,RFlat", "HNSW16,RFlat"]
LISTS = ["IVF32,Flat", "IVF32,SQ8", "IVF32,PQ8x8np"]
REFINED_LISTS = ["IVF32,PQ8x8np,Refine(SQfp16)", "OPQ8_32,IVF32,PQ8x8np,RFlat"]
ON_THE_CPU = ["HNSW16", "SQ8", "PQ8x8np", "IVF32,PQ8x4fs", "IVF32_HNSW8,Flat"]


class Beside:
    """Copies that stay on the CPU: Faiss's types there keep the promises that `Copier` needs of the GPU's."""

    def __init__(self):
        self.made = []

    def copy(self, index, *, shard=True):
        in_three = shard and isinstance(index, faiss.IndexScalarQuantizer)
        self.made.append(in_parts(index, [faiss.clone_index] * 3) if in_three else faiss.clone_index(index))
        return self.made[-1]


class Full(Beside):
    """A GPU that is too small for the vectors, or for anything."""

    def __init__(self, refuses):
        super().__init__()
        self.refuses = refuses

    def copy(self, index, *, shard=True):
        if isinstance(index, self.refuses):
            raise RuntimeError("Error in alloc at Resources.cpp:1: Error: 'err == ok' failed: out of memory")
        return super().copy(index, shard=shard)


@cache
def build(factory):
    return train_index(VECTORS, IndexSpec(factory, nprobe=4))


def beside(index, form=0):
    return GpuVectorIndex.place(index, gpu_forms(index.faiss_index)[form], Beside(), "on the CPU")


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[1], wanted[1])
    np.testing.assert_array_equal(found[0], wanted[0])
