"""Tests of differences against other derivations of the same numbers."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pipeline.runs.significance import deviation, holm, interval, mean, over_faces, over_seeds


def pairs(better: int, worse: int, alike: int = 50) -> np.ndarray:
    return np.array([1] * better + [-1] * worse + [0] * alike)


def test_over_seeds_is_the_paired_t_test() -> None:
    own, others = [0.56, 0.54, 0.57], [0.50, 0.52, 0.49]
    expected = stats.ttest_rel(own, others).pvalue
    assert over_seeds(np.subtract(own, others).tolist()) == pytest.approx(expected)


def test_the_interval_is_that_of_students_table() -> None:
    differences = [0.01, 0.02, -0.005]
    middle, reach = np.mean(differences), 2.919986 * np.std(differences, ddof=1) / np.sqrt(3)
    assert interval(differences, 0.9) == pytest.approx((middle - reach, middle + reach))
    low, high = interval([1.0, 3.0])
    assert (low, high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, 0.1], [0.3 - 0.2, 0.2 - 0.1]])
def test_one_seed_or_no_spread_gives_neither_p_nor_interval(differences: list[float]) -> None:
    assert over_seeds(differences) is None
    assert interval(differences) is None


@pytest.mark.parametrize(("better", "worse"), [(10, 2), (3, 8), (1, 0), (40, 25)])
def test_over_faces_of_one_seed_is_mcnemars_mid_p_test(better: int, worse: int) -> None:
    exact = stats.binomtest(better, better + worse).pvalue
    expected = exact - stats.binom.pmf(better, better + worse, 0.5)
    assert over_faces(pairs(better, worse)) == pytest.approx(expected)


def test_over_faces_gives_the_published_example_of_mcnemars_mid_p_test() -> None:
    """Fagerland et al. 2013, Table 1: 1 and 7 discordant pairs have a mid-p of 0.0391."""
    assert over_faces(pairs(1, 7)) == pytest.approx(0.0391, abs=5e-5)


def test_over_faces_of_several_seeds_counts_all_signs() -> None:
    differences = np.array([3, -1, 2, 1, 0, 2, -2])
    signed = [abs(int(np.dot(differences, signs))) for signs in itertools.product([-1, 1], repeat=7)]
    found = abs(int(differences.sum()))
    expected = np.mean([(one > found) + 0.5 * (one == found) for one in signed])
    assert over_faces(differences) == pytest.approx(expected)


def test_over_faces_approaches_the_clustered_mcnemar_test() -> None:
    differences = np.random.default_rng(0).integers(-3, 4, 4000) + (np.arange(4000) % 20 == 0)
    statistic = differences.sum() ** 2 / (differences**2).sum()  # Durkalski et al. 2003
    assert over_faces(differences) == pytest.approx(stats.chi2.sf(statistic, 1), rel=0.02)


def test_seeds_that_repeat_each_other_prove_nothing_more_over_faces() -> None:
    assert over_faces(5 * pairs(10, 2)) == pytest.approx(over_faces(pairs(10, 2)))


def test_methods_that_are_alike_have_a_p_of_one_or_near_it() -> None:
    assert over_faces(pairs(0, 0)) == 1
    assert over_faces(pairs(4, 4)) == pytest.approx(1 - 0.5 * stats.binom.pmf(4, 8, 0.5))


def test_holms_correction_gives_a_worked_example() -> None:
    """Holm 1979's procedure by hand: 4 x 0.01, then 3 x 0.03 twice (a p is never below an earlier one), then 0.09."""
    values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "none": None}
    assert holm(values) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "none": None})
    assert holm({"a": 0.9, "b": 0.6}) == {"a": 1.0, "b": 1.0}


def test_mean_and_deviation_of_too_few_values_are_none() -> None:
    assert (mean([]), deviation([0.5])) == (None, None)
    assert mean([1.0, 2.0]) == 1.5
    assert deviation([1.0, 2.0]) == pytest.approx(0.5**0.5)


def test_differences_that_are_equal_but_for_accuracies_of_32_bits_leave_no_spread() -> None:
    own, other = (float(np.float32(count / 3589)) for count in (2195, 2159))
    equal = [2195 / 3589 - 2159 / 3589, own - other]
    assert equal[0] != equal[1]
    assert over_seeds(equal) is None and interval(equal) is None
