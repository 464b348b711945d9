"""Train, val and test for data that come without a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from training.cases import Split
from training.errors import DataError

SPLITS: tuple[Split, Split, Split] = ("train", "val", "test")
SHARES = (0.7, 0.15, 0.15)


def split_by_group(
    groups: Iterable[str], seed: int, shares: tuple[float, float, float] = SHARES
) -> dict[str, Split]:
    """The split of every group; `groups` names one per case, so that large groups weigh more.

    Groups come in an order drawn from `seed`, and each goes where most cases are still wanted. The
    result depends on the groups and the seed alone, not on the order of the cases. No group is
    divided, and no split stays empty. Raises DataError for fewer than three groups, or shares that
    are not positive or do not add up to 1.
    """
    sizes = Counter(groups)
    if min(shares) <= 0.0 or abs(sum(shares) - 1.0) > 1e-6:
        raise DataError(f"shares {shares} must be positive and add up to 1")
    if len(sizes) < len(SPLITS):
        raise DataError(
            f"{len(sizes)} groups cannot fill {', '.join(SPLITS)}: add data of more patients, or give the "
            "manifest a column split"
        )
    wanted = {split: share * sizes.total() for split, share in zip(SPLITS, shares, strict=True)}
    chosen: dict[str, Split] = {}
    names = sorted(sizes)
    for index in np.random.default_rng(seed).permutation(len(names)):
        name = names[index]
        empty = [split for split in SPLITS if split not in chosen.values()]
        open_splits = empty if len(names) - len(chosen) <= len(empty) else SPLITS
        chosen[name] = max(open_splits, key=lambda split: wanted[split])
        wanted[chosen[name]] -= sizes[name]
    return chosen
