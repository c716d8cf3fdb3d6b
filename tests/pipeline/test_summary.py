"""The summary of runs: means over seeds, a line per method or unit, shares of predictions, runs put aside."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.runs.records import About, Data, Run
from pipeline.summary import CURVES, confusion, curve, metrics, put_aside, summary


def run(method: str, seed: int, accuracy: float) -> Run:
    about = About(method, seed, "sample", {}, Data("x", 320, True, ("sad", "happy")))
    columns = {"epoch": [1, 2], "val/accuracy": [0.1, accuracy], "val/loss": [2.0, 1.0]}
    units: dict[str, Any] = {} if method == "bp" else {"unit/block1/accuracy": [0.2, accuracy]}
    scores = {"accuracy": accuracy, "accuracy_without_copies": None, "macro_f1": 0.5}
    predictions = pd.DataFrame({"row": [0, 1, 2, 3], "label": [0, 0, 1, 1], "predicted": [0, 1, 1, 1]})
    history = pd.DataFrame(columns | units)
    return Run(Path(f"runs/{method}-{seed}"), about, history, {"val": {"accuracy": accuracy}}, {}, scores, predictions)


RUNS = [run("nbp", 0, 0.6), run("nbp", 1, 0.8), run("bp", 0, 0.5)]


def test_metrics_are_means_over_seeds_with_the_methods_in_their_order_and_the_faces_last() -> None:
    found = metrics(RUNS)
    assert list(found) == ["nbp", "bp", "training_faces"]
    assert found["nbp"] == {
        "accuracy": pytest.approx(0.7), "accuracy_without_copies": None, "macro_f1": 0.5,
        "val_accuracy": pytest.approx(0.7),
    }  # fmt: skip
    assert found["training_faces"] == 320


def test_a_curve_has_a_line_per_method_the_mean_over_seeds() -> None:
    found = curve(RUNS, *CURVES["val_accuracy"])
    assert list(found) == ["epoch", "setting", "value"]
    assert found.to_dict("records")[1] == {"epoch": 2, "setting": "nbp", "value": pytest.approx(0.7)}
    assert set(found["setting"]) == {"nbp", "bp"}


def test_units_have_a_line_each_and_a_method_without_hidden_units_has_none() -> None:
    assert set(curve(RUNS, *CURVES["unit_accuracy"])["setting"]) == {"nbp block1"}


def test_the_shares_of_a_label_add_up_to_one() -> None:
    found = confusion(RUNS)
    row = found[(found["setting"] == "bp") & (found["actual"] == "sad")]
    assert dict(zip(row["predicted"], row["share"], strict=True)) == {"happy": 0.5, "sad": 0.5}


def test_the_files_are_the_same_bytes_every_time_and_strict_json(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        summary(RUNS, tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")})
    assert written[0] == written[1]
    assert set(written[0]) == {"metrics.json", *(f"{name}.csv" for name in (*CURVES, "confusion"))}
    assert json.loads(written[0]["metrics.json"])


def test_folders_that_are_not_asked_for_move_aside_and_the_others_stay(tmp_path: Path) -> None:
    for name in ("runs/nbp-0", "runs/nbp-1", "former/nbp-1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(name)
    put_aside(tmp_path / "runs", {"nbp-0"}.__contains__, tmp_path / "former")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["nbp-0"]
    assert (tmp_path / "former/nbp-1/run.json").read_text() == "runs/nbp-1"
    assert (tmp_path / "former/nbp-1.1/run.json").read_text() == "former/nbp-1"
