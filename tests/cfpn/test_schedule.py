"""When and how fast each unit learns."""

import itertools
import math

import numpy as np
import pytest

from cfpn.schedule import Schedule
from tests.cfpn.small import BATCH, ONE_CYCLE, RECIPE, begin, epochs, method


@pytest.mark.parametrize("update_every", [1, 2, 3, 4])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_unit_learns_in_its_share_of_the_steps_evenly_spread(update_every: int, place: int) -> None:
    how = Schedule(update_every=update_every)
    learns = [how.rates(step, 1200, 7)[place] > 0 for step in range(1200)]
    assert sum(learns) == pytest.approx(1200 / update_every, abs=1)
    assert set(np.diff(np.flatnonzero(learns))) == {update_every}


@pytest.mark.parametrize("update_every", [2, 3, 4])
def test_neighbours_learn_in_different_steps_and_the_last_unit_in_each(update_every: int) -> None:
    for step in range(12):
        found = Schedule(update_every=update_every).rates(step, 12, 6)
        assert all(not (a and b) for a, b in itertools.pairwise(found[:-1]))
        assert found[-1] == 0.005


def test_at_half_the_steps_neighbours_alternate() -> None:
    tables = [Schedule(update_every=2).rates(step, 10, 3) for step in range(10)]
    assert all((found[0] > 0) != (found[1] > 0) for found in tables)


@pytest.mark.parametrize("stop", [1.0, 0.5, 0.65])
@pytest.mark.parametrize("shape", ["constant", "one_cycle"])
def test_units_end_one_after_the_other_each_with_a_schedule_of_its_own(stop: float, shape: str) -> None:
    how = Schedule(0.01, shape, warm_up=0.2, first_unit_stops_at=stop)
    table = np.array([how.rates(step, 1200, 4) for step in range(1200)])
    for place, found in enumerate(table.T):
        end = round(1200 * (stop + (1 - stop) * place / 3))
        expected = [0.01 * how.factor(step, end) for step in range(end - 1)]
        assert found[: end - 1] == pytest.approx(expected)
        assert not found[end + 1 :].any()


def test_the_only_unit_of_back_propagation_learns_in_every_step() -> None:
    how = Schedule(shape="one_cycle", warm_up=0.2, update_every=2, first_unit_stops_at=0.5)
    assert [how.rates(step, 10, 1) for step in range(10)] == [[0.005 * how.factor(step, 10)] for step in range(10)]


def test_every_rate_is_in_proportion_to_the_learning_rate() -> None:
    plain, own = (Schedule(rate, "one_cycle").rates(5, 100, 3) for rate in (0.01, 0.002))
    assert own == pytest.approx([rate / 5 for rate in plain])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_learning_rate_that_cannot_train_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.learning_rate: expected more than 0, found"):
        Schedule(learning_rate=bad)


@pytest.mark.parametrize("value", [0, -0.5, 1.5, math.nan])
def test_a_first_unit_that_stops_before_or_after_the_training_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"first_unit_stops_at: expected more than 0 and at most 1, found {value}"):
        Schedule(first_unit_stops_at=value)


@pytest.mark.parametrize("value", [0, -1, 0.5, math.nan])
def test_updates_more_often_than_in_every_step_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"update_every: expected 1 or more, found {value}"):
        Schedule(update_every=value)


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_warm_up_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"schedule\.warm_up: expected 0 or more and less than 1"):
        Schedule(warm_up=value)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.shape: expected constant or one_cycle, found onecycle"):
        Schedule(shape="onecycle")


@pytest.mark.parametrize(
    ("how", "rests"),
    [(Schedule(), False), (Schedule(update_every=2), True), (Schedule(first_unit_stops_at=0.9), True)],
    ids=str,
)
def test_units_rest_where_they_update_seldom_or_stop_early(how: Schedule, rests: bool) -> None:
    assert how.rests == rests
    assert any(0.0 in how.rates(step, 100, 3) for step in range(100)) == rests


@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.3, 0.99])
@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_schedules_stay_between_zero_and_the_full_rate(total: int, warm_up: float) -> None:
    assert [Schedule(warm_up=warm_up).factor(step, total) for step in range(total)] == [1.0] * total
    how = Schedule(shape="one_cycle", warm_up=warm_up)
    assert all(0 < how.factor(step, total) <= 1 for step in range(total))


@pytest.mark.parametrize("warm_up", [0.1, 0.3, 0.6])
def test_one_cycle_rises_linearly_over_the_warm_up_and_falls_as_a_cosine(warm_up: float) -> None:
    how = Schedule(shape="one_cycle", warm_up=warm_up)
    rates, peak = [how.factor(step, 1000) for step in range(1000)], round(1000 * warm_up)
    assert max(rates) == rates[peak] == 1.0
    assert rates[peak // 2 - 1] == pytest.approx(0.5, abs=0.01)
    assert rates[(1000 + peak) // 2] == pytest.approx(0.5, abs=0.01)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4
    rise = [(step + 1) / (peak + 1) for step in range(peak)]
    fall = [(1 + math.cos(math.pi * step / (1000 - peak))) / 2 for step in range(1000 - peak)]
    assert rates == pytest.approx(rise + fall, rel=1e-12)


def test_the_schedule_reaches_every_units_optimiser() -> None:
    how = method("block", schedule=ONE_CYCLE)
    state = begin(how)
    epochs(state, how, RECIPE)
    expected = ONE_CYCLE.learning_rate * ONE_CYCLE.factor(5, RECIPE.epochs * (20 // BATCH))
    assert {group["lr"] for learner in state.learners for group in learner.optimizer.param_groups} == {expected}
