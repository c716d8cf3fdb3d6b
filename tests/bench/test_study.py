"""Claims about bench/study.py."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench import study


def write(folder: Path, name: str, accuracies: list[float], test: float) -> None:
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "evaluations" / name).mkdir(parents=True)
    epochs = range(1, len(accuracies) + 1)
    history = pd.DataFrame({"epoch": epochs, "step": [10 * e for e in epochs], "val/accuracy": accuracies})
    history.to_csv(folder / "runs" / name / "history.csv", index=False)
    (folder / "runs" / name / "metrics.json").write_text(json.dumps({"best_epoch": 1}))
    scores = dict.fromkeys(study.SCORES, 0.5) | {"accuracy": test}
    (folder / "evaluations" / name / "metrics.json").write_text(json.dumps(scores))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "bp-0", [0.1, 0.2, 0.3, 0.4], 0.50)
    write(tmp_path, "bp-1", [0.1, 0.2, 0.3, 0.4], 0.52)
    write(tmp_path, "nbp-0", [0.3, 0.4, 0.5, 0.5], 0.56)
    write(tmp_path, "nbp-1", [0.3, 0.4, 0.5, 0.5], 0.54)
    write(tmp_path, "eq4-0", [0.1, 0.1, 0.1, 0.1], 0.25)
    write(tmp_path, "cka-0", [0.1, 0.1, 0.4, 0.3], 0.25)
    write(tmp_path, "cka-1", [0.1, 0.1, 0.1, 0.3], 0.25)
    return tmp_path


def gather(folder: Path) -> pd.DataFrame:
    return study.gathered(folder / "table.csv", folder / "runs", folder / "evaluations")


def test_a_method_is_compared_with_bp_of_the_same_seed(folder: Path) -> None:
    rows = study.compared(gather(folder), "bp").set_index("method")
    assert rows.loc["nbp", "difference"] == pytest.approx((0.06 + 0.02) / 2)
    assert rows.loc["nbp", "p"] == pytest.approx(stats.ttest_rel([0.56, 0.54], [0.50, 0.52]).pvalue)
    assert rows.loc["nbp", "accuracy sd"] == pytest.approx(np.std([0.56, 0.54], ddof=1))
    assert rows.loc["eq4", "difference"] == pytest.approx(-0.25)
    assert np.isnan(rows.loc["eq4", "p"])


def test_steps_are_counted_to_the_accuracy_that_bp_ends_with(folder: Path) -> None:
    rows = study.compared(gather(folder), "bp").set_index("method")
    assert (rows.loc["bp", "steps"], rows.loc["nbp", "steps"]) == (1.0, 0.5)
    assert np.isnan(rows.loc["eq4", "steps"])


def test_a_seed_that_never_gets_there_is_told_beside_the_steps_of_the_others(folder: Path) -> None:
    rows = study.compared(gather(folder), "bp").set_index("method")
    assert rows.loc["cka", ["steps", "reached", "paired"]].tolist() == [0.75, 1, 2]
    written = study.markdown(rows.reset_index())
    assert all(cell in written for cell in ("0.75 (1 of 2)", "0.50 (2 of 2)", "– (0 of 1)"))


def test_a_history_of_hundreds_of_columns_is_gathered_whole_and_without_a_warning(folder: Path) -> None:
    path = folder / "runs/nbp-0/history.csv"
    wide = pd.DataFrame({f"unit/block{i}/gradient_norm": [float(i)] * 4 for i in range(300)})
    pd.concat([pd.read_csv(path), wide], axis=1).to_csv(path, index=False)
    found = gather(folder).query("method == 'nbp' and seed == 0")
    assert found[list(wide)].to_numpy().tolist() == wide.to_numpy().tolist()


def test_the_network_alone_stands_beside_a_vote_of_its_units(folder: Path) -> None:
    for seed, accuracy in ((0, 0.48), (1, 0.50)):
        path = folder / f"runs/nbp-{seed}/history.csv"
        columns = {"unit/block1/accuracy": [0.9] * 4, "unit/rest/accuracy": [0.1, 0.2, 0.4, 0.4]}
        pd.read_csv(path).assign(**columns).to_csv(path, index=False)
        path = folder / f"evaluations/nbp-{seed}/metrics.json"
        units = {"accuracy_by_unit": {"block1": 0.9, "rest": accuracy}, "accuracy_of_vote": 0.6}
        path.write_text(json.dumps(json.loads(path.read_text()) | units))
    rows = study.compared(gather(folder), "bp").set_index("method")
    assert rows.loc["nbp", ["network", "network steps", "steps"]].tolist() == pytest.approx([0.49, 0.75, 0.5])
    assert rows.loc["bp", ["network", "network steps"]].tolist() == pytest.approx([0.51, 1.0])


def test_a_table_keeps_its_runs_and_gains_new_ones(folder: Path) -> None:
    gather(folder).to_csv(folder / "table.csv", index=False)
    (folder / "runs").rename(folder / "elsewhere")
    write(folder, "local_ce-0", [0.2], 0.4)
    table = gather(folder)
    assert set(table["method"]) == {"bp", "nbp", "eq4", "cka", "local_ce"}
    assert len(table) == 7 * 4 + 1


def test_an_unevaluated_run_is_left_out(folder: Path) -> None:
    (folder / "evaluations" / "nbp-1" / "metrics.json").unlink()
    table = gather(folder)
    assert set(table[table["method"] == "nbp"]["seed"]) == {0}


def test_the_figure_names_every_method_and_is_the_same_every_time(folder: Path) -> None:
    table = gather(folder).assign(**{"val/loss": 1.0})
    drawn = study.curves(table)
    assert drawn == study.curves(table)
    assert all(name in drawn.decode() for name in ("NBP", "BP", "eq4"))
