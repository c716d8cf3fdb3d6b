"""Claims about the train stage: what it writes, and that a killed run ends as an undisturbed one does."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from cfpn import schema
from cfpn.faces import load as load_split
from cfpn.faces import mislabelled
from pipeline import process
from pipeline import train as train_stage
from pipeline.runs import session as sessions

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "profiles/sample.yaml"
OUTPUTS = ("history.csv", "metrics.json", "model.safetensors", "run.json")


def write_split(path: Path, faces: int, seed: int, label: int | None = None) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, faces) if label is None else np.full(faces, label)
    pixels = [(random.integers(0, 60, 2304) + 25 * y).astype(np.uint8).tobytes() for y in labels]
    columns = {"pixels": pa.array(pixels, pa.binary(2304)), "label": pa.array(labels, pa.int8())}
    pq.write_table(pa.table(columns | {"row": pa.array(range(1, faces + 1), pa.int32())}), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    yaml = YAML(typ="safe", pure=True)
    for name in ("params.yaml", "methods.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    profile = yaml.load(ROOT / PROFILE)
    profile["model"] |= {"width": 16, "input_size": 16, "layers": 1, "pyramids": 1}
    profile["train"] |= {"faces": "original", "epochs": 4, "batch": 16}
    (tmp_path / "profiles").mkdir()
    yaml.dump(profile, tmp_path / PROFILE)
    splits = tmp_path / "data" / "splits"
    splits.mkdir(parents=True)
    write_split(splits / "train.parquet", 80, 0)
    write_split(splits / "val.parquet", 20, 1)
    return tmp_path


Train = Callable[..., "Result"]
ARGUMENTS = ["runs/nbp-0", "--method", "nbp", "--seed", "0"]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def train(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The stage's command line, run in this process."""
    monkeypatch.chdir(folder)

    def run_stage(*extra: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["train", *ARGUMENTS, *extra])
        try:
            process.run(train_stage.main)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Result(code, *capsys.readouterr())

    return run_stage


def killed_after_an_epoch(folder: Path) -> None:
    """The stage in a process of its own, killed once it has written a checkpoint."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    command = [sys.executable, "-m", "pipeline.train", *ARGUMENTS]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    while not list((folder / ".checkpoints").glob("nbp-0/*.safetensors")):
        time.sleep(0.01)
        assert process.poll() is None, "ended before a checkpoint was seen"
    process.kill()
    process.wait()


def contents(folder: Path) -> list[bytes]:
    return [(folder / "runs" / "nbp-0" / name).read_bytes() for name in OUTPUTS]


def change(folder: Path, name: str, value: object, section: str = "train") -> None:
    yaml = YAML(typ="safe", pure=True)
    profile = yaml.load(folder / PROFILE)
    profile[section][name] = value
    yaml.dump(profile, folder / PROFILE)


def test_a_run_killed_after_an_epoch_continues_and_ends_bit_identical(folder: Path, train: Train) -> None:
    assert train().code == 0
    expected = contents(folder)
    killed_after_an_epoch(folder)
    again = train()
    assert "continue after epoch" in again.out
    assert contents(folder) == expected
    assert not list((folder / ".checkpoints").rglob("*.safetensors"))


def test_history_has_one_row_per_epoch_and_metrics_are_those_of_the_best_one(folder: Path, train: Train) -> None:
    result = train()
    assert result.code == 0, result.err
    out = folder / "runs" / "nbp-0"
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    metrics = json.loads((out / "metrics.json").read_text())
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    accuracies = [float(row["val/accuracy"]) for row in rows]
    assert metrics["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert metrics["val"]["accuracy"] == max(accuracies)
    _, about = sessions.read(out / "model.safetensors")
    assert json.loads(about["network"])["model"]["width"] == 16
    assert len(json.loads((out / "timing.json").read_text())["seconds_per_epoch"]) == 4
    assert len((folder / ".live/nbp-0/plots/metrics/val/accuracy.tsv").read_text().splitlines()) == 5


def test_fewer_workers_than_asked_for_have_the_true_reason() -> None:
    assert train_stage.fewer_workers("bp", 1) == "one worker, because gradients cross the units of bp"
    assert train_stage.fewer_workers("nbp", 4) == "4 workers, because nbp has 4 units"


def test_a_method_whose_gradients_cross_units_says_that_it_trains_on_one_worker(folder: Path, train: Train) -> None:
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(folder / "params.yaml")
    params["compute"]["workers"] = 2
    yaml.dump(params, folder / "params.yaml")
    change(folder, "epochs", 1)
    result = train("--method", "bp")
    assert "nbp-0: one worker, because gradients cross the units of bp\n" in result.out
    files = (json.loads((folder / "runs/nbp-0" / name).read_text()) for name in ("run.json", "timing.json"))
    assert [one.get("workers") for one in files] == [1, None]


def test_wrong_labels_are_learnt_from_and_validation_keeps_the_true_ones(folder: Path, train: Train) -> None:
    path = folder / "data/splits/train.parquet"
    true, other = pq.read_table(path), mislabelled(load_split(path), 0.5, 0)
    change(folder, "epochs", 2)
    assert train().code == 0
    right = contents(folder)
    change(folder, "wrong_labels", 0.5)
    assert train().code == 0
    found = contents(folder)
    change(folder, "wrong_labels", 0.0)
    pq.write_table(true.set_column(1, true.schema.field(1), pa.array(other.labels.numpy(), pa.int8())), path)
    assert train().code == 0
    assert contents(folder)[:2] == found[:2] != right[:2]


def test_new_weights_never_stand_beside_what_tells_of_old_ones(
    folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train().code == 0
    change(folder, "epochs", 1)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_stage.records, "write", killed)
    assert train().code == 130
    left = {path.name for path in (folder / "runs/nbp-0").iterdir()}
    assert "model.safetensors" in left and not {"run.json", "metrics.json"} & left


def test_a_changed_parameter_does_not_continue_from_the_old_checkpoint(folder: Path, train: Train) -> None:
    killed_after_an_epoch(folder)
    change(folder, "schedule", {"learning_rate": 0.001})
    assert "continue" not in train().out


def test_a_diverging_run_ends_with_step_unit_and_value(folder: Path, train: Train) -> None:
    change(folder, "schedule", {"learning_rate": 1e30})
    result = train()
    assert result.code == 1
    assert "step" in result.err and "unit" in result.err and ("nan" in result.err or "inf" in result.err)
    assert "Traceback" not in result.err
    assert not (folder / "runs" / "nbp-0" / "metrics.json").exists()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_validation_faces_are_refused_before_the_first_step(folder: Path, train: Train, count: int) -> None:
    write_split(folder / "data" / "splits" / "val.parquet", count, 1)
    result = train()
    assert result.code == 2
    assert f"error: validation split: expected 4 faces or more, found {count}" in result.err
    assert "Traceback" not in result.err
    assert not (folder / "runs").exists()


KINDS = {
    "side": schema.Description(side=24),
    "channels": schema.Description(channels=3),
    "classes": schema.Description(classes=("b", "a")),
}


@pytest.mark.parametrize("differs", KINDS)
def test_validation_faces_of_another_kind_are_refused_before_the_first_step(
    folder: Path, train: Train, differs: str
) -> None:
    about = KINDS[differs]
    pixels, labels = np.zeros((20, about.channels, about.side, about.side), np.uint8), np.arange(20) % 2
    schema.write(folder / "data/splits/val.parquet", pixels, labels, np.arange(20), about)
    result = train()
    assert result.code == 2
    assert f"error: validation split: expected the {differs} of the training faces" in result.err
    assert not (folder / "runs").exists()


def test_faces_of_a_single_class_are_refused(folder: Path, train: Train) -> None:
    for split in ("train", "val"):
        pixels, about = np.zeros((80, 1, 48, 48), np.uint8), schema.Description(classes=("one",))
        schema.write(folder / f"data/splits/{split}.parquet", pixels, np.zeros(80, np.int64), np.arange(80), about)
    result = train()
    assert (result.code, "expected two classes or more, found one" in result.err) == (2, True)


def test_four_validation_faces_are_enough(folder: Path, train: Train) -> None:
    write_split(folder / "data" / "splits" / "val.parquet", 4, 1)
    assert train().code == 0


def test_a_run_stuck_at_the_majority_share_says_so(folder: Path, train: Train) -> None:
    write_split(folder / "data" / "splits" / "val.parquet", 20, 1, label=3)
    write_split(folder / "data" / "splits" / "train.parquet", 80, 0, label=3)
    result = train()
    assert "tells no faces apart" in result.err
    assert json.loads((folder / "runs" / "nbp-0" / "metrics.json").read_text())["collapsed"] is True


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("batch", 96, "train.batch: expected at most the 80 faces"), ("batch", 3, "batch >= 4")],
)
def test_a_batch_that_cannot_be_is_refused(folder: Path, train: Train, name: str, value: object, said: str) -> None:
    change(folder, name, value)
    result = train()
    assert (result.code, "Traceback" in result.err) == (2, False)
    assert said in result.err


def test_an_output_folder_that_cannot_be_written_is_said_before_the_first_step(folder: Path, train: Train) -> None:
    (folder / "runs").write_text("a file where the folder of all runs would be")
    result = train()
    assert result.code == 2
    assert "epoch" not in result.out
    assert result.err == "error: [Errno 20] Not a directory: 'runs'\n"


def test_units_that_the_network_does_not_have_are_refused(folder: Path, train: Train) -> None:
    change(folder, "blocks", 2, "model")
    result = train()
    assert result.code == 2
    assert "'block3' is no node" in result.err


def test_a_checkpoint_of_other_parameters_is_passed_over_aloud_and_kept_for_its_own_training(
    folder: Path, train: Train
) -> None:
    killed_after_an_epoch(folder)
    before = (folder / PROFILE).read_text()
    change(folder, "schedule", {"learning_rate": 0.001})
    assert "begin anew" in train().out
    (folder / PROFILE).write_text(before)
    assert "continue after epoch 1" in train().out
    assert not list((folder / ".checkpoints").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--params", "absent.yaml"), "absent.yaml"),
        (("--splits", "nowhere"), "nowhere"),
        (("--method", "x"), "bp"),
    ],
)
def test_what_a_user_got_wrong_is_named_with_exit_code_two(
    folder: Path, train: Train, extra: tuple[str, ...], said: str
) -> None:
    result = train(*extra)
    assert result.code == 2
    assert said in result.err and "Traceback" not in result.err
    assert not (folder / "runs").exists()


def test_in_a_copy_of_dvc_checkpoints_and_runs_of_wandb_lie_in_the_workspace(
    folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / "project/.dvc/tmp/exps/tmpabc"
    shutil.copytree(folder, copy, ignore=lambda where, names: {"project"} & set(names))
    monkeypatch.chdir(copy)
    monkeypatch.setenv("WANDB_MODE", "offline")
    seen = []
    monkeypatch.setattr(train_stage, "warn_if_collapsed", lambda *_: seen.extend(folder.rglob("*.safetensors")))
    assert train().code == 0
    assert {path.relative_to(folder).parts[:2] for path in seen} == {("project", ".checkpoints")}
    assert (copy / "runs/nbp-0/model.safetensors").exists()
    assert len(list((folder / "project/wandb").glob("offline-run-*/*.wandb"))) == 1
    assert not list((folder / "project/.checkpoints").rglob("*.safetensors"))


@pytest.mark.parametrize("out", ["..", "runs/..", ".", "/"])
def test_an_output_without_a_name_of_its_own_is_refused_and_nothing_is_removed(
    folder: Path, train: Train, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ARGUMENTS", [out, *ARGUMENTS[1:]])
    before = sorted(folder.rglob("*"))
    result = train()
    assert result.code == 2 and "expected a folder with a name of its own" in result.err
    assert sorted(folder.rglob("*")) == before


def test_drawn_faces_and_a_profile_for_photographs_are_refused_by_the_stage_itself(folder: Path, train: Train) -> None:
    pixels, labels = np.zeros((80, 1, 48, 48), np.uint8), np.arange(80) % 7
    schema.write(folder / "data/splits/train.parquet", pixels, labels, np.arange(80), schema.Description(drawn=True))
    path = folder / PROFILE
    path.write_text(path.read_text().replace("photographs: false", "photographs: true"))
    result = train()
    assert result.code == 2
    assert "are drawn: name others by --splits, or set photographs: false in profiles/sample.yaml" in result.err


def test_a_checkpoint_is_forgotten_without_those_of_other_trainings_and_without_another_process_at_work(
    tmp_path: Path,
) -> None:
    whole, shared, busy = (tmp_path / name for name in ("whole", "shared", "busy"))
    for one in (whole, shared, busy):
        one.mkdir()
        (one / "abc.safetensors").touch()
    for name in ("other.safetensors", "notes.txt"):
        (shared / name).touch()
    with process.atomic(busy / "def.safetensors") as temporary:
        for one in (whole, shared, busy, tmp_path / "gone"):
            train_stage.forget(one / "abc.safetensors")
        assert temporary.exists()
    assert not whole.exists()
    assert [path.name for path in sorted(shared.iterdir())] == ["notes.txt", "other.safetensors"]
    assert [path.name for path in busy.iterdir()] == ["def.safetensors"]


def test_a_second_process_on_the_same_run_is_refused(folder: Path, train: Train) -> None:
    with process.only_one(folder / ".checkpoints" / "nbp-0"):
        result = train()
    assert result.code == 2 and "another process" in result.err


SECRETS = {
    name: hashlib.sha1(name.encode()).hexdigest()
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "KAGGLE_KEY")
}


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_no_secret_of_the_environment_is_in_a_file_or_a_message_of_a_training(folder: Path, mode: str) -> None:
    """Online: logged in where no server answers, so that W&B is asked first."""
    (folder / "tmp").mkdir()
    own = {"HOME": str(folder), "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(ROOT), "WANDB_MODE": mode}
    environment = os.environ | SECRETS | own | {"WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "pipeline.train", *ARGUMENTS]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    said = {"output": done.stdout + done.stderr} | {str(path.relative_to(folder)): path.read_bytes() for path in files}
    told = [(where, key) for where, text in said.items() for key, secret in SECRETS.items() if secret.encode() in text]
    assert told == []
