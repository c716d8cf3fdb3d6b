"""A verdict follows from the numbers beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.page import claims
from pipeline.runs.study import Outcome

STUDY = Path(__file__).resolve().parents[3] / "docs/study"


def found(nbp: float, p: float | None = 0.01, share: float | None = 0.5, reached: int = 5) -> dict[str, Any]:
    """A comparison of NBP at an accuracy with BP at 0.6."""

    def one(mean: float) -> dict[str, Any]:
        return {"quantities": {"accuracy": {"mean": mean, "sd": 0.01}}}

    difference = {"accuracy": {"mean": nbp - 0.6, "p_holm": p}}
    steps = {"share": share, "reached": reached, "of": 5}
    own = one(nbp) | {"against": {"quantities": difference}, "steps": steps}
    return {"nbp": own, "bp": one(0.6), "local_ce": one(0.6)}


def outcome(method: str, seed: int, accuracy: float, validation: float | None = None) -> Outcome:
    """A run of one epoch."""
    history = pd.DataFrame(
        {"epoch": [1], "step": [1], "val/accuracy": [accuracy if validation is None else validation]}
    )
    return Outcome("", method, seed, history, {"accuracy": accuracy, "test_faces": 10}, 1)


@pytest.mark.parametrize(
    ("nbp", "p", "verdict"),
    [(0.65, 0.01, "holds for this form"), (0.65, 0.2, "better, not beyond doubt"),
     (0.65, None, "better, not beyond doubt"),
     (0.55, 0.01, "does not hold")],
)  # fmt: skip
def test_more_accurate_holds_only_beyond_doubt(nbp: float, p: float | None, verdict: str) -> None:
    assert claims.accuracy(found(nbp, p)).verdict == verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.2, "holds"), (0.5, "fewer steps, but not a quarter"), (1.0, "does not hold"), (None, "does not hold")],
)
def test_a_quarter_of_the_steps_is_a_quarter(share: float | None, verdict: str) -> None:
    assert claims.steps(found(0.65, share=share)).verdict == verdict


def test_a_share_of_the_steps_does_not_hold_for_seeds_that_never_get_there() -> None:
    assert claims.steps(found(0.65, share=0.2, reached=1)).verdict == "only 1 of 5 seeds reach it"


@pytest.mark.parametrize(("ratio", "verdict"), [(0.7, "holds"), (0.97, "about the same"), (1.2, "does not hold")])
def test_a_cost_holds_where_it_is_clearly_less(ratio: float, verdict: str) -> None:
    assert claims.cost("", ratio, "", "C").verdict == verdict


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [((0.62, 0.59, 0.61), "not decided"), ((0.66, 0.661, 0.66), "holds"),
     ((0.603, 0.604, 0.603), "not seen, at most 0.5 of a lead of 3.3 points"),
     ((0.55, 0.54, 0.55), "not seen, it costs accuracy")],
)  # fmt: skip
def test_the_hsic_term_makes_nbp_accurate_only_where_it_is_most_of_the_lead_over_bp(
    accuracies: tuple[float, ...], verdict: str
) -> None:
    runs = {"nbp": accuracies, "local_ce": (0.6, 0.6, 0.601), "bp": (0.57, 0.57, 0.57)}
    outcomes = [outcome(method, seed, one) for method, values in runs.items() for seed, one in enumerate(values)]
    claim = claims.term(outcomes)
    assert claim.verdict == f"PrivateTest: {verdict}; PublicTest: {verdict}"
    assert "PrivateTest " in claim.ours and "PublicTest " in claim.ours
    assert "`nbp` less `local_ce`" in claim.setting and "3 seeds" in claim.setting


def test_the_hsic_term_is_judged_on_each_split_beside_the_lead_of_the_same_seeds() -> None:
    validation = {"nbp": (0.61, 0.65, 0.6), "local_ce": (0.62, 0.6, 0.61), "bp": (0.57, 0.57, 0.57)}
    test = {"nbp": (0.603, 0.604, 0.603), "local_ce": (0.6, 0.6, 0.601), "bp": (0.57, 0.57, 0.57)}
    runs = [
        outcome(method, seed, one, validation[method][seed])
        for method, values in test.items()
        for seed, one in enumerate(values)
    ]
    alone = [outcome("nbp", 3, 0.9), outcome("bp", 3, 0.1)]  # a lead that no run without HSIC shares
    wanted = "PrivateTest: not seen, at most 0.5 of a lead of 3.3 points; PublicTest: not decided"
    assert claims.term(runs + alone).verdict == wanted


def test_seeds_that_agree_give_no_narrower_interval_than_their_test_faces() -> None:
    right = {"nbp": 60, "local_ce": 57}
    runs = [
        replace(outcome(method, seed, count / 100), correct=np.roll(np.arange(100) < count, seed), split="a")
        for method, count in right.items()
        for seed in (0, 1, 2)
    ]
    runs[0] = replace(runs[0], scores=runs[0].scores | {"accuracy": 0.601})
    by_face = np.mean([runs[i].correct.astype(int) - runs[i + 3].correct.astype(int) for i in range(3)], axis=0)
    low, high = stats.ttest_1samp(by_face, 0).confidence_interval()
    found = claims.bounds(runs, "nbp", "local_ce")
    assert found is not None and found[1] - found[0] == pytest.approx(high - low)
    assert sum(found) / 2 == pytest.approx(0.091 / 3)
    unstored = [replace(one, correct=None) for one in runs]
    seeds = stats.ttest_1samp([0.031, 0.03, 0.03], 0).confidence_interval()
    assert claims.bounds(unstored, "nbp", "local_ce") == pytest.approx((seeds.low, seeds.high))


def test_the_hsic_term_is_read_off_early_stops_until_two_seeds_have_run_without_them() -> None:
    runs = [("nbp", 0, 0.7), ("local_ce", 0, 0.6)]
    early = [(f"{name}_early", seed, 0.6 + 0.01 * seed) for name in ("nbp", "local_ce") for seed in (0, 1)]
    early[1] = ("nbp_early", 1, 0.62)
    bp = [("bp", seed, 0.5) for seed in (0, 1)]
    claim = claims.term([outcome(*one) for one in (*runs, *early, *bp)])
    assert "2 seeds: `nbp_early` less `local_ce_early`" in claim.setting
    assert claim.ours.startswith("With it: PrivateTest +0.5 points")


COSTS, NO_COST = (0.63, 0.64, 0.63), (0.645, 0.655, 0.64, 0.9)


@pytest.mark.parametrize(
    ("test", "validation", "verdict"),
    [(COSTS, COSTS, "costs accuracy on PrivateTest; costs accuracy on PublicTest"),
     (NO_COST, COSTS, "no cost seen on PrivateTest; costs accuracy on PublicTest"),
     ((0.67, 0.66, 0.67), NO_COST, "no cost seen on PrivateTest; no cost seen on PublicTest")],
)  # fmt: skip
def test_what_stopped_gradients_cost_is_said_of_each_split_over_the_seeds_that_both_have(
    test: tuple[float, ...], validation: tuple[float, ...], verdict: str
) -> None:
    runs = [outcome("nbp", seed, *both) for seed, both in enumerate(zip(test, validation, strict=False))]
    claim = claims.control(
        runs + [outcome("deep_supervision", seed, one) for seed, one in enumerate((0.65, 0.65, 0.651))]
    )
    assert claim.verdict == verdict
    assert ", 3 seeds;" in claim.setting


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_or_equal_differences_say_nothing_of_gradients_or_of_hsic(seeds: int) -> None:
    methods = {"nbp": 0.61, "deep_supervision": 0.6, "local_ce": 0.6, "nbp_early": 0.61, "local_ce_early": 0.6}
    runs = [outcome(method, seed, accuracy) for method, accuracy in methods.items() for seed in range(seeds)]
    for claim in (claims.control(runs), claims.term(runs)):
        assert (claim.ours, claim.verdict) == ("–", "too few seeds to say")


def test_the_tracked_study_answers_every_claim() -> None:
    assert all(all(row) for row in claims.claims(STUDY))
