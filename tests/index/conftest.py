"""Embeddings of made-up patients, exact and approximate indexes of them."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from chextriev.anatomy import N_FINDINGS
from chextriev.artifacts import Recipe, publishing, seal
from chextriev.embedding_set import KIND, EmbeddingSet, read_embeddings, write_embedding_files
from chextriev.index.bench import Mixture, clustered_vectors
from chextriev.index.build import build_index
from chextriev.index.search import open_index
from tests.index.storing import publish

ENCODER = "e" * 64
WIDTH = 64


def embedding_set(vectors, per_patient=3, seed=0):
    """A set of these vectors; each patient has `per_patient` consecutive images."""
    rng, n = np.random.default_rng(seed), len(vectors)
    return EmbeddingSet(
        vectors=vectors,
        image_id=np.array([f"i{row:05d}" for row in range(n)], object),
        study_id=np.array([f"s{row // 2}" for row in range(n)], object),
        patient_id=np.array([f"p{row // per_patient}" for row in range(n)], object),
        findings=rng.integers(-1, 2, (n, N_FINDINGS)).astype(np.int8),
        metadata={
            "view": np.array(["AP", "PA"], object)[rng.integers(0, 2, n)],
            "sex": np.array(["F", "M", None], object)[rng.integers(0, 3, n)],
            "age": rng.integers(-1, 90, n).astype(np.int16),
            "split": np.array(["train"] * n, object),
        },
        encoder_digest=ENCODER,
    )


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Faiss's waiting threads spin, which on a busy machine makes small work ten times slower."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="session")
def small_dir(tmp_path_factory):
    """300 images of 100 patients, as `chextriev embed` leaves them."""
    vectors = np.random.default_rng(0).standard_normal((300, WIDTH)).astype(np.float32)
    out, embeddings = tmp_path_factory.mktemp("small") / "embeddings", embedding_set(vectors)
    with publishing(out, KIND) as scratch:
        write_embedding_files(embeddings, scratch)
        seal(scratch, KIND, Recipe({}, {"encoder": embeddings.encoder_digest}))
    return out


@pytest.fixture(scope="session")
def small(small_dir):
    return read_embeddings(small_dir)


@pytest.fixture(scope="session")
def exact_dir(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("exact") / "index"
    build_index(small, out)
    return out


@pytest.fixture(scope="session")
def exact_index(exact_dir):
    return open_index(exact_dir)


@pytest.fixture(scope="session")
def large():
    """20,400 clustered images: enough for the approximate path."""
    return embedding_set(clustered_vectors(Mixture(n=20_000, width=WIDTH, queries=400, centres=500)))


@pytest.fixture(scope="session")
def approximate_dir(large, tmp_path_factory):
    out = tmp_path_factory.mktemp("approximate") / "index"
    build_index(large, out)
    return out


@pytest.fixture(scope="session")
def approximate_index(approximate_dir):
    return open_index(approximate_dir)


@pytest.fixture
def other_vectors(small):
    """The same images, other vectors."""
    return replace(small, vectors=small.vectors[::-1].copy(), digest="")


@pytest.fixture
def three(tmp_path):
    """The directory of an index of three generations, which hold a word each."""
    publish(tmp_path / "index", "one", "two", "three")
    return tmp_path / "index"
