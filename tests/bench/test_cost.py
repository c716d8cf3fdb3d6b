"""Costs of networks against counts by hand; times themselves are not tested."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bench import cost, step
from cfpn import training
from cfpn.graph import IMAGE, Node
from cfpn.heads import Head
from cfpn.network import Network
from cfpn.training import State
from pipeline.params import Entry
from tune import spaces


def test_multiply_adds_are_those_counted_by_hand() -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),  # 16 * 16 * 8 * 9
        nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8),  # 8 * 8 * 8 * 9
        nn.Flatten(),
        nn.Linear(512, 7),
    )
    network = Network([Node("all", layers, (IMAGE,))], "network", input_size=16, head=Head())
    count = cost.multiply_adds(network, torch.zeros(1, 1, 16, 16))
    assert count == 16 * 16 * 8 * 9 + 8 * 8 * 8 * 9 + 512 * 7


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
