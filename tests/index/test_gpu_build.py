"""An index that is built with a GPU's help is the one that is built without."""

import faiss
import numpy as np
import pytest

from chextriev.index.exact import unit_rows
from chextriev.index.gpu_build import finding_lists, train_lists
from tests.index.on_gpu import (
    VECTORS,
    WIDTH,
    Beside,
    N,
    build,
)


@pytest.mark.parametrize(
    "factory", ["IVF32,PQ8x4fs,Refine(SQfp16)", "IVF32,Flat", "IVF32,SQ8", "PCA16,IVF32,PQ8x4fs,RFlat"]
)
def test_an_index_built_with_help_is_the_one_built_without(factory):
    unit = unit_rows(VECTORS, "vector")
    built = []
    for gpus in (Beside(), None):
        index = faiss.index_factory(WIDTH, factory, faiss.METRIC_INNER_PRODUCT)
        train_lists(index, unit[::2], gpus)
        with finding_lists(index, gpus):
            index.add(unit)
        built.append(bytes(faiss.serialize_index(index)))
    assert built[0] == built[1]


def test_help_is_really_taken():
    gpus = Beside()
    index = faiss.index_factory(WIDTH, "IVF32,PQ8x4fs", faiss.METRIC_INNER_PRODUCT)
    train_lists(index, unit_rows(VECTORS, "vector"), gpus)
    assert gpus.made[0].ntotal == 32  # the centres of the last round
    with finding_lists(index, gpus):
        assert int(index.quantizer.this) == int(gpus.made[1].this)
    residuals = build("IVF32,SQ8").faiss_index
    with finding_lists(residuals, gpus):
        assert len(gpus.made) == 2


def test_help_is_gone_after_an_error():
    index = faiss.index_factory(WIDTH, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    train_lists(index, unit_rows(VECTORS, "vector"), None)
    centres = index.quantizer.reconstruct_n(0, 32)
    with pytest.raises(RuntimeError, match="stop"), finding_lists(index, Beside()):
        raise RuntimeError("stop")
    assert not index.clustering_index
    np.testing.assert_array_equal(index.quantizer.reconstruct_n(0, 32), centres)
    flat = faiss.IndexFlatIP(WIDTH)
    with finding_lists(flat, Beside()):
        flat.add(VECTORS)
    assert flat.ntotal == N
