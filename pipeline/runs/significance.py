"""Tests of the difference between two methods: over seeds, over faces, and Holm's correction for several methods."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ROUNDING = 1e-6  # the share of the same faces differs by less where one run stored 32 bits, the other 64


def over_seeds(differences: Sequence[float]) -> float | None:
    """p of the paired two-sided t-test that the mean difference is 0.

    None for fewer than two seeds, and for differences that are equal up to rounding: they leave no spread.
    """
    if len(differences) < 2 or np.ptp(differences) < ROUNDING:
        return None
    return float(stats.ttest_1samp(differences, 0).pvalue)


def interval(differences: Sequence[float], certain: float = 0.95) -> tuple[float, float] | None:
    """Bounds between which the mean difference lies: Student's confidence interval over seeds; None as `over_seeds`."""
    if over_seeds(differences) is None:
        return None
    found = stats.ttest_1samp(differences, 0).confidence_interval(certain)
    return float(found.low), float(found.high)


def over_faces(differences: NDArray[np.int64]) -> float:
    """p of the paired two-sided randomisation test over faces, mid-p.

    differences (faces,): seeds in which one method names a face rightly, less those in which the other does. If the
    methods were alike, each difference could as well have the other sign. The distribution of the sum over all
    signs is exact. A face counts once, however many seeds saw it, so that seeds that agree on it prove nothing more.

    With one seed this is McNemar's test, mid-p: Fagerland, Lydersen & Laake, BMC Med. Res. Methodol. 13:91 (2013).
    With several it is the exact form of Durkalski et al., Statistics in Medicine 22:2417 (2003), a face a cluster.
    """
    if not differences.any():
        return 1.0
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of the sums from -reach to reach
    for size, count in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
    sums = np.abs(np.arange(len(chances)) - len(chances) // 2)
    found = abs(int(differences.sum()))
    return min(1.0, float(chances[sums > found].sum() + 0.5 * chances[sums == found].sum()))


def holm(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """p values corrected for their number: Holm, Scandinavian Journal of Statistics 6:65 (1979). None stays None."""
    tested = sorted((value, name) for name, value in values.items() if value is not None)
    result: dict[str, float | None] = dict.fromkeys(values)
    largest = 0.0
    for place, (value, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - place) * value))
        result[name] = largest
    return result


def mean(values: Sequence[float]) -> float | None:
    """Mean; None for no value."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
