"""Claims about bench/depth.py."""

from pathlib import Path

import pytest
import torch

from bench import depth
from cfpn.graph import IMAGE, run
from cfpn.network import CFPN, build
from pipeline import params as parameters
from pipeline.process import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 32, "model.layers": 3, "model.pyramids": 1}


@pytest.mark.parametrize("added", [0, 1, 3])
def test_added_blocks_have_the_size_and_resolution_of_the_first(added: int) -> None:
    model = CFPN(input_size=32, width=16, layers=3, pyramids=1)
    nodes = depth.deepened(model, added)
    assert len(nodes) == len(build(model, 0)) + 4 * added
    names = ["block1/1", *(f"added{i}/1" for i in range(1, added + 1)), "classifier"]
    found = run(nodes, {IMAGE: torch.zeros(2, 1, 32, 32)}, names)
    assert {tuple(found[name].shape) for name in names[:-1]} == {(2, 2, 16, 16)}
    assert found["classifier"].shape == (2, 7)


def test_peak_memory_is_flat_where_no_gradient_crosses_and_grows_where_it_does() -> None:
    params = parameters.load(ROOT / "params.yaml", SMALL)
    nbp, bp = (depth.growth(params, name, 96, [1, 5]) for name in ("nbp", "bp"))
    assert nbp["ratio_of_the_last_two"] < 1.01
    assert bp["ratio_of_the_last_two"] > 2


def test_channels_and_classes_are_those_of_the_parameters() -> None:
    params = parameters.load(ROOT / "params.yaml", SMALL | {"model.channels": 3, "model.classes": 5})
    state = depth.begin(params, params.methods["nbp"], 1)
    assert (state.network.channels, state.network.classes) == (3, 5)
    assert depth.peak_of(params, params.methods["bp"], 8, 0) > 0


def test_a_network_that_the_units_do_not_fit_is_an_input_error() -> None:
    params = parameters.load(ROOT / "params.yaml", SMALL | {"model.blocks": 2})
    with pytest.raises(InputError, match="block"):
        depth.begin(params, params.methods["nbp"], 1)
