"""Retrieval in validation: blocks of queries give what a loop over queries gives."""

import numpy as np
import pytest
import torch

from chextriev.anatomy import N_FINDINGS
from chextriev.train.validation import retrieval_precision

N, K = 23, 5


@pytest.fixture
def split() -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Vectors [23, 4], findings [23, 9] with some unknown, and patients of one to four radiographs."""
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(rng.standard_normal((N, 4)).astype(np.float32))
    findings = rng.integers(-1, 2, (N, N_FINDINGS)).astype(np.int8)
    findings[:, 3] = 0  # a finding without queries
    patients = np.array([f"p{number}" for number in rng.integers(0, 12, N)], object)
    return vectors, findings, patients


def looped(vectors: torch.Tensor, findings: np.ndarray, patients: np.ndarray) -> float:
    """precision@5 of each query, then the mean of each finding, then the mean of these."""
    unit = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    lists = []
    for query in range(len(unit)):
        others = np.flatnonzero(patients != patients[query])
        lists.append(others[np.argsort(-(unit[others] @ unit[query]))][:K])
    means = [
        np.mean([(findings[lists[query], finding] == 1).sum() / K for query in np.flatnonzero(column == 1)])
        for finding, column in enumerate(findings.T)
        if (column == 1).any()
    ]
    return float(np.mean(means))


@pytest.mark.parametrize("block", [1, 5, N - 1, N, N + 1, 1024])
def test_blocks_do_not_change_the_precision(split: tuple[torch.Tensor, np.ndarray, np.ndarray], block: int) -> None:
    assert retrieval_precision(*split, k=K, block=block) == pytest.approx(looped(*split), abs=1e-12)


def test_the_same_patient_is_excluded(split: tuple[torch.Tensor, np.ndarray, np.ndarray]) -> None:
    """Also across blocks: here every patient has a twin of each radiograph in the other half."""
    vectors, findings, patients = split
    twice = (vectors.repeat(2, 1), np.concatenate([findings] * 2), np.concatenate([patients] * 2))
    everyone = (*twice[:2], np.array([str(row) for row in range(2 * N)], object))
    assert retrieval_precision(*twice, k=K, block=N) == pytest.approx(looped(*twice), abs=1e-12)
    assert retrieval_precision(*everyone, k=K, block=N) > retrieval_precision(*twice, k=K, block=N) + 0.05


def test_fewer_than_k_others_leave_places_empty() -> None:
    findings = np.ones((3, N_FINDINGS), np.int8)
    patients = np.array(["a", "b", "b"], object)
    found = retrieval_precision(torch.eye(3), findings, patients, k=K, block=2)
    assert found == pytest.approx((2 + 1 + 1) / 3 / K)
