"""What validation measures: the findings' AUROC, and retrieval with the embedding that will be deployed."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc

from chextriev.eval.metrics import METRICS, class_means, macro_mean, score_queries


def mean_auroc(logits: Tensor, findings: npt.NDArray[np.int8]) -> float:
    """Area under the ROC curve, averaged over the findings that have known positives and negatives; .5 if none has, NaN
    where a logit is not finite: sorting would give such logits a rank.

    logits [N, 9] float32, findings [N, 9] int8 (unknown left out).
    """
    if not bool(logits.isfinite().all()):
        return float("nan")
    scores = []
    for column, truth in zip(logits.T, torch.from_numpy(findings).T, strict=True):
        known = truth >= 0
        if 0 < int(truth[known].sum()) < int(known.sum()):
            scores.append(float(binary_auroc(column[known], truth[known].int())))
    return float(np.mean(scores)) if scores else 0.5


def retrieval_precision(
    vectors: Tensor, findings: npt.NDArray[np.int8], patients: npt.NDArray[np.object_], *, k: int, block: int = 1024
) -> float:
    """precision@k, macro over findings, of a split searched with itself by cosine; the same patient is excluded.

    vectors [N, D] float32, findings [N, 9] int8, patients [N]. NaN if no finding has a positive, or where a
    vector is not finite. `block` queries are searched at a time, so that memory is linear in N.
    """
    if not bool(vectors.isfinite().all()):
        return float("nan")
    _, groups = np.unique(patients.astype(str), return_inverse=True)
    group = torch.from_numpy(groups)
    unit = functional.normalize(vectors, dim=1)
    found = []
    for own, queries in zip(torch.split(group, block), torch.split(unit, block), strict=True):
        scores = (queries @ unit.T).masked_fill_(own[:, None] == group, -torch.inf)  # [block, N] float32
        best, rows = scores.topk(min(k, len(group)), dim=1)
        found.append(rows.masked_fill(best == -torch.inf, -1))
    neighbours = torch.cat(found).numpy()
    if neighbours.shape[1] < k:
        neighbours = np.pad(neighbours, ((0, 0), (0, k - neighbours.shape[1])), constant_values=-1)
    count = len(neighbours)
    scored = score_queries(
        neighbours, findings, queries=np.arange(count), relevant=np.zeros(findings.shape, np.int64), ks=[k]
    )
    _, macro = macro_mean(class_means(scored)[1])
    return float(macro[list(METRICS).index("precision"), 0])
