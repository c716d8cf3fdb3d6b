"""Costs of networks against counts by hand; times themselves are not tested."""

import pandas as pd
import pytest
import torch
from torch import nn

from bench import cost
from cfpn.graph import IMAGE, Node
from pipeline.stage import InputError


def test_multiply_adds_are_those_counted_by_hand() -> None:
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),  # 16 * 16 * 8 * 9
        nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8),  # 8 * 8 * 8 * 9
        nn.Flatten(),
        nn.Linear(512, 7),
    )
    count = cost.multiply_adds([Node("all", layers, (IMAGE,))], torch.zeros(1, 1, 16, 16))
    assert count == 16 * 16 * 8 * 9 + 8 * 8 * 8 * 9 + 512 * 7


def tables(parameters: float | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies of a network with so many parameters, and its cost."""
    accuracies = pd.DataFrame({"models": ["A", "A"], "rate": ["common", "tuned"], "parameters": [parameters] * 2})
    return accuracies, pd.DataFrame({"models": ["A"], "parameters": [10], "step_ms": [1.5]})


@pytest.mark.parametrize("parameters", [10.0, None])
def test_both_rows_of_a_network_stand_beside_its_cost(parameters: float | None) -> None:
    table = cost.joined(*tables(parameters))
    assert table[["rate", "step_ms", "parameters"]].values.tolist() == [["common", 1.5, 10], ["tuned", 1.5, 10]]


def test_costs_of_another_size_of_network_are_refused() -> None:
    with pytest.raises(InputError, match="A had 11 parameters in the sweep and has 10 here"):
        cost.joined(*tables(11.0))
