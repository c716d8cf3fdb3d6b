"""Tests of the measured tables of docs/results.md: pipeline/page/measurements.py."""

import pandas as pd
import pytest
from scipy import stats

from pipeline.page import measurements

BASE, MORE, LESS = (0.20, 0.22, 0.21), (0.26, 0.27, 0.29), (0.21, 0.21, 0.22)


def attacked(seeds: int = 3) -> pd.DataFrame:
    """Accuracies of three methods under one attack, and without any."""
    columns = {"local_ce": BASE, "nbp": LESS, "nbp_more_hsic": MORE}
    rows = [
        {"method": method, "seed": seed, "attack": attack, "eps": eps, "accuracy": 2 * eps + accuracy}
        for method, accuracies in columns.items()
        for seed, accuracy in enumerate(accuracies[:seeds])
        for attack, eps in (("pgd", 1.0), ("none", 0.0))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def rows(found: pd.DataFrame) -> dict[tuple[str, ...], list[str]]:
    """Cells of the table of differences, by attack, eps and method."""
    _, cells = measurements.differences(found, ["attack", "eps"], "local_ce", ["nbp", "nbp_more_hsic"])
    return {tuple(row[:3]): row[3:] for row in cells}


def test_differences_are_paired_by_seed_whatever_the_order_of_rows() -> None:
    found = rows(attacked())
    attacks, methods = (("pgd", "1"), ("none", "0")), ("nbp", "nbp_more_hsic")
    assert set(found) == {(*attack, method) for attack in attacks for method in methods}
    assert found["pgd", "1", "nbp"][:2] == ["3", "+0.3"]
    assert found["pgd", "1", "nbp_more_hsic"][:2] == ["3", "+6.3"]


def test_interval_and_corrected_p_are_those_of_another_library() -> None:
    found = rows(attacked())
    tests = [stats.ttest_rel(one, BASE) for one in (MORE, LESS)]
    bounds = tests[0].confidence_interval(0.95)
    assert found["pgd", "1", "nbp_more_hsic"][2] == f"{100 * bounds.low:+.1f} to {100 * bounds.high:+.1f}"
    # Of two methods Holm doubles the smaller p; the larger stands, unless the doubled one is larger.
    assert float(found["pgd", "1", "nbp_more_hsic"][3]) == pytest.approx(2 * tests[0].pvalue, abs=5e-4)
    assert float(found["pgd", "1", "nbp"][3]) == pytest.approx(max(2 * tests[0].pvalue, tests[1].pvalue), abs=5e-4)


def test_a_single_seed_has_a_difference_but_neither_interval_nor_p() -> None:
    assert rows(attacked(seeds=1))["none", "0", "nbp"] == ["1", "+1.0", "–", "–"]


def test_seeds_that_agree_to_the_last_face_leave_no_spread_to_test() -> None:
    found = attacked()
    found = found[found["seed"] != 1]
    assert rows(found)["pgd", "1", "nbp"] == ["2", "+1.0", "–", "–"]


def test_a_seed_that_one_method_lacks_does_not_count_for_it() -> None:
    found = attacked()
    found = found[(found["method"] != "nbp") | (found["seed"] != 1)]
    assert [rows(found)["pgd", "1", method][0] for method in ("nbp", "nbp_more_hsic")] == ["2", "3"]
