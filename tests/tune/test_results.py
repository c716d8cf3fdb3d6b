"""Tables of a sweep against means written out by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench import cost
from pipeline.page import sweeps as page
from tune import results, spaces
from tune.names import RATE
from tune.outcome import Outcome, Score, Summary
from tune.spaces import Sweep


def outcome(config: dict[str, Any], accuracies: list[float], status: str = "complete", test: float = 0.5) -> Outcome:
    """A trial with these validation accuracies per epoch."""
    history = [
        {
            "epoch": i,
            "step": 10 * i,
            "train/loss": 1.0,
            "train/accuracy": 0.5,
            "val/loss": 2.0,
            "val/accuracy": accuracy,
        }
        for i, accuracy in enumerate(accuracies, 1)
    ]
    places = [{"epoch": row["epoch"], "seconds": 1.0, "node": "n"} for row in history]
    best = int(np.argmax(accuracies)) + 1 if accuracies else 0
    scored = dict.fromkeys(results.TEST, test)
    score = Score(np.full((2, 7), 1 / 7, np.float32), 123, scored) if accuracies else None
    return Outcome(config, status, "" if status == "complete" else "why", Summary(history, best, places), score)


def sweep(name: str = "activation", *sets: str) -> Sweep:
    """One of the project's sweeps."""
    return spaces.read(Path(__file__).parents[2] / "params.yaml", name, list(sets), {}, None, 2)


def test_curves_are_means_and_deviations_over_seeds() -> None:
    outcomes = [
        outcome({"model.activation": "relu", "seed": 0}, [0.1, 0.4]),
        outcome({"model.activation": "relu", "seed": 1}, [0.3, 0.2]),
        outcome({"model.activation": "elu", "seed": 0}, [0.5]),
    ]
    table = results.curves(outcomes).set_index(["setting", "epoch"])
    assert table.index.tolist() == [("activation=relu", 1), ("activation=relu", 2), ("activation=elu", 1)]
    first = table.loc[("activation=relu", 1)]
    assert first["val/accuracy/mean"] == pytest.approx(0.2)
    assert first["val/accuracy/std"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert (first["val/accuracy/min"], first["val/accuracy/max"], first["n"]) == (0.1, 0.3, 2)
    assert np.isnan(table.loc[("activation=elu", 1), "val/accuracy/std"])


def test_a_trial_is_told_at_its_best_validation_epoch() -> None:
    row = results.trials([outcome({"seed": 0}, [0.1, 0.4, 0.3])]).iloc[0]
    assert (row["best_epoch"], row["val/accuracy"], row["epochs"]) == (2, 0.4, 3)


def test_the_tuned_rate_is_chosen_on_validation_and_never_one_with_a_failed_seed() -> None:
    at = {0.1: ([0.2, 0.3], "complete", 0.9), 0.2: ([0.4, 0.5], "complete", 0.1), 0.3: ([0.9], "diverged", 1.0)}
    outcomes = [
        outcome({"models": "ResNet-50", RATE: rate, "seed": seed}, accuracies, status if seed else "complete", test)
        for rate, (accuracies, status, test) in at.items()
        for seed in (0, 1)
    ]
    table = results.models(results.trials(outcomes), 0.1, {})
    assert table["rate"].tolist() == ["common", "tuned"]
    assert table[RATE].tolist() == [0.1, 0.2]
    assert table["test/accuracy/mean"].tolist() == pytest.approx([0.9, 0.1])
    assert table["parameters"].tolist() == [123, 123]
    assert results.models(results.trials(outcomes), 0.3, {})["failed"].tolist() == [1, 0]


def test_of_equally_good_rates_the_smallest_is_tuned() -> None:
    outcomes = [outcome({"models": "AlexNet", RATE: rate, "seed": 0}, [0.4]) for rate in (10.0, 0.2, 9.0)]
    assert results.models(results.trials(outcomes), 10.0, {})[RATE].tolist() == [10.0, 0.2]


def test_a_network_that_failed_everywhere_still_has_its_two_rows() -> None:
    outcomes = [outcome({"models": "AlexNet", RATE: rate, "seed": 0}, [], "diverged") for rate in (0.1, 0.2)]
    table = results.models(results.trials(outcomes), 0.1, {})
    assert table["failed"].tolist() == [1, 0]
    assert table["val/accuracy/mean"].isna().all()


def test_the_tables_are_the_same_bytes_twice_and_metrics_are_strict_json(tmp_path: Path) -> None:
    outcomes = [
        outcome({"model.activation": "relu", "seed": 0}, [0.1, 0.4]),
        outcome({"model.activation": "relu", "seed": 1}, [], "diverged"),
        outcome({"model.activation": "elu", "seed": 0}, [0.1], "failed"),
    ]
    for name in ("a", "b"):
        results.write(tmp_path / name, sweep(), {"sweep": "activation"}, outcomes)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["curves.csv", "epochs.csv", "metrics.json", "sweep.json", "timing.csv", "trials.csv"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    metrics = json.loads((tmp_path / "a/metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["trials"] == {"complete": 1, "diverged": 1, "failed": 1}
    assert metrics["activation=relu"]["val"] == {"n": 1, "accuracy": 0.4}
    trials = pd.read_csv(tmp_path / "a/trials.csv")
    assert trials["trial"].tolist() == ["activation=relu_seed=0", "activation=relu_seed=1", "activation=elu_seed=0"]
    assert len(pd.read_csv(tmp_path / "a/epochs.csv")) == 3


def test_a_sweep_of_failures_alone_still_writes_every_table(tmp_path: Path) -> None:
    results.write(tmp_path, sweep(), {}, [outcome({"model.activation": "relu", "seed": 0}, [], "diverged")])
    for name in ("epochs", "curves", "timing", "trials"):
        assert "model.activation" in pd.read_csv(tmp_path / f"{name}.csv").columns


def test_values_that_are_lists_or_mappings_stand_as_json_in_a_cell(tmp_path: Path) -> None:
    one = outcome({"methods.nbp.units": ["block1"], "seed": 0}, [0.5])
    results.write(tmp_path, sweep("x", "methods.nbp.units=[block1],layer"), {}, [one])
    assert pd.read_csv(tmp_path / "curves.csv")["methods.nbp.units"].tolist() == ['["block1"]']


def test_numbers_of_one_axis_keep_their_own_form_and_their_one_name_everywhere(tmp_path: Path) -> None:
    axis = "methods.nbp.local_loss.hsic.beta"
    own = sweep("beta", f"{axis}=1,10.5")
    outcomes = [outcome(config, [0.5]) for config in spaces.configs(own)]
    results.write(tmp_path, own, {}, outcomes)
    settings = ["beta=1", "beta=10.5"]
    assert set(json.loads((tmp_path / "metrics.json").read_text())) == {*settings, "trials"}
    assert pd.read_csv(tmp_path / "curves.csv")["setting"].tolist() == settings
    assert pd.read_csv(tmp_path / "trials.csv", dtype=str)[axis].tolist() == ["1", "1", "10.5", "10.5"]
    assert all(name in results.table(outcomes) for name in settings)


def test_null_is_a_value_like_any_other(tmp_path: Path) -> None:
    outcomes = [outcome({"a.b": value, "seed": 0}, [0.5]) for value in (None, "relu", [1, None])]
    results.write(tmp_path, sweep(), {}, outcomes)
    trials = pd.read_csv(tmp_path / "trials.csv", keep_default_na=False)
    assert trials["a.b"].tolist() == ["null", "relu", "[1, null]"]
    assert pd.read_csv(tmp_path / "curves.csv")["setting"].tolist() == ["b=null", "b=relu", "b=[1, null]"]


def test_the_table_marks_the_best_setting_and_trials_that_were_stopped_or_collapsed() -> None:
    outcomes = [
        outcome({"a.b": 1, "seed": 0}, [0.1, 0.4]),
        outcome({"a.b": 1, "seed": 1}, [0.5], "stopped"),
        outcome({"a.b": 2, "seed": 0}, [0.9], "complete"),
    ]
    telling, lost = (Score(np.eye(7, dtype=np.float32), 1, None, collapsed=worth) for worth in (False, True))
    scores = (telling, telling, lost)
    lines = results.table([one._replace(score=own) for one, own in zip(outcomes, scores, strict=True)]).splitlines()
    assert lines[0].startswith("val/accuracy") and lines[1].split() == ["trials", "mean", "sd", "note"]
    assert lines[2].split() == ["b=1", "2", "0.4500", "0.0707", "1", "stopped"]
    assert lines[3].split() == ["b=2", "1", "0.9000", "-", "best,", "1", "collapsed"]


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_setting_that_failed_with_a_seed_is_not_the_best(status: str) -> None:
    outcomes = [
        outcome({"a.b": 1, "seed": 0}, [0.6]),
        outcome({"a.b": 2, "seed": 0}, [0.65], status),
        outcome({"a.b": 2, "seed": 1}, [0.7]),
    ]
    assert [line.split()[-1] for line in results.table(outcomes).splitlines()[2:]] == ["best", status]


def test_a_sweep_without_a_complete_epoch_has_a_table_and_no_best_setting() -> None:
    lines = results.table([outcome({"a.b": value, "seed": 0}, [], "diverged") for value in (1, 2)]).splitlines()
    assert [line.split() for line in lines[2:]] == [[f"b={i}", "0", "-", "-", "1", "diverged"] for i in (1, 2)]


def test_networks_at_rates_of_an_earlier_sweep_have_one_row_each_on_the_page_too(tmp_path: Path) -> None:
    networks = sweep("models").models
    tuned = pd.DataFrame([{"models": name, "rate": "tuned", RATE: 0.1 * n} for n, name in enumerate(networks, 1)])
    tuned.to_csv(tmp_path / "rates.csv")
    own = spaces.with_rates(sweep("models"), tmp_path / "rates.csv")
    outcomes = [outcome(config, [0.4]) for config in spaces.configs(own)]
    results.write(tmp_path / "models", own, spaces.specification(own, "grid", 0) | {"data": {}}, outcomes)
    table = pd.read_csv(tmp_path / "models/models.csv")
    assert table["rate"].eq("tuned").all() and table["models"].tolist() == list(networks)
    assert table[RATE].tolist() == pytest.approx(tuned[RATE].tolist()) and table["n"].eq(own.seeds).all()
    (read,) = page.read(tmp_path, tmp_path, tmp_path)
    rows = page.network_table(read).rows
    assert [" ".join(row[:2]) for row in rows[:2]] == ["CFPN-NBP tuned: 0.1", "CFPN-BP tuned: 0.2"]
    assert len(rows) == len(networks)


def test_the_report_reads_the_tables_and_those_of_the_costs(tmp_path: Path) -> None:
    for name in ("activation", "models"):
        own = spaces.with_common_rate(sweep(name))
        outcomes = [outcome(config, [0.1, 0.4]) for config in spaces.configs(own)]
        results.write(tmp_path / name, own, spaces.specification(own, "grid", 0) | {"data": {}}, outcomes)
    measured = {"parameters": 123, "multiply_adds": 9, "step_ms": 1.5, "step_ratio": 1.0, "peak_mib": 2.5}
    measured |= {"input_size": 64, "batch": 8, "rounds": 3, "device": "CPU", "threads": 1}
    cost.write(tmp_path / "models", pd.DataFrame([{"models": name} | measured for name in own.models]))
    activation, networks = page.read(tmp_path, tmp_path, tmp_path)
    assert activation.axes == ["model.activation"] and networks.axes == ["models", RATE]
    rows = [" ".join(row) for row in page.setting_table(activation).rows]
    assert rows == [f"{name} 40.0 ± 0.0 2 complete" for name in ("relu", "tanh", "elu")]
    rows = [" ".join(row) for row in page.network_table(networks).rows]
    assert rows[0] == "CFPN-NBP common: 0.01 40.0 ± 0.0 50.0 ± 0.0 50.0 ± 0.0 1.5 1.00 123 9 2.5"
    assert len(rows) == 2 * len(own.models)


def test_networks_and_metrics_have_the_sample_deviation_over_seeds() -> None:
    outcomes = [
        outcome({"models": "AlexNet", RATE: 0.1, "seed": seed}, [validation], test=test)
        for seed, (validation, test) in enumerate([(0.4, 0.1), (0.6, 0.5)])
    ]
    row = results.models(results.trials(outcomes), 0.1, {}).iloc[0]
    assert (row["val/accuracy/std"], row["test/accuracy/std"]) == pytest.approx((0.02**0.5, 0.08**0.5))
    _, own = results.metrics(outcomes).values()
    assert own["test"] == pytest.approx({"n": 2, "accuracy": 0.3, "std": 0.08**0.5})
    assert own["val"] == pytest.approx({"n": 2, "accuracy": 0.5, "std": 0.02**0.5})
