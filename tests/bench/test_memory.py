"""Claims about bench/memory.py: what a worker's memory holds."""

import sys
from pathlib import Path

import pytest

from bench import memory
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 32, "model.layers": 3, "model.pyramids": 1}
BATCH = 64


@pytest.fixture(scope="module")
def params() -> Params:
    return parameters.load(ROOT / "params.yaml", SMALL)


def test_rows_compare_the_largest_worker_with_back_propagation_through_the_same_network(params: Params) -> None:
    whole, usual, deep_whole, deep = memory.measured(params, BATCH, ["usual"], [2], [0, 2])
    assert (whole["units"], whole["ratio"], len(usual["peak_mib"])) == ("network", 1, 2)
    assert usual["ratio"] == pytest.approx(max(usual["peak_mib"]) / whole["peak_mib"][0])
    assert deep["ratio"] == pytest.approx(max(deep["peak_mib"]) / deep_whole["peak_mib"][0])
    assert deep_whole["peak_mib"] > whole["peak_mib"]


def test_no_row_names_more_workers_than_the_cut_has_units(params: Params) -> None:
    _, *rows = memory.measured(params, 8, ["balanced:2", "balanced:3"], [1, 2, 3, 4], [0])
    assert [(row["units"], row["workers"]) for row in rows] == [
        *(("balanced:2", count) for count in (1, 2)), *(("balanced:3", count) for count in (1, 2, 3)),
    ]  # fmt: skip
    assert all(len(row["peak_mib"]) == row["workers"] for row in rows)


def test_a_worker_holds_what_it_has_received(params: Params) -> None:
    (whole,), parts = (memory.peaks(params, params.methods["nbp"], BATCH, 0, count) for count in (1, 4))
    received = BATCH * 16 * 16 * 16 * 4  # the 16 maps of block 1 at half of the image's side
    assert parts[0] == whole  # the first worker's block decides
    assert received < parts[1] < whole


def test_the_largest_worker_does_not_grow_with_depth_once_each_has_several_blocks(params: Params) -> None:
    five, nine = (max(memory.peaks(params, params.methods["nbp"], BATCH, added, 2)) for added in (5, 9))
    assert nine == five


def test_units_that_rest_in_some_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["memory", "--set", "methods.nbp.schedule.update_every=4"])
    with pytest.raises(InputError, match=r"methods\.nbp\.schedule\.update_every: expected 1, .* found 4"):
        memory.main()
