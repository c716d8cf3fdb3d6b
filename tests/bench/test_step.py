"""Claims about bench/step.py: what it measures, not how fast anything is."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import step
from cfpn.separable import FORMS
from cfpn.training import Recipe, start
from pipeline import params as parameters
from pipeline import session as sessions

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 16, "model.layers": 1, "model.pyramids": 1}


@pytest.fixture(scope="module")
def result() -> dict:
    return step.measure(parameters.load(ROOT / "params.yaml", SMALL), ["bp", "nbp"], 8, 3)


def test_ratios_are_to_the_first_method(result: dict) -> None:
    bp, nbp = result["rows"]
    assert (bp["method"], bp["step_ratio"], bp["peak_ratio"]) == ("bp", 1.0, 1.0)
    assert nbp["step_ratio"] == pytest.approx(nbp["step_ms"] / bp["step_ms"])
    assert nbp["peak_ratio"] == pytest.approx(nbp["peak_mib"] / bp["peak_mib"])


def test_the_result_says_under_what_conditions_it_was_taken(result: dict) -> None:
    assert (result["batch"], result["input_size"], result["width"], result["rounds"]) == (8, 16, 16, 3)
    assert result["device"].startswith("CPU")


def test_peak_memory_grows_with_the_batch_and_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "cpu", ((math.inf, "map_by_map"),))  # another form has another peak
    params = parameters.load(ROOT / "params.yaml", SMALL)
    method = params.methods["bp"]

    def peak(batch: int) -> int:
        state = start(sessions.build(params.model, 0), method, Recipe(), 16, 0, torch.device("cpu"))
        for node in state.nodes:
            node.module.train()
        images = torch.randn(batch, 1, 16, 16).contiguous(memory_format=torch.channels_last)
        step.peak(state.learners, method, images, torch.arange(batch) % 7)  # Adam's moments are allocated once
        return step.peak(state.learners, method, images, torch.arange(batch) % 7)

    assert peak(32) == peak(32)
    # With fewer faces the peak lies where the gradients of the weights do.
    assert peak(128) - peak(64) == pytest.approx(2 * (peak(64) - peak(32)), rel=0.1)


def test_recomputing_lowers_the_peak() -> None:
    methods = {f"methods.{name}": {"units": "network", "recompute": value} for name, value in
               [("kept", False), ("recomputed", True)]}  # fmt: skip
    params = parameters.load(ROOT / "params.yaml", SMALL | methods)
    assert step.measure(params, ["kept", "recomputed"], 32, 2)["rows"][1]["peak_ratio"] < 0.8


def test_measured_steps_stand_for_a_whole_training_in_which_units_end(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters.load(ROOT / "params.yaml", SMALL | {"methods.nbp.freeze": 0.5})
    method, given = params.methods["nbp"], []
    learners = sessions.begin(params, method, 0).state.learners
    monkeypatch.setattr(step.training, "train_step", lambda *a: given.append([rate > 0 for rate in a[5]]))
    step.times({"nbp": learners}, {"nbp": method}, torch.zeros(1), torch.zeros(1), 12)
    measured = np.array(given[step.WARM_UP :])
    assert measured.sum(0).tolist() == [6, 8, 10, 12]
    assert given[: step.WARM_UP] == [[True] * 4] * step.WARM_UP
