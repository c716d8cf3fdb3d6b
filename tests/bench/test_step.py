"""Claims about bench/step.py: what it measures, not how fast anything is."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import step
from cfpn.schedule import Schedule
from cfpn.separable import FORMS
from cfpn.training import Method, State
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 16, "model.layers": 1, "model.pyramids": 1}


def small(**methods: Method) -> Params:
    params = parameters.load(ROOT / "params.yaml", SMALL)
    return params.model_copy(update={"methods": params.methods | methods})


def test_rows_are_means_and_peaks_in_milliseconds_and_mib_and_ratios_to_the_first_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"bp": [0.1, 0.1, 0.1], "nbp": [0.1, 0.2, 0.3]}
    monkeypatch.setattr(step, "times", lambda *_: seconds)
    monkeypatch.setattr(step, "peak", lambda _, method, *__: (100 if method.units == "network" else 25) * 2**20)
    bp, nbp = step.measure(small(), ["bp", "nbp"], 8, 3)["rows"]
    assert bp == {
        "method": "bp", "step_ms": pytest.approx(100), "step_ratio": 1.0, "step_ratio_quartiles": [1.0, 1.0],
        "peak_mib": 100.0, "peak_ratio": 1.0,
    }  # fmt: skip
    assert nbp == {
        "method": "nbp", "step_ms": pytest.approx(200), "step_ratio": pytest.approx(2),
        "step_ratio_quartiles": pytest.approx([1, 3]), "peak_mib": 25.0, "peak_ratio": 0.25,
    }  # fmt: skip


def test_the_result_says_under_what_conditions_it_was_taken() -> None:
    result = step.measure(small(), ["bp", "nbp"], 8, 3)
    assert (result["batch"], result["input_size"], result["width"], result["rounds"]) == (8, 16, 16, 3)
    assert result["device"].startswith("CPU")
    assert [row["method"] for row in result["rows"]] == ["bp", "nbp"]
    assert min(row[name] for row in result["rows"] for name in ("step_ms", "peak_mib")) > 0


def test_every_measured_step_is_timed_and_takes_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    params, now, order = small(), [0.0], []

    def train_step(state: State, method: Method, *_: object) -> None:
        order.append(method.units == "network")
        now[0] += 1.0 if method.units == "network" else 0.25

    monkeypatch.setattr(step.training, "train_step", train_step)
    monkeypatch.setattr(step.time, "perf_counter", lambda: now[0])
    methods = {name: params.methods[name] for name in ("bp", "nbp")}
    states = {name: step.begin(params, method) for name, method in methods.items()}
    assert step.times(states, methods, torch.zeros(1), torch.zeros(1), 4) == {"bp": [1.0] * 4, "nbp": [0.25] * 4}
    assert order == [True, False] * (4 + step.WARM_UP)


def test_peak_memory_grows_with_the_batch_and_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "cpu", ((math.inf, "map_by_map"),))  # another form has another peak
    params = small()
    method = params.methods["bp"]

    def peak(batch: int) -> int:
        state, (images, labels) = step.begin(params, method), step.batch_of(params, batch)
        step.peak(state, method, images, labels)  # Adam's moments are allocated once
        return step.peak(state, method, images, labels)

    assert peak(32) == peak(32)
    # With fewer faces the peak lies where the gradients of the weights do.
    assert peak(128) - peak(64) == pytest.approx(2 * (peak(64) - peak(32)), rel=0.1)


def test_recomputing_lowers_the_peak() -> None:
    kept = Method(units="network")
    params = small(kept=kept, recomputed=replace(kept, recompute=True))
    # With one layer a block, what a processor's convolutions need beside features is a large part of the peak.
    deep = params.model_copy(update={"model": replace(params.model, layers=3)})
    assert step.measure(deep, ["kept", "recomputed"], 32, 2)["rows"][1]["peak_ratio"] < 0.8


def test_measured_steps_stand_for_a_whole_training_in_which_units_end(monkeypatch: pytest.MonkeyPatch) -> None:
    params = small()
    method = replace(params.methods["nbp"], schedule=Schedule(first_unit_stops_at=0.5))
    states, given = {"nbp": step.begin(params, method)}, []

    def train_step(_: State, __: Method, images: Tensor, labels: Tensor, rates: list[float]) -> None:
        given.append([rate > 0 for rate in rates])

    monkeypatch.setattr(step.training, "train_step", train_step)
    step.times(states, {"nbp": method}, torch.zeros(1), torch.zeros(1), 12)
    measured = np.array(given[step.WARM_UP :])
    assert measured.sum(0).tolist() == [6, 8, 10, 12]
    assert given[: step.WARM_UP] == [[True] * 4] * step.WARM_UP


@pytest.mark.parametrize(("asked", "every", "rounds"), [(12, 8, 16), (16, 8, 16), (2, 1, 2), (5, 4, 8)])
def test_units_that_rest_do_so_in_their_share_of_the_measured_steps(
    asked: int, every: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(parameters.load(ROOT / "params.yaml").methods["nbp"], schedule=Schedule(update_every=every))
    given: list[list[bool]] = []
    record = lambda *args: given.append([rate > 0 for rate in args[-1]])  # noqa: E731
    monkeypatch.setattr(step.training, "train_step", record)
    monkeypatch.setattr(step, "peak", lambda *_: 1)
    assert step.measure(small(now_and_then=method), ["bp", "now_and_then"], 8, asked)["rounds"] == rounds
    measured = np.array([rates for rates in given if len(rates) > 1][-rounds:])
    assert measured.mean(0).tolist() == [1 / every] * 3 + [1.0]


def test_a_method_that_does_not_fit_the_network_is_left_out_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    params = small(strange=Method(units=["stem"]))
    assert list(step.begun(params, ["strange", "bp", "nbp"], leave_out=True)) == ["bp", "nbp"]
    assert "strange: left out: units: 'stem' is no node after which a gradient can stop" in capsys.readouterr().err
    with pytest.raises(InputError, match="units: 'stem' is no node"):
        step.begun(params, ["strange"], leave_out=True)
    with pytest.raises(InputError, match="units: 'stem' is no node"):
        step.begun(params, ["bp", "strange"], leave_out=False)
