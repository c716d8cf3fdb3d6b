"""Diagnostics look at a training and change nothing in it."""

import pytest
import torch
from cfpn.data import SIDE, Faces
from cfpn.model import CFPN, build

from cfpn.diagnostics import diagnose
from cfpn.objectives import Head, Objective
from cfpn.training import Method, Recipe, State, start, validate

SIZE = 16
MODEL = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1)
LOCAL = Method(units=["block1"], objective=Objective(pool=4, grid=2, head=Head(hidden=1, width=8)))
BP = Method(units="network")
averages = pytest.mark.parametrize("average", [0.0, 0.9])


def faces(number: int, seed: int) -> Faces:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (number, SIDE, SIDE), generator=random).to(torch.uint8)
    return Faces(pixels, torch.arange(number) % 7, torch.arange(number))


def begin(method: Method, average: float) -> State:
    return start(build(MODEL, 0), method, Recipe(average=average), SIZE, 0, torch.device("cpu"))


@averages
@pytest.mark.parametrize("method", [LOCAL, BP], ids=["local", "bp"])
def test_weights_and_running_statistics_stay_as_they_are_those_of_heads_too(method: Method, average: float) -> None:
    state = begin(method, average)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    diagnose(state, method, faces(40, 0), faces(30, 1), SIZE)
    after = state.tensors()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@averages
def test_gradients_are_those_of_training_whatever_mode_validation_left(average: float) -> None:
    state = begin(LOCAL, average)
    first = diagnose(state, LOCAL, faces(40, 0), faces(30, 1), SIZE)
    validate(state, faces(30, 1), SIZE)
    assert diagnose(state, LOCAL, faces(40, 0), faces(30, 1), SIZE) == first


def test_the_gradient_of_back_propagation_is_its_own() -> None:
    found = diagnose(begin(BP, 0.0), BP, faces(40, 0), faces(30, 1), SIZE)
    cosines = [value for name, value in found.items() if name.endswith("bp_cosine")]
    assert cosines == pytest.approx([1.0] * len(cosines), abs=1e-5)
    assert len(cosines) > 3
