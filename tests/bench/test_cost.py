"""Costs of networks count what an answer and a training need; times themselves are not tested."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import cost, step
from cfpn import training
from cfpn.network import CFPN, build
from cfpn.recipe import Recipe
from cfpn.training import Method, State
from pipeline.params import Entry
from tune import spaces

SMALL = CFPN(input_size=32, width=16, layers=1, pyramids=1)


@pytest.mark.parametrize("vote", [False, True])
def test_multiply_adds_of_an_answer_count_the_classifiers_that_vote(vote: bool) -> None:
    method = Method(units=["block1"], vote=vote)
    state = training.start(build(SMALL, 0), method, Recipe(), 32, 0, torch.device("cpu"))
    state.network.train()
    alone = training.start(build(SMALL, 0), Method("network"), Recipe(), 32, 0, torch.device("cpu"))
    assert (cost.multiply_adds(state) > cost.multiply_adds(alone)) is vote
    assert state.network.training


def test_a_step_that_costs_more_in_every_fourth_round_counts_and_in_the_trainings_own_arithmetic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"CFPN-NBP": Entry("nbp"), "CFPN-BP": Entry("bp")}
    small = {"model.width": 16, "model.input_size": 32, "model.layers": 1, "model.pyramids": 1}
    params = Path(__file__).parents[2] / "params.yaml"
    sweep = spaces.read(params, "models", ["train.precision=bfloat16"], small, None, 1)
    sweep = replace(sweep, models=own)
    used = []
    honest = training.train_step

    def train_step(state: State, *arguments: Any) -> dict[str, float]:  # noqa: ANN401
        used.extend(learner.precision for learner in state.learners)
        return honest(state, *arguments)

    monkeypatch.setattr(training, "train_step", train_step)
    seconds = {"CFPN-NBP": [1.0, 1.0, 1.0, 1.0], "CFPN-BP": [1.0, 1.0, 1.0, 5.0]}
    times = step.times
    monkeypatch.setattr(step, "times", lambda *arguments: times(*arguments) and seconds)
    table = cost.measure(cost.chosen(sweep, 1, "cpu"), 4, 2).set_index("models")
    assert set(used) == set(table["precision"]) == {"bfloat16"}
    assert table["step_ms"].to_dict() == {"CFPN-NBP": 1000, "CFPN-BP": 2000}
    assert table.loc["CFPN-BP", "step_ratio"] == 2


@pytest.mark.parametrize(("device", "used"), [("cuda", "cuda"), ("cpu", "cpu"), ("auto", "cpu")])
def test_costs_are_measured_where_the_trials_of_the_sweep_run(device: str, used: str) -> None:
    params = Path(__file__).parents[2] / "params.yaml"
    sweep = spaces.read(params, "models", [], {}, None, 1)
    common = sweep.files.common | {"compute": {"device": device}}
    own = replace(sweep, files=sweep.files._replace(common=common))
    assert {one.params.compute.device for one in cost.chosen(own, None, None).values()} == {used}
