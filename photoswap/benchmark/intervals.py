"""How sure a mean over tasks is: percentile bootstrap intervals (Efron 1979), of scores and of paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS, COVERAGE = 10_000, 0.95
FEWEST = 6  # tasks: of five, all have the same sign by chance in one case of sixteen, more often than one in twenty


class Interval(NamedTuple):
    """A mean, and between what bounds 95 % of the means of resampled tasks lie; tasks: how many."""

    mean: float
    low: float
    high: float
    tasks: int

    @property
    def is_told(self) -> bool:
        """Of a difference: whether its sign is told, zero lying outside, and over enough tasks to tell anything."""
        return self.tasks >= FEWEST and (self.low > 0 or self.high < 0)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The mean of values, one for each task, with its interval; tasks are drawn anew, with replacement.

    The same seed resamples the same tasks. Raises ValueError where there are no values, or one is not finite.
    """
    found = np.asarray(values, dtype=np.float64)
    if not len(found) or not np.isfinite(found).all():
        raise ValueError(f"{len(found)} values, all finite: {bool(np.isfinite(found).all())}; want one or more, finite")
    drawn = np.random.default_rng(seed).integers(len(found), size=(DRAWS, len(found)))
    low, high = np.quantile(found[drawn].mean(axis=1), ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
    return Interval(float(found.mean()), float(low), float(high), len(found))


def paired(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Interval:
    """The mean of first - second over the same tasks. Raises ValueError where there are not as many of both."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values; want those of the same tasks")
    return bootstrap(np.subtract(first, second).tolist(), seed)
