"""Progress bars for long work, on standard error, silent when nobody watches."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def track(items: Iterable[Item], label: str, *, total: int | None = None, unit: str = "image") -> Iterator[Item]:
    """Yield the items and show how many are done, the rate and the time left."""
    return iter(tqdm(items, desc=label, total=total, unit=unit, dynamic_ncols=True, smoothing=0.1, disable=None))


def track_batches(
    batches: Iterable[Item], label: str, *, size: Callable[[Item], int], total: int | None = None, unit: str = "image"
) -> Iterator[Item]:
    """Yield batches and show progress in their members; `size` says how many one batch holds."""
    with tqdm(desc=label, total=total, unit=unit, dynamic_ncols=True, smoothing=0.1, disable=None) as bar:
        for batch in batches:
            yield batch
            bar.update(size(batch))
