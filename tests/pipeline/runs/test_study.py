"""A study's tables give back what runs gave them."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import params as parameters
from pipeline.metrics import NAMES
from pipeline.process import InputError, json_hash
from pipeline.runs import records, study
from pipeline.runs.study import FACES, NETWORK, Outcome

WriteRun = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[3]
RIGHT = tuple(i % 3 > 0 for i in range(37))


def outcomes(folder: Path) -> list[Outcome]:
    return [study.outcome(one) for one in records.read(folder / "runs", folder / "evaluations")]


def test_a_table_gives_back_the_runs_that_were_collected(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0, [0.1, 1 / 3], 2 / 3, RIGHT)
    write_run("nbp", 1, [0.1, 0.3], 0.7, RIGHT, units={"block1": 0.6, "rest": 0.65})
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    for one, other in zip(outcomes(tmp_path), study.read(tmp_path / "main.csv"), strict=True):
        assert (one.method, one.seed, one.best_epoch, one.split) == (
            other.method,
            other.seed,
            other.best_epoch,
            other.split,
        )
        assert (one.scores, one.conditions, one.validation) == (other.scores, other.conditions, other.validation)
        assert other.correct.tolist() == list(RIGHT)
        assert other.history[list(one.history)].equals(one.history)


def test_collecting_again_changes_no_bit_of_what_a_table_holds(write_run: WriteRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    write_run("bp", 0, random.random(50).tolist(), 2 / 3, RIGHT)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    before = (tmp_path / "main.csv").read_text().splitlines()
    write_run("nbp", 1, random.random(50).tolist(), 0.7, RIGHT)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path)[1:])
    after = (tmp_path / "main.csv").read_text().splitlines()
    assert [line for line in after if line.startswith("bp,")] == [line for line in before if line.startswith("bp,")]


def test_the_network_alone_is_the_last_unit_where_units_vote(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("nbp", 0, [0.1, 0.2], 0.7, units={"block1": 0.6, "rest": 0.65})
    history = pd.read_csv(run / "history.csv").assign(**{"unit/rest/accuracy": [0.05, 0.15]})
    history.to_csv(run / "history.csv", index=False)
    write_run("bp", 0, [0.1, 0.2], 0.6)
    bp, nbp = outcomes(tmp_path)
    assert (bp.scores[NETWORK], nbp.scores[NETWORK]) == (0.6, 0.65)
    assert bp.history[f"val/{NETWORK}"].tolist() == [0.1, 0.2]
    assert nbp.history[f"val/{NETWORK}"].tolist() == [0.05, 0.15]


def test_a_table_keeps_its_runs_and_gains_new_ones(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    write_run("nbp", 0)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    assert [one.method for one in study.read(tmp_path / "main.csv")] == ["bp", "nbp"]
    assert pd.read_csv(tmp_path / "main-faces.csv")["method"].tolist() == ["bp", "nbp"]


def test_a_run_found_again_replaces_all_its_rows(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    for folder in ("runs", "evaluations"):
        (tmp_path / folder).rename(tmp_path / f"old {folder}")
    write_run("bp", 0, [0.5, 0.6], 0.9, (True, True))
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (one,) = study.read(tmp_path / "main.csv")
    assert (len(one.history), one.scores["accuracy"], one.correct.tolist()) == (2, 0.9, [True, True])


def test_the_same_runs_give_the_same_bytes(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0, [1 / 3, 1 / 7, 0.1 + 0.2])
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    before = [(tmp_path / name).read_bytes() for name in ("main.csv", "main-faces.csv")]
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    assert [(tmp_path / name).read_bytes() for name in ("main.csv", "main-faces.csv")] == before


def test_a_run_of_an_older_table_has_neither_faces_nor_conditions(tmp_path: Path) -> None:
    row = {"method": "bp", "seed": 0, "epoch": 1, "step": 9, "val/accuracy": 0.5, "best_epoch": 1, "test/accuracy": 0.5}
    pd.DataFrame([row]).to_csv(tmp_path / "old.csv", index=False)
    (one,) = study.read(tmp_path / "old.csv")
    assert (one.correct, one.conditions, one.scores["macro_f1"], one.scores[FACES]) == (None, "", None, None)


def test_a_history_of_hundreds_of_columns_is_collected_whole_and_without_a_warning(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run("bp", 0) / "history.csv"
    wide = pd.DataFrame({f"block/block{i}/gradient_norm": [float(i)] * 4 for i in range(300)})
    pd.concat([pd.read_csv(path), wide], axis=1).to_csv(path, index=False)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (one,) = study.read(tmp_path / "main.csv")
    assert one.history[list(wide)].equals(wide)


def test_runs_scored_on_other_faces_or_under_other_conditions_do_not_enter_a_table(
    write_run: WriteRun, tmp_path: Path
) -> None:
    write_run("bp", 0)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    before = (tmp_path / "main.csv").read_bytes()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    write_run("nbp", 0, correct=(True, True, False))
    with pytest.raises(InputError, match=r"bp, seed 0 and .*nbp 0: the test faces differ"):
        study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (tmp_path / "runs").rename(tmp_path / "and there")
    write_run("eq4", 0, about={"profile": "paper"})
    with pytest.raises(InputError, match="data or parameters differ"):
        study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    assert (tmp_path / "main.csv").read_bytes() == before


@pytest.mark.parametrize("column", ["row", "label"])
def test_as_many_other_faces_are_other_faces(write_run: WriteRun, tmp_path: Path, column: str) -> None:
    write_run("bp", 0)
    write_run("nbp", 0)
    path = tmp_path / "evaluations/nbp 0/predictions.parquet"
    table = pd.read_parquet(path)
    table.assign(**{column: table[column] + 1}).to_parquet(path)
    found = outcomes(tmp_path)
    with pytest.raises(InputError, match="the test faces differ"):
        study.check_alike(found)


def test_numbers_of_faces_tell_other_faces_where_no_predictions_are_stored(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0)
    write_run("nbp", 0)
    old = [replace(one, split="", scores=one.scores | {FACES: n}) for n, one in enumerate(outcomes(tmp_path), 1)]
    with pytest.raises(InputError, match="number of test faces differ"):
        study.check_alike(old)


def test_what_blocks_know_stands_in_the_shortest_digits_of_its_32_bits_and_accuracies_in_all(
    write_run: WriteRun, tmp_path: Path
) -> None:
    path = write_run("bp", 0, [1 / 3, 0.5]) / "history.csv"
    exact = float(np.float32(0.1))
    pd.read_csv(path).assign(**{"block/block1/cka_label": exact}).to_csv(path, index=False)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (one,) = study.read(tmp_path / "main.csv")
    assert one.history["block/block1/cka_label"].tolist() == [0.1, 0.1]
    assert np.float32(0.1) == np.float32(exact) and exact != 0.1
    assert one.history["val/accuracy"].tolist() == [1 / 3, 0.5]


def test_seeds_of_a_method_with_other_parameters_of_its_own_do_not_enter_a_table(
    write_run: WriteRun, tmp_path: Path
) -> None:
    write_run("nbp", 0)
    write_run("bp", 0)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    own = json.loads((tmp_path / "elsewhere/nbp 0/run.json").read_text())["parameters"]
    write_run("nbp", 1, about={"parameters": own | {"method": {"units": "layer"}}})
    with pytest.raises(InputError, match=r"nbp, seed 0 and .*nbp 1: parameters of nbp differ"):
        study.collect(tmp_path / "main.csv", outcomes(tmp_path))


def test_a_run_that_looked_at_mirror_images_too_has_a_name_of_its_own(write_run: WriteRun, tmp_path: Path) -> None:
    path = tmp_path / "evaluations" / write_run("nbp", 0).name / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"looks": 2}))
    assert [one.method for one in outcomes(tmp_path)] == ["nbp_mirror"]


def test_blocks_are_described_once_where_a_network_looks_once_and_twice(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("nbp", 0)
    history = pd.read_csv(run / "history.csv").assign(**{"block/block1/probe": 0.3, "unit/block1/accuracy": 0.2})
    history.to_csv(run / "history.csv", index=False)
    once = outcomes(tmp_path)
    path = tmp_path / "evaluations" / run.name / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"looks": 2}))
    study.collect(tmp_path / "main.csv", [*once, *outcomes(tmp_path)])
    plain, mirrored = (one.history for one in study.read(tmp_path / "main.csv"))
    assert plain["block/block1/probe"].tolist() == [0.3] * 4
    assert mirrored["block/block1/probe"].isna().all()
    assert mirrored["unit/block1/accuracy"].tolist() == [0.2] * 4


def test_new_runs_still_stand_beside_those_of_the_tracked_study() -> None:
    params = parameters.load(ROOT / "params.yaml", {"profile": "fer2013-cpu"})
    shared = {"model": asdict(params.model), "train": asdict(params.train)}
    about = records.About("bp", 0, params.profile, shared, records.Data("3ef50abc145dadae", 28709, False, ()))
    kept = {one.conditions for one in study.read(ROOT / "docs/study/main.csv")} - {""}
    assert kept == {json_hash(records.conditions(about))}


def test_a_parameter_that_older_runs_lack_tells_runs_apart_where_it_changes_something() -> None:
    def one(**train: object) -> dict[str, object]:
        shared = {"train": {"epochs": 1} | train}
        return records.conditions(records.About("bp", 0, "p", shared, records.Data("f", 4, True, ())))

    for name, same, other in [
        ("wrong_labels", 0.0, 0.2),
        ("label_smoothing", 0.0, 0.1),
        ("augmentation", {"erasing": 0.0}, {"erasing": 0.5}),
        ("optimizer", {"name": "adam", "weight_decay": 0.0}, {"name": "sgd", "weight_decay": 0.0}),
        ("optimizer", {"name": "adam", "weight_decay": 0.0}, {"name": "adam", "weight_decay": 1e-4}),
    ]:
        assert one() == one(**{name: same}) != one(**{name: other})


def test_an_evaluation_without_accuracy_is_an_input_error(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "evaluations" / write_run("bp", 0).name / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="no accuracy or no test_faces"):
        outcomes(tmp_path)


def test_a_missing_or_foreign_table_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such study"):
        study.read(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column method"):
        study.read(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("main.csv", "", None, "no table"),
        ("main.csv", ",0.5,", ",,", "line 2: test/accuracy: expected a number, found nan"),
        ("main.csv", ",0.5,", ",half,", "line 2: test/accuracy: expected a number, found half"),
        ("main.csv", "bp,0,1,", ",0,1,", "line 2: method: expected a name, found nan"),
        ("main.csv", "bp,0,1,", "bp,0,9,", "bp, seed 0: best_epoch is 1; expected one of its epochs"),
        ("main-faces.csv", "correct", "right", "no column correct"),
        ("main-faces.csv", "", None, "no table"),
        ("main-faces.csv", "gA==", "", "expected a number of faces and their bits"),
        ("main-faces.csv", "gA==", "gA=", "expected a number of faces and their bits"),
        ("main-faces.csv", "gA==", "gAA=", "16 bits for 2 faces; expected one bit for each test face"),
        ("main-faces.csv", ",2,gA==", ",3,gA==", "8 bits for 3 faces; expected one bit for each test face"),
    ],
)
def test_a_damaged_table_is_an_input_error(
    write_run: WriteRun, tmp_path: Path, file: str, old: str, new: str | None, said: str
) -> None:
    write_run("bp", 0, test=0.5)
    study.collect(tmp_path / "main.csv", outcomes(tmp_path))
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text("" if new is None else text.replace(old, new))
    with pytest.raises(InputError, match=said):
        study.read(tmp_path / "main.csv")


def test_metrics_without_a_best_epoch_are_an_input_error(write_run: WriteRun, tmp_path: Path) -> None:
    (write_run("bp", 0) / "metrics.json").write_text('{"epochs": 4}')
    with pytest.raises(InputError, match="no best_epoch"):
        outcomes(tmp_path)


def test_the_tracked_studies_hold_whole_runs_on_equal_faces() -> None:
    folder = Path(__file__).parents[3] / "docs/study"
    for faces in folder.glob("*-faces.csv"):
        runs = study.read(faces.with_name(faces.name.replace("-faces", "")))
        assert all(one.correct is None or one.correct.mean() == pytest.approx(one.scores["accuracy"]) for one in runs)
    tables = [path for path in folder.glob("*.csv") if path.read_text().startswith("method,seed,epoch,")]
    assert {"longer", "main", "partition", "plain", "sample", "weights", "width48"} < {path.stem for path in tables}
    columns = {name for path in tables for name in pd.read_csv(path, nrows=0)}
    metrics = [name for name in NAMES if f"test/{name}" in columns]  # a new one is in no tracked study
    assert len(metrics) >= 5
    for path in tables:
        runs = study.read(path)
        study.check_alike(runs)
        (epochs,) = {len(one.history) for one in runs}
        assert all(one.history["epoch"].tolist() == list(range(1, epochs + 1)) for one in runs)
        assert all(
            one.scores[metric] is not None and np.isfinite(one.scores[metric]) for one in runs for metric in metrics
        )
