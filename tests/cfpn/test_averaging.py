"""How far averaged weights move after a step."""

import pytest
import torch
from torch import nn

from cfpn.averaging import average


def of(value: float) -> nn.Module:
    module = nn.BatchNorm1d(3)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)
    return module


@pytest.mark.parametrize("decay", [0.2, 0.9, 0.999])
@pytest.mark.parametrize("step", [0, 1, 5, 100, 10**5])
def test_late_steps_move_the_average_by_the_decay_and_early_ones_faster(decay: float, step: int) -> None:
    averaged, network = of(2.0), of(5.0)
    average(averaged, network, decay, step)
    kept = min(decay, (1 + step) / (10 + step))
    for name, tensor in averaged.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.full_like(tensor, 2.0 * kept + 5.0 * (1 - kept)), msg=name)
    assert {float(tensor.flatten()[0]) for tensor in network.state_dict().values()} == {5.0}


def test_both_kinds_of_step_occur() -> None:
    early, late = of(0.0), of(0.0)
    average(early, of(1.0), 0.9, 0)
    average(late, of(1.0), 0.9, 10**4)
    assert float(early.state_dict()["weight"][0]) == pytest.approx(0.9)
    assert float(late.state_dict()["weight"][0]) == pytest.approx(0.1)
