"""The parameter files describe the methods whose numbers were recorded; see tests/cfpn/test_golden.py."""

from dataclasses import replace
from pathlib import Path

import pytest

from cfpn.objectives import LocalLoss
from cfpn.training import Method
from pipeline import params as parameters
from tests.cfpn.test_golden import RECIPES, RECORDED

ROOT = Path(__file__).resolve().parents[2]
NAMES = {  # of methods that have another name today
    "paper/nbp": "paper_eq4",
    "paper/blocks": "nbp_early",
    "paper/blocks_recompute": "nbp_early_recompute",
    "sample/nbp": "nbp_early",
    "fer2013-cpu/nbp": "nbp_early",
    "fer2013-cpu/local_ce": "local_ce_early",
    "fer2013-cpu/deep_supervision": "deep_supervision_two_layer_heads",
}


def what_counts(method: Method) -> Method:
    """Back-propagation has no hidden unit, so that nothing takes its local loss."""
    return replace(method, local_loss=LocalLoss(), vote=False) if method.units == "network" else method


@pytest.mark.parametrize("name", RECORDED)
def test_a_method_of_a_profile_is_the_one_whose_numbers_were_recorded(name: str) -> None:
    profile, old = name.split("/")
    found = parameters.load(ROOT / "params.yaml", {"profile": profile})
    assert what_counts(found.methods[NAMES.get(name, old)]) == what_counts(RECORDED[name])
    recorded = RECIPES[profile]
    assert found.train.recipe == replace(recorded, epochs=found.train.epochs, batch=found.train.batch)
