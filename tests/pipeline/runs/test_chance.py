"""An accuracy is worth something from a standard error above the share of the largest class on."""

import pytest
import torch

from pipeline.runs import chance


def test_the_majority_is_the_share_of_the_largest_class() -> None:
    assert chance.majority(torch.tensor([2, 0, 2, 1, 2])) == 0.6


def test_a_standard_error_is_that_of_many_draws() -> None:
    draws = torch.rand(20_000, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    assert chance.standard_error(0.3, 50) == pytest.approx(draws.double().mean(1).std().item(), rel=0.02)


@pytest.mark.parametrize(("accuracy", "lost"), [(0.4, True), (0.5, True), (0.54, True), (0.56, False), (1.0, False)])
def test_a_network_has_collapsed_up_to_a_standard_error_above_the_largest_class(accuracy: float, lost: bool) -> None:
    labels = torch.arange(100) % 2
    assert chance.collapsed(accuracy, labels) is lost


@pytest.mark.parametrize(
    ("accuracies", "lost"),
    [([0.5, 0.5], False), ([0.5] * 3, True), ([0.9, 0.5, 0.4, 0.5], True), ([0.5, 0.5, 0.5, 0.9], False)],
)
def test_a_training_is_stuck_after_three_epochs_without_having_learnt(accuracies: list[float], lost: bool) -> None:
    assert chance.stuck(accuracies, torch.arange(100) % 2) is lost
