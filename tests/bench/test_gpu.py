import csv
import io
import json
import multiprocessing
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bench.gpu import __main__ as gpu
from bench.gpu import crew, data, measure, plan, train
from bench.gpu.crew import Crew, Worker
from bench.gpu.plan import Cell, Plan, Training
from cfpn import checkpoint, load, predict, schema
from cfpn.faces import Faces
from cfpn.heads import ClassMeans, LinearClassifier
from cfpn.hsic import Kernel
from cfpn.learner import DivergedError
from cfpn.network import CFPN
from cfpn.objectives import SimilarityMatching
from cfpn.recipe import Recipe
from cfpn.training import Method
from pipeline.process import InputError, only_one
from pipeline.runs.session import first_state

ROOT = Path(__file__).parents[2]
SMALL = CFPN(input_size=32, width=16, layers=1, pyramids=1)
CPU = torch.device("cpu")
BUSY = 1200.0  # seconds in which even a crowded machine measures and trains all of a tiny plan


@pytest.mark.parametrize("part", [*get_args(Kernel), SimilarityMatching, LinearClassifier, ClassMeans])
def test_a_plan_can_hold_every_part_of_a_local_loss(part: type) -> None:
    assert plan.decoded(json.loads(json.dumps(plan.encoded(part())))) == part()


def task(name: str = "bp", epochs: int = 3, **fields: Any) -> Training:  # noqa: ANN401
    return Training(name, SMALL, Method(**({"units": "network"} | fields)), Recipe(epochs, 8, average=0.9), 0)


def some(count: int, seed: int) -> Faces:
    random = np.random.default_rng(seed)
    labels = torch.arange(count) % 7
    return Faces(torch.from_numpy(random.integers(0, 255, (count, 1, 48, 48)).astype(np.uint8)), labels, labels)


@pytest.fixture
def faces() -> dict[str, Faces]:
    return {"train": some(20, 0), "val": some(9, 1), "test": some(9, 2)}


@pytest.fixture
def splits(tmp_path: Path, faces: dict[str, Faces]) -> Path:
    (tmp_path / "splits").mkdir()
    for name, own in faces.items():
        arrays = (own.pixels.numpy(), own.labels.numpy(), own.rows.numpy())
        schema.write(tmp_path / "splits" / f"{name}.parquet", *arrays, schema.Description())
    return tmp_path / "splits"


@pytest.mark.parametrize(("name", "value"), [("limit", 500), ("wrong_labels", 0.2)])
def test_a_plan_does_not_leave_out_what_it_cannot_hold(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = plan.OUTLINES["tiny"]
    monkeypatch.setitem(plan.OUTLINES, "tiny", replace(own, changes=own.changes | {f"train.{name}": value}))
    with pytest.raises(InputError, match=rf"train\.{name}: a plan is of all faces with their own labels"):
        plan.outlined("tiny", ROOT / "params.yaml")


def test_a_plan_for_photographs_refuses_drawn_faces(tmp_path: Path, faces: dict[str, Faces]) -> None:
    for name, own in faces.items():
        arrays = (own.pixels.numpy(), own.labels.numpy(), own.rows.numpy())
        schema.write(tmp_path / f"{name}.parquet", *arrays, schema.Description(drawn=True))
    what = Plan("small", (task("bp"),), (), photographs=True)
    with pytest.raises(InputError, match="drawn faces, but the plan small is for photographs"):
        gpu.carry_out(what, tmp_path, tmp_path / "out", time.time() + 300, at_once=1)
    assert [plan.outlined(name, ROOT / "params.yaml").photographs for name in ("strong", "tiny")] == [True, False]


@pytest.mark.parametrize("name", plan.OUTLINES)
def test_a_plan_read_back_is_the_plan_that_was_written(tmp_path: Path, name: str) -> None:
    written = plan.outlined(name, ROOT / "params.yaml")
    plan.write(written, tmp_path / "plan.json")
    assert plan.read(tmp_path / "plan.json") == written
    assert written.trainings


@pytest.mark.parametrize("text", ["{", "[]", '{"is": "Plan"}', '{"is": "Popen"}', '{"is": "CFPN"}'])
def test_another_file_than_a_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=r"plan\.json: .*expected a plan that --write-plan wrote"):
        plan.read(tmp_path / "plan.json")


def test_more_runs_than_files_that_may_come_back_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 7"):
        Plan("many", tuple(task(str(i)) for i in range(8)), ())


def test_jpegs_are_read_into_the_split_that_their_usage_names(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (6, 48, 48)).astype(np.uint8)
    jpegs = [io.BytesIO() for _ in pictures]
    for picture, file in zip(pictures, jpegs, strict=True):
        Image.fromarray(picture).save(file, "jpeg", quality=100)
    usage = ["Training", "PublicTest", "PrivateTest"] * 2
    columns = {"usage": usage, "emotion": list(range(6)), "jpeg": [file.getvalue() for file in jpegs]}
    pq.write_table(pa.table(columns), tmp_path / "faces.parquet")
    found = data.load(tmp_path / "faces.parquet")
    assert {name: own.labels.tolist() for name, own in found.items()} == {
        "train": [0, 3],
        "val": [1, 4],
        "test": [2, 5],
    }
    assert (found["val"].pixels[1, 0].int() - torch.from_numpy(pictures[4]).int()).abs().max() <= 3


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "faces.parquet").write_text("faces")
    for path in (tmp_path / "faces.parquet", tmp_path, tmp_path / "missing.parquet"):
        with pytest.raises(InputError, match="expected a folder of splits, or a Parquet file with"):
            data.load(path)


def test_a_training_that_ran_out_of_time_goes_on_to_the_weights_of_one_that_did_not(
    tmp_path: Path, faces: dict[str, Faces]
) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    how = task(epochs=3, units=["block1", "block2"], vote=True)
    whole = list(train.Run(how, 3, tmp_path / "whole", CPU).rows(faces, time.time() + 999))
    cut = next(train.Run(how, 3, tmp_path / "cut", CPU).rows(faces, time.time() + 999))
    assert not train.finished(tmp_path / "cut/bp.safetensors")
    assert list(train.Run(how, 3, tmp_path / "cut", CPU).rows(faces, 0.0)) == []
    rest = list(train.Run(how, 3, tmp_path / "cut", CPU).rows(faces, time.time() + 999))
    assert train.finished(tmp_path / "cut/bp.safetensors")
    assert [without_seconds(row) for row in [cut, *rest]] == [without_seconds(row) for row in whole]
    found, expected = (checkpoint.read(tmp_path / folder / "bp.safetensors")[0] for folder in ("cut", "whole"))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_the_test_accuracy_is_that_of_the_weights_in_the_file(tmp_path: Path, faces: dict[str, Faces]) -> None:
    *_, last = train.Run(task(epochs=2), 2, tmp_path, CPU).rows(faces, time.time() + 999)
    named = predict(load(tmp_path / "bp.safetensors"), faces["test"].pixels).argmax(1)
    assert last["test/accuracy"] == (named == faces["test"].labels).double().mean().item()


@pytest.mark.parametrize(("at_once", "expected"), [(1, 8), (2, 16), (4, 32)])
def test_as_many_epochs_are_chosen_as_end_in_time(at_once: int, expected: int) -> None:
    class Crew:
        size = at_once

        def work(self, tasks: list[Any], _: float) -> Iterator[tuple[Training, dict[str, float]]]:
            yield from ((own, {"step_seconds": 0.1}) for _, own, *_ in tasks)

    tasks = [task(str(i), epochs=99) for i in range(4)]
    faces = 100 * tasks[0].recipe.batch  # 10 s an epoch and training
    deadline = time.time() + (expected + 0.5) * 4 * 10 * gpu.SPARE / at_once
    assert gpu.chosen(Crew(), tasks, faces, deadline) == expected  # type: ignore[arg-type]
    assert gpu.chosen(Crew(), tasks, faces, time.time()) == 1  # type: ignore[arg-type]


def test_a_step_is_measured_with_its_form_and_leaves_the_table_of_forms_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, seen, measured = dict(measure.separable.FORMS), [], measure.of_step

    def spy(cell: Cell, device: torch.device) -> dict[str, object]:
        seen.append(measure.separable.FORMS["cpu"])
        return measured(cell, device)

    monkeypatch.setattr(measure, "of_step", spy)
    row = measure.measured(Cell("bp", SMALL, Method(units="network"), 4, form="joined"), CPU)
    assert seen == [((float("inf"), "joined"),)]
    assert before == measure.separable.FORMS
    assert float(str(row["step_ms_low"])) <= float(str(row["step_ms"])) <= float(str(row["step_ms_high"]))


@pytest.mark.slow
def test_a_plan_runs_to_the_end_on_a_cpu_and_a_second_call_does_nothing_again(tmp_path: Path, splits: Path) -> None:
    nbp = task("nbp", epochs=2, units=["block1", "block2"], vote=True)
    cells = [Cell("bp", SMALL, Method(units="network"), 4, mode=mode) for mode in ("eager", "graph")]
    what = Plan("small", (nbp, task("bp", 2), task("deep", 2, units=["block1"], gradients="pass")), tuple(cells))
    gpu.carry_out(what, splits, tmp_path / "out", time.time() + BUSY, at_once=2)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["bp.safetensors", "deep.safetensors", "nbp.safetensors", "results.csv"]
    table = (tmp_path / "out/results.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(table)))
    assert sorted(row["kind"] for row in rows) == ["epoch"] * 6 + ["step"] * 2 + ["test"] * 3
    assert [row["failed"] for row in rows if row["kind"] == "step"] == ["", "graph needs CUDA"]
    assert {row["epochs"] for row in rows if row["kind"] != "step"} == {"2"}
    gpu.carry_out(what, splits, tmp_path / "out", time.time() + BUSY, at_once=2)
    assert (tmp_path / "out/results.csv").read_text() == table


@pytest.mark.slow
def test_a_training_whose_first_steps_fail_ends_the_plan_with_its_reason(tmp_path: Path, splits: Path) -> None:
    broken = replace(task("broken"), recipe=Recipe(batch=99))
    with pytest.raises(InputError, match=r"broken: ValueError: train\.batch: 99 is more than the 20"):
        gpu.carry_out(Plan("bad", (broken,), ()), splits, tmp_path / "out", time.time() + 300, at_once=1)


@pytest.mark.slow
def test_a_training_that_fails_later_leaves_its_reason_and_the_others_go_on(tmp_path: Path, splits: Path) -> None:
    table = tmp_path / "results.csv"
    table.write_text("kind,run,epochs\nepoch,earlier,1\n")  # so that nothing is probed
    what = Plan("bad", (replace(task("broken"), recipe=Recipe(batch=99)), task("bp")), ())
    with pytest.raises(DivergedError, match=r"broken: failed; .*results\.csv says why"):
        gpu.carry_out(what, splits, tmp_path, time.time() + 300, at_once=2)
    rows = {row["kind"]: row for row in csv.DictReader(io.StringIO(table.read_text()))}
    assert rows["failed"]["failed"].startswith("ValueError: train.batch: 99 is more than the 20")
    assert rows["test"]["run"] == "bp"


def test_the_rows_of_another_plan_are_refused(tmp_path: Path, splits: Path) -> None:
    (tmp_path / "results.csv").write_text("kind,run,epochs,plan_hash\nepoch,bp,1,abc\n")
    with pytest.raises(InputError, match=r"results\.csv: of another plan; name another folder by --out"):
        gpu.carry_out(Plan("small", (task("bp"),), ()), splits, tmp_path, time.time() + 300, at_once=1)


def test_the_rows_of_other_faces_are_refused(tmp_path: Path, splits: Path, faces: dict[str, Faces]) -> None:
    what = Plan("small", (task("bp"),), ())
    known = data.fingerprint(data.load(splits))
    assert known == data.fingerprint(data.load(splits))
    turned = {name: replace(one, pixels=one.pixels.flip(3)) for name, one in faces.items()}
    relabelled = {name: replace(one, labels=one.labels.flip(0)) for name, one in faces.items()}
    assert len({known, data.fingerprint(turned), data.fingerprint(relabelled)}) == 3
    (tmp_path / "results.csv").write_text("kind,run,epochs,faces\nepoch,bp,1,abc\n")
    with pytest.raises(InputError, match=r"results\.csv: of other faces; name another folder by --out"):
        gpu.carry_out(what, splits, tmp_path, time.time() + 300, at_once=1)


@pytest.mark.slow
def test_the_row_of_a_test_that_a_kill_kept_from_the_table_is_read_off_the_weights(
    tmp_path: Path, splits: Path
) -> None:
    what, out = Plan("small", (task("bp", 1),), ()), tmp_path / "out"
    gpu.carry_out(what, splits, out, time.time() + 300, at_once=1)
    *rows, last = (out / "results.csv").read_text().splitlines()
    (out / "results.csv").write_text("\n".join(rows) + "\n")
    gpu.carry_out(what, splits, out, time.time() + 300, at_once=1)
    (found,) = [row for row in gpu.Table(out / "results.csv").rows if row["kind"] == "test"]
    (known,) = csv.DictReader(io.StringIO(f"{rows[0]}\n{last}\n"))
    for name in ("run", "plan_hash", "test/accuracy", "best/val_accuracy", "test/faces"):
        assert found[name] == known[name] != ""


def test_half_an_answer_of_a_killed_process_is_its_failure(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    os.write(there.fileno(), struct.pack("!i", 99) + b"half")
    there.close()
    own, worker = Crew(1, tmp_path, tmp_path), Worker(Mock(exitcode=-9), here)
    own.owners[worker] = task()
    assert own.answer(worker) == {"failed": "its process died, exit code -9"}
    assert not own.owners


def test_after_a_step_by_which_its_process_dies_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [Cell(name, SMALL, Method(units="network"), 4) for name in ("first", "deadly", "last")]
    begun: list[list[Cell]] = []

    def started(_: object, left: list[Cell]) -> Worker:
        begun.append(list(left))
        here, there = multiprocessing.Pipe()
        for cell in left:
            if cell.name == "deadly" and len(begun) == 1:
                break
            there.send({"cell": cell.name})
        there.close()
        return Worker(Mock(exitcode=-11), here)

    monkeypatch.setattr(crew, "started", started)
    deadly = {"kind": "step", "cell": crew.title(cells[1]), "failed": "its process died, exit code -11"}
    assert [*crew.measurements(cells, time.time() + 60)] == [{"cell": "first"}, deadly, {"cell": "last"}]
    assert [[cell.name for cell in left] for left in begun] == [["first", "deadly", "last"], ["last"]]


@pytest.mark.slow
def test_tasks_that_no_process_is_left_for_are_told_as_failed(tmp_path: Path, splits: Path) -> None:
    tasks = [("train", task(name), 3, time.time() + 300) for name in ("first", "second")]
    with Crew(1, splits, tmp_path) as one:
        one.workers[0].process.kill()
        one.workers[0].process.join()
        rows = [(own.name, row) for own, row in one.work(tasks, time.time() + 300)]
    reason = {"failed": "all processes died before its turn"}
    assert rows == [("first", reason), ("second", reason)]


@pytest.mark.slow
def test_a_training_whose_process_dies_is_told_as_failed_at_once_and_the_others_go_on(
    tmp_path: Path, splits: Path
) -> None:
    begin = time.time()
    with Crew(2, splits, tmp_path) as two:
        rows = []
        tasks = [("train", replace(task("bp"), recipe=Recipe(10**6, 8)), 10**6, begin + 300),
                 ("train", task("short", 1), 1, begin + 300)]  # fmt: skip
        for name, row in ((one.name, row) for one, row in two.work(tasks, begin + 300)):
            rows.append((name, row))
            if name == "bp" and row.get("epoch") == 1:
                next(worker for worker, own in two.owners.items() if own.name == "bp").process.kill()
    assert time.time() < begin + 200
    assert [row["failed"] for name, row in rows if "failed" in row] == ["its process died, exit code -9"]
    assert any(name == "short" and "test/accuracy" in row for name, row in rows)


def test_it_imports_none_of_what_a_bare_gpu_machine_lacks() -> None:
    lacking = ("pydantic", "ray", "dvc", "dvclive", "wandb", "pandas", "yaml", "tqdm")
    code = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import bench.gpu.__main__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["eager", "graph", "compiled"])
@pytest.mark.parametrize("form", ["autograd", "joined", "map_by_map", "composed"])
def test_every_mode_and_form_of_a_step_runs_on_cuda(mode: str, form: str) -> None:
    cell = Cell("nbp", SMALL, Method(units=["block1"]), 8, "bfloat16", mode, form)
    assert float(str(measure.measured(cell, torch.device("cuda"))["peak_mib"])) > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_cuda_waits_for_nothing() -> None:
    cell = Cell("nbp", SMALL, Method(units=["block1"], vote=True), 8)
    device = torch.device("cuda")
    state = first_state(SMALL, cell.method, Recipe(batch=8), 0, device)
    step = measure.stepping(cell, state, device)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_at_once_on_the_same_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan.write(Plan("small", (task("bp"),), ()), tmp_path / "plan.json")
    words = ["bench.gpu", str(tmp_path / "plan.json"), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    with only_one(tmp_path / "out"), pytest.raises(InputError, match="another process is writing here"):
        gpu.main()
