"""Claims about bench/parallel.py: what it measures, not how fast anything is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import parallel
from bench.parallel import Row
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError
from pipeline.runs import study

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"model.width": 16, "model.input_size": 16, "model.layers": 1, "model.pyramids": 1, "train.batch": 8}


@pytest.fixture
def params() -> Params:
    return parameters.load(ROOT / "params.yaml", SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "processes"), [("bp", 1), ("bp 2 threads", 1), ("deep_supervision_ddp", 2), ("nbp balanced:3 twice", 2)]
)
def test_every_way_to_use_the_cores_gives_faces_per_second_and_memory(params: Params, row: str, processes: int) -> None:
    found = parallel.in_a_process(parallel.measured, params, parallel.parsed(row, params), 4)
    assert found["faces_per_second"] > 0
    assert len(found["peak_mib"]) == processes and min(found["peak_mib"]) > 50


@pytest.mark.slow
def test_workers_say_how_long_they_are_busy_and_what_they_hand_on(params: Params) -> None:
    found = parallel.in_a_process(parallel.measured, params, parallel.parsed("nbp balanced:3 2 workers", params), 4)
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
        ("deep_supervision_ddp", Row("deep_supervision", None, 2, "ddp")),
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
    assert parallel.named(parallel.parsed(row, params)) == name


@pytest.mark.parametrize(
    "text",
    ["sgd", "nbp 2", "nbp two workers", "nbp workers balanced:3", "nbp 2 cores", "nbp_ddp", "bp 2 workers",
     "deep_supervision 2 workers", "nbp balanced:2 3 workers", "nbp balanced:x 2 workers",
     "nbp 9 workers", "nbp 0 workers", "", "bp_ddp 7 threads"],
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

    monkeypatch.setattr(parallel, "alone", alone)
    monkeypatch.setattr(parallel, "together", lambda _, __, *rest: [alone(*rest)])
    changed = params.model_copy(update={"compute": replace(params.compute, workers=3, threads=2)})
    parallel.measured(changed, parallel.parsed(text, params), 4)
    assert [(one.compute.device, one.compute.threads, one.compute.workers) for one in seen] == [
        ("cpu", threads, workers)
    ]


def history(method: str, seed: int, *accuracies: float) -> study.Outcome:
    table = pd.DataFrame([{"epoch": i, "step": 10 * i, "val/accuracy": a} for i, a in enumerate(accuracies, 1)])
    return study.Outcome("here", method, seed, table, {}, 1)


def test_steps_to_an_accuracy_are_the_first_that_have_it_in_the_mean_over_seeds() -> None:
    runs = [history("bp", 0, 0.1, 0.5, 0.6), history("bp", 1, 0.1, 0.3, 0.2), history("nbp", 0, 0.5, 0.4, 0.7)]
    runs += [history("nbp", 1, 0.1, 0.2, 0.3), history("nbp", 2, 0.9, 0.9, 0.9), history("eq4", 0, 0.1, 0.1, 0.1)]
    assert parallel.reached(runs, 2) == {"bp": 20, "nbp": 20, "eq4": None}
    with pytest.raises(InputError, match="--after: expected an epoch of bp in the study, found 4"):
        parallel.reached(runs, 4)
