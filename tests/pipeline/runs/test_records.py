"""A run is what its run.json says."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from pipeline.process import InputError
from pipeline.runs import records
from pipeline.runs.records import Run, read_predictions

WriteRun = Callable[..., Path]


def read(folder: Path, **chosen: list) -> list[Run]:
    return records.read(folder / "runs", folder / "evaluations", **chosen)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_method_and_seed_come_from_run_json_whatever_the_folder_is_called(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("nbp", 3, folder="bp-0")
    (one,) = read(tmp_path)
    assert (one.method, one.seed, one.name) == ("nbp", 3, "bp-0")
    assert one.about.data.drawn
    assert one.scores["test_faces"] == len(one.predictions) == 2


def test_a_run_that_is_not_evaluated_has_neither_scores_nor_predictions(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "evaluations" / write_run("bp", 0).name / "metrics.json").unlink()
    (one,) = read(tmp_path)
    assert one.scores is one.predictions is None


def test_runs_come_in_the_order_asked_for_and_others_are_named(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, seed in (("bp", 1), ("nbp", 0), ("bp", 0), ("eq4", 0)):
        write_run(method, seed)
    found = read(tmp_path, methods=["nbp", "bp"], seeds=[0, 1])
    assert [(one.method, one.seed) for one in found] == [("nbp", 0), ("bp", 0), ("bp", 1)]
    assert "left out: eq4 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        (["nbp", "bq", "bp"], None, "no finished run of method bq, which was asked for"),
        (None, [0, 7, 8], "no finished run of seed 7, 8, which was asked for"),
        (["bp"], [1], "no finished run; expected folders"),
    ],
)
def test_a_method_or_seed_that_was_asked_for_and_has_no_run_is_an_error(
    write_run: WriteRun, tmp_path: Path, methods: list[str] | None, seeds: list[int] | None, message: str
) -> None:
    for method, seed in (("nbp", 0), ("nbp", 1), ("bp", 0)):
        write_run(method, seed)
    with pytest.raises(InputError, match=message):
        read(tmp_path, methods=methods, seeds=seeds)


def test_a_history_has_its_numbers_to_the_last_bit(write_run: WriteRun, tmp_path: Path) -> None:
    value = 1.3321952819824219  # which a fast reader of decimals takes for its neighbour
    run = write_run("bp", 0, [0.1, 0.2])
    lines = (run / "history.csv").read_text().splitlines()
    place = lines[0].split(",").index("val/accuracy")
    fields = lines[1].split(",")
    fields[place] = repr(value)
    (run / "history.csv").write_text("\n".join([lines[0], ",".join(fields), *lines[2:]]) + "\n")
    (one,) = read(tmp_path)
    assert one.history["val/accuracy"][0] == value


def test_a_folder_without_run_json_is_left_out_with_a_note(
    write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_run("bp", 0) / "run.json").unlink()
    write_run("nbp", 0)
    assert [one.method for one in read(tmp_path)] == ["nbp"]
    assert "no run.json in" in capsys.readouterr().err


def test_no_run_at_all_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no finished run; expected folders with run\.json"):
        read(tmp_path)


def test_two_runs_of_one_method_and_seed_are_refused_by_name(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("bp", 0, folder="one")
    write_run("bp", 0, folder="two")
    with pytest.raises(InputError, match=r"one and .*two: both are bp with seed 0"):
        read(tmp_path)


def test_an_evaluation_of_another_run_is_refused(write_run: WriteRun, tmp_path: Path) -> None:
    run = write_run("bp", 0)
    copied = tmp_path / "evaluations" / run.name / "run.json"
    copied.write_bytes((run / "run.json").read_bytes())
    assert read(tmp_path)
    edit(copied, seed=1)
    with pytest.raises(InputError, match="not the run in"):
        read(tmp_path)


COLUMNS = "epoch,step,val/accuracy\n"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "{}", r"run\.json: method: Field required"),
        ("run.json", "[", r"run\.json: file: Invalid JSON"),
        ("metrics.json", "[]", r"metrics\.json: expected a JSON object"),
        ("history.csv", "a,b\n1,2\n", r"history\.csv: no column epoch"),
        ("history.csv", f"{COLUMNS}1,5,0.3\n2,10,0.4\n", r"history\.csv: expected 4 epochs, .* found 2"),
        ("history.csv", f"{COLUMNS}1,5,0.3\n2,10,0.4\n3,15,0.", r"history\.csv: its last line is cut off"),
        ("history.csv", "", r"history\.csv: No columns"),
        (
            "history.csv",
            f"{COLUMNS}1,5,0.3\n2,10,0.4x\n",
            r"history\.csv: line 3: val/accuracy: .* number, found 0\.4x",
        ),
        ("history.csv", f"{COLUMNS}1,,0.3\n", r"history\.csv: line 2: step: expected a number, found nan"),
    ],
)
def test_a_damaged_file_is_named(write_run: WriteRun, tmp_path: Path, file: str, content: str, message: str) -> None:
    (write_run("bp", 0) / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_damaged_predictions_are_named(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "evaluations" / write_run("bp", 0).name / "predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"predictions\.parquet: .*expected the predictions"):
        read(tmp_path)


def test_predictions_with_any_byte_changed_are_read_or_named_in_one_line(tmp_path: Path) -> None:
    path, refused = tmp_path / "predictions.parquet", 0
    pd.DataFrame({"row": range(9), "label": 0, "predicted": 1}).to_parquet(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_predictions(path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert refused > 100


def test_missing_predictions_and_a_missing_column_are_named(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    with pytest.raises(InputError, match=r"predictions\.parquet: .*expected the predictions"):
        read_predictions(path)
    pd.DataFrame({"row": [1], "label": [0]}).to_parquet(path)
    with pytest.raises(InputError, match=r"predictions\.parquet: no column predicted, found row, label"):
        read_predictions(path)


DATA = {"fingerprint": "f", "faces": 4, "drawn": True, "classes": ["a", "b"]}
PARAMETERS = {"model": {"width": 32}, "train": {"epochs": 4}, "method": {"units": "block"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "paper"}, "profile is 'sample' and 'paper'"),
        ({"data": DATA | {"fingerprint": "g"}}, r"data\.fingerprint is 'f' and 'g'"),
        ({"data": DATA | {"drawn": False}}, r"data\.drawn is True and False"),
        ({"parameters": PARAMETERS | {"train": {"epochs": 5}}}, r"train\.epochs is 4 and 5"),
        ({"parameters": PARAMETERS | {"more": {"x": 1}}}, r"more\.x is None and 1"),
        ({"parameters": PARAMETERS | {"method": {"units": "layer"}}}, r"method\.units is 'block' and 'layer'"),
    ],
)
def test_runs_that_differ_in_data_or_parameters_are_refused_by_name(
    write_run: WriteRun, tmp_path: Path, change: dict, message: str
) -> None:
    write_run("nbp", 0)
    write_run("nbp", 1, about=change)
    with pytest.raises(InputError, match=rf"nbp 0 and .*nbp 1: {message}"):
        records.check_alike(read(tmp_path))


def test_a_score_of_two_looks_is_refused_where_single_looks_are_expected(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("nbp", 0)
    records.check_one_look(read(tmp_path))
    edit(tmp_path / "evaluations/nbp 0/metrics.json", looks=2)
    with pytest.raises(InputError, match="nbp 0: evaluated with --mirror"):
        records.check_one_look(read(tmp_path))


def test_methods_and_machines_may_differ(write_run: WriteRun, tmp_path: Path) -> None:
    write_run("nbp", 0)
    write_run("bp", 0, about={"device": "cuda", "threads": 4})
    records.check_alike(read(tmp_path))
