"""Claims about bench/parallel.py: what it measures, not how fast anything is."""

import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench import parallel
from bench.parallel import Row
from cfpn import faces as data
from cfpn import training
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError
from pipeline.runs import session as sessions
from pipeline.runs import study

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 16, "model.layers": 1, "model.pyramids": 1, "train.batch": 8}


@pytest.fixture
def params() -> Params:
    return parameters.load(ROOT / "params.yaml", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "processes"),
    [("bp", 1), ("bp 2 threads", 1), ("deep_supervision_ddp", 2), ("nbp_ddp", 2), ("nbp balanced:3 twice", 2)],
)
def test_every_way_to_use_the_cores_gives_faces_per_second_and_memory(params: Params, row: str, processes: int) -> None:
    found = parallel.in_a_process(parallel.measured_row, params, parallel.parsed(row, params), 4)
    assert found["faces_per_second"] > 0
    assert len(found["peak_mib"]) == processes and min(found["peak_mib"]) > 50


@pytest.mark.slow
def test_workers_say_how_long_they_are_busy_and_what_they_hand_on(params: Params) -> None:
    found = parallel.in_a_process(parallel.measured_row, params, parallel.parsed("nbp balanced:3 2 workers", params), 4)
    assert found["faces_per_second"] > 0 and found["start_s"] > 0
    first, second = found["workers"]
    assert len(first["units"] + second["units"]) == 3
    assert min(first["busy_ms"], second["busy_ms"], first["peak_mib"], second["peak_mib"]) > 0
    assert first["sent_mib"] > second["sent_mib"] == 0
    assert [span[0] for span in first["spans"]] == [3, 4, 5, 6]  # none of the warm-up


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("bp", Row("bp")),
        ("bp_ddp", Row("bp", None, 2, "ddp")),
        ("nbp_ddp", Row("nbp", None, 2, "ddp")),
        ("nbp balanced:3 3 workers", Row("nbp", "balanced:3", 3, "workers")),
        ("nbp twice", Row("nbp", None, 2, "twice")),
    ],
)
def test_a_row_names_method_units_and_cores(params: Params, text: str, row: Row) -> None:
    assert parallel.parsed(text, params) == row


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("nbp 2 workers", "nbp"),
        ("nbp_two_layer_heads balanced:3", "nbp_balanced_3"),
        ("nbp balanced:3", "nbp balanced:3"),
    ],
)
def test_a_row_is_named_as_the_method_of_a_study_that_has_its_units_and_heads(row: str, name: str) -> None:
    params = parameters.load(ROOT / "params.yaml")
    assert parallel.study_name(parallel.parsed(row, params)) == name


@pytest.mark.parametrize(
    "text",
    ["sgd", "nbp 2", "nbp two workers", "nbp workers balanced:3", "nbp 2 cores", "bp 2 workers",
     "deep_supervision 2 workers", "nbp balanced:2 3 workers", "nbp balanced:x 2 workers",
     "nbp 9 workers", "nbp 0 workers", "", "bp_ddp 7 threads", "nbp_early_ddp"],
)  # fmt: skip
def test_a_row_that_is_none_is_refused(params: Params, text: str) -> None:
    with pytest.raises(InputError, match=f"--rows: expected .* found '{text}'"):
        parallel.parsed(text, params)


@pytest.mark.parametrize(
    ("text", "threads", "workers"),
    [("nbp", 1, 1), ("nbp 2 threads", 2, 1), ("nbp 2 workers", 1, 2), ("nbp twice", 1, 1), ("bp_ddp", 1, 1)],
)
def test_a_row_has_its_own_workers_and_threads_whatever_the_parameter_file_says(
    params: Params, monkeypatch: pytest.MonkeyPatch, text: str, threads: int, workers: int
) -> None:
    seen: list[Params] = []

    def alone(own: Params, *_: object) -> dict[str, Any]:
        seen.append(own)
        return {"faces_per_second": 1.0, "peak_mib": [1.0]}

    monkeypatch.setattr(parallel, "timed_training", alone)
    monkeypatch.setattr(parallel, "side_by_side", lambda _, __, *rest: [alone(*rest)])
    changed = params.model_copy(update={"compute": replace(params.compute, workers=3, threads=2)})
    parallel.measured_row(changed, parallel.parsed(text, params), 4)
    assert [(one.compute.device, one.compute.threads, one.compute.workers) for one in seen] == [
        ("cpu", threads, workers)
    ]


def test_data_parallelism_wants_faces_enough_for_each_worker() -> None:
    small = parameters.load(ROOT / "params.yaml", SMALL | {"train.batch": 6})
    with pytest.raises(InputError, match="expected 4 faces of a batch or more for each worker, found 'nbp_ddp'"):
        parallel.parsed("nbp_ddp", small)


def killed() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_row_whose_process_is_killed_is_an_input_error() -> None:
    with pytest.raises(InputError, match="was killed; expected memory enough"):
        parallel.in_a_process(killed)


def test_processes_side_by_side_are_as_fast_as_their_slowest_one(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [{"faces_per_second": rate, "peak_mib": [1.0]} for rate in (300.0, 200.0)]
    monkeypatch.setattr(parallel, "side_by_side", lambda *_: found)
    assert parallel.measured_row(params, Row("nbp", None, 2, "twice"), 4)["faces_per_second"] == 400


@pytest.mark.parametrize(("average", "calls"), [(0.0, 0), (0.9, 5)])
def test_data_parallelism_averages_weights_where_the_trainer_does(
    params: Params, monkeypatch: pytest.MonkeyPatch, average: float, calls: int
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(parallel, "average", lambda *_: seen.append(None))
    own = params.model_copy(update={"train": replace(params.train, average=average)})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = torch.get_num_threads()
    parallel.data_parallel(0, 1, port, own, "bp", 2)
    torch.set_num_threads(threads)
    assert len(seen) == calls


def gradients(state: training.State, step: Callable[[], object]) -> list[torch.Tensor]:
    """What the optimisers find when a step ends."""
    found: list[torch.Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
        found.extend(p.grad.clone() for p in optimizer.param_groups[0]["params"] if p.grad is not None)

    for learner in state.learners:
        learner.own_optimizer.register_step_pre_hook(keep)
    step()
    return found


@pytest.mark.parametrize("name", ["bp", "nbp", "deep_supervision"])
def test_losses_of_data_parallelism_have_the_gradients_of_a_step_of_the_method(params: Params, name: str) -> None:
    method, faces = params.methods[name], parallel.random_faces(params, 1)
    images, labels = data.images(faces.pixels[:8], params.model.input_size), faces.labels[:8]
    recipe = replace(params.train.recipe, label_smoothing=0.1)
    one, two = (sessions.first_state(params.model, method, recipe, 0, torch.device("cpu")) for _ in range(2))

    def summed() -> None:
        parallel.SummedLoss(two, method)(images, labels).backward()
        for learner in two.learners:
            learner.own_optimizer.step()

    for state in (one, two):
        state.network.train()
    rates = [0.01] * len(one.learners)
    expected = gradients(one, lambda: training.train_step(one, method, images, labels, rates))
    assert len(expected) > 20
    torch.testing.assert_close(gradients(two, summed), expected)


def test_a_row_is_its_median_round_and_keeps_the_speed_of_all() -> None:
    rounds = [{"faces_per_second": rate, "step_ms": 1 / rate} for rate in (3.0, 1.0, 2.0, 9.0)]
    rates = [3.0, 1.0, 2.0, 9.0]
    assert parallel.median(rounds) == {"faces_per_second": 2.0, "step_ms": 0.5, "rounds": rates}
    assert parallel.median(rounds[:1]) == rounds[0] | {"rounds": [3.0]}


def test_rows_take_turns_and_stand_in_the_file_with_their_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, rates = [], iter([100.0, 50.0, 120.0, 70.0, 110.0, 60.0])

    def in_a_process(_: object, __: Params, row: Row, steps: int) -> dict[str, Any]:
        order.append((row.method, steps))
        return {"faces_per_second": next(rates)}

    monkeypatch.setattr(parallel, "in_a_process", in_a_process)
    out = tmp_path / "found.json"
    words = ["--rows", "bp", "nbp_ddp", "--steps", "7", "--params", str(ROOT / "params.yaml"), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["parallel", *words])
    written = []
    write_json = parallel.write_json
    monkeypatch.setattr(parallel, "write_json", lambda *what: written.append(what) or write_json(*what))
    parallel.main()
    assert [len(what["rows"][0]["rounds"]) for _, what in written] == [1, 2, 3]  # a kill loses no whole round
    assert order == [("bp", 7), ("nbp", 7)] * 3
    rows = json.loads(out.read_text())["rows"]
    assert [(row["row"], row["faces_per_second"], row["rounds"]) for row in rows] == [
        ("bp", 110.0, [100.0, 120.0, 110.0]), ("nbp_ddp", 60.0, [50.0, 70.0, 60.0]),
    ]  # fmt: skip


def history(method: str, seed: int, *accuracies: float) -> study.Outcome:
    table = pd.DataFrame([{"epoch": i, "step": 10 * i, "val/accuracy": a} for i, a in enumerate(accuracies, 1)])
    return study.Outcome("here", method, seed, table, {}, 1)


def test_steps_to_an_accuracy_are_the_first_that_have_it_in_the_mean_over_seeds() -> None:
    runs = [history("bp", 0, 0.1, 0.5, 0.6), history("bp", 1, 0.1, 0.3, 0.2), history("nbp", 0, 0.5, 0.4, 0.7)]
    runs += [history("nbp", 1, 0.1, 0.2, 0.3), history("nbp", 2, 0.9, 0.9, 0.9), history("eq4", 0, 0.1, 0.1, 0.1)]
    assert parallel.steps_to_accuracy(runs, 2) == {"bp": 20, "nbp": 20, "eq4": None}
    few = [history("bp", 0, 0.1, 0.5), history("bp", 1, 0.1, 0.5), history("nbp", 0, 0.5, 0.5)]
    assert parallel.steps_to_accuracy(few, 2) == {"bp": 20, "nbp": None}  # of which a seed is missing
    with pytest.raises(InputError, match="--after: expected an epoch of bp in the study, found 4"):
        parallel.steps_to_accuracy(runs, 4)


def test_steps_to_an_accuracy_do_not_depend_on_the_bits_that_stored_it() -> None:
    single = float(np.float32(2195 / 3589))
    runs = [history("bp", 0, 0.5, single), history("nbp", 0, 2195 / 3589, 0.5), history("eq4", 0, 2194 / 3589, 0.7)]
    assert parallel.steps_to_accuracy(runs, 2) == {"bp": 20, "nbp": 10, "eq4": 20}


def test_a_worker_that_fails_leaves_its_group_so_that_no_other_waits_for_it() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError, match="out of memory"), parallel.group(0, 1, port):
        assert torch.distributed.is_initialized()
        raise RuntimeError("out of memory")
    assert not torch.distributed.is_initialized()
