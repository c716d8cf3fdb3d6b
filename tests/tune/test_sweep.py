"""Whole sweeps on a real Ray of two nodes with one CPU each."""

import csv
import ctypes
import hashlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from cfpn import schema
from tune import outcome, storage

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
ENVIRONMENT |= {
    "WANDB_BASE_URL": "http://127.0.0.1:9",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
SECRETS = {
    name: hashlib.sha1(name.encode()).hexdigest() for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "KAGGLE_KEY")
}
ENVIRONMENT |= SECRETS
GRID = ("activation", "--epochs", "3")
TABLES = ("trials.csv", "epochs.csv", "curves.csv", "metrics.json")


class Finished(NamedTuple):
    """A command that ended: its exit code and what it said."""

    code: int
    out: str
    error: str


def split(path: Path, count: int, seed: int) -> None:
    """A split as the ingest stage writes it: seven noisy patterns."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    patterns = np.random.default_rng(0).integers(0, 128, (7, 2304))
    pixels = (patterns[labels] + random.integers(0, 128, (count, 2304))).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema.write(path, pixels, labels, np.arange(1, count + 1), schema.Description())


def project(folder: Path) -> Path:
    """A folder with small splits and the project's parameters at the size of a toy."""
    for seed, (name, count) in enumerate({"train": 96, "val": 21, "test": 21}.items()):
        split(folder / f"data/splits/{name}.parquet", count, seed)
    for name in ("params.yaml", "methods.yaml", "sweeps/params.yaml", "profiles/sample.yaml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    change(folder / "profiles/sample.yaml", model={"input_size": 16, "width": 16, "layers": 1, "pyramids": 1},
           train={"faces": "original", "epochs": 2, "batch": 32})  # fmt: skip
    return folder


def change(path: Path, **groups: dict[str, Any]) -> None:
    """Set values in groups of a parameter file."""
    raw = YAML(typ="safe").load(path)
    for name, values in groups.items():
        raw[name] |= values
    YAML(typ="safe").dump(raw, path)


def command(*arguments: str) -> list[str]:
    """The command line of a sweep."""
    return [sys.executable, str(ROOT / "tune/sweep.py"), *arguments]


def sweep(folder: Path, *arguments: str, **environment: str) -> Finished:
    """Run a sweep in a project's folder to its end."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True, timeout=300
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def limited(folder: Path, limit: Callable[[], object], *arguments: str) -> Finished:
    """Run a sweep in a process that is denied something, whoever runs the tests."""
    done = subprocess.run(
        command(*arguments), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, preexec_fn=limit
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a project but those that belong to sweeps."""
    own = ("sweeps/results", "ray", "wandb")
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {name: path.read_bytes() for path in paths if not (name := str(path.relative_to(folder))).startswith(own)}


@contextmanager
def node(*options: str) -> Iterator[None]:
    """One `ray start` of one CPU, whole when the block begins and ended with it."""
    tool = Path(sys.executable).with_name("ray")
    line = [tool, "start", "--num-cpus", "1", "--object-store-memory", "100000000", "--block", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, env=ENVIRONMENT, **pipes) as process:
        try:
            assert any("Ray runtime started" in text for text in process.stdout)
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Ray of two nodes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    with node("--head", "--port", str(port), "--include-dashboard", "false"), node("--address", address):
        yield address


class Run(NamedTuple):
    """A sweep that ended, with the folder it ran in and the project's other files before it."""

    folder: Path
    finished: Finished
    before: dict[str, bytes]

    def table(self, name: str) -> pd.DataFrame:
        """One of its tables."""
        return pd.read_csv(self.folder / "sweeps/results/learning_rate" / name)


RATES = "train.schedule.learning_rate=0.001,0.005,1e30"


@pytest.fixture(scope="module")
def rates(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three learning rates, the last of which diverges."""
    folder = project(tmp_path_factory.mktemp("rates"))
    before = files(folder)
    finished = sweep(folder, "learning_rate", "--set", RATES, "--address", cluster, WANDB_MODE="offline")
    return Run(folder, finished, before)


def test_a_trial_that_diverges_is_marked_with_its_reason_and_stops_no_other(rates: Run) -> None:
    trials = rates.table("trials.csv")
    assert trials["status"].tolist() == ["complete", "complete", "diverged"], rates.finished
    assert "the loss of unit" in trials["reason"].iloc[2]
    assert trials["epochs"].tolist() == [2, 2, 0]
    assert rates.finished.code == 1
    assert "diverged: learning_rate=1e+30 seed=0: step" in rates.finished.error
    assert "1 of 3 trials did not complete" in rates.finished.error


def test_both_nodes_of_a_cluster_are_used(rates: Run) -> None:
    assert rates.table("timing.csv")["node"].nunique() == 2


def test_a_trial_gives_the_numbers_of_the_train_stage(rates: Run, tmp_path: Path) -> None:
    folder = project(tmp_path)
    change(folder / "profiles/sample.yaml", train={"schedule": {"learning_rate": 0.005, "shape": "one_cycle"}})
    stage = ["-m", "pipeline.train", "runs/nbp-0", "--method", "nbp", "--seed", "0"]
    subprocess.run([sys.executable, *stage], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    with (folder / "runs/nbp-0/history.csv").open() as file:
        history = list(csv.DictReader(file))
    with (rates.folder / "sweeps/results/learning_rate/epochs.csv").open() as file:
        epochs = [row for row in csv.DictReader(file) if row["train.schedule.learning_rate"] == "0.005"]
    assert len(history) == len(epochs) == 2
    for own, other in zip(history, epochs, strict=True):
        assert {name: float(value) for name, value in own.items()} == {name: float(other[name]) for name in own}


def test_several_workers_in_a_trial_give_the_tables_of_one(cluster: str, rates: Run, tmp_path: Path) -> None:
    folder = project(tmp_path)
    change(folder / "params.yaml", compute={"workers": 2})
    done = sweep(folder, "learning_rate", "--set", RATES, "--address", cluster)
    assert done.code == 1
    assert "1 CPU per worker, 2 workers per trial, on the Ray at" in done.out and "1 at once" in done.out
    for name in TABLES:
        tables = [(one / "sweeps/results/learning_rate" / name).read_bytes() for one in (folder, rates.folder)]
        assert tables[0] == tables[1], name
    (about, *_) = (folder / "sweeps/results/learning_rate/runs").glob("*/run.json")
    assert json.loads(about.read_text())["workers"] == 2


def test_a_sweep_writes_nothing_outside_its_own_folders(rates: Run) -> None:
    now = files(rates.folder)
    assert {name: now[name] for name in rates.before} == rates.before
    assert {name.partition("/")[0] for name in set(now) - set(rates.before)} <= set()


def test_the_output_is_a_table_without_rays_own_messages(rates: Run) -> None:
    lines = rates.finished.error.splitlines()
    heading = ["trial", "epoch", "val/accuracy", "val/loss", "seconds", "trials", "done", "time", "left"]
    assert lines[0].split() == heading
    assert sum(line.startswith("learning_rate=0.001_seed=0") for line in lines) == 2
    assert [line for line in lines[1:] if not line.startswith(("learning_rate=", "diverged", "1 of 3"))] == []


def test_before_the_first_trial_a_sweep_says_what_it_will_do_and_at_the_end_what_came_out(rates: Run) -> None:
    said = rates.finished.out
    assert said.startswith("Sweep learning_rate\n  train.schedule.learning_rate: 0.001, 0.005, 1e+30\n")
    for text in ("trials: 3 (1 seed of each setting), 2 epochs each", "resources: 1 CPU per trial on the Ray at",
                 "2 at once", "tables: sweeps/results/learning_rate", "W&B runs: offline, project"):  # fmt: skip
        assert text in said, said
    assert "val/accuracy at each trial's best epoch, mean and standard deviation over seeds:" in said
    assert "best" in said and "1 diverged" in said
    assert "trials.csv" in said


def test_no_secret_of_the_environment_is_in_a_file_or_a_message_of_a_sweep(rates: Run) -> None:
    paths = [path for path in rates.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in paths)
    said = {str(path): path.read_bytes() for path in paths} | {"output": "".join(rates.finished[1:]).encode()}
    assert [(name, key) for name, text in said.items() for key, word in SECRETS.items() if word.encode() in text] == []


def test_checkpoints_of_finished_trials_are_gone(rates: Run) -> None:
    assert list(rates.folder.glob("ray/learning_rate/*/checkpoint_*")) == []
    assert sum(path.stat().st_size for path in rates.folder.glob("ray/**/*")) < 2**20


def test_a_finished_trial_leaves_the_run_that_the_train_stage_leaves(rates: Run, tmp_path: Path) -> None:
    runs = rates.folder / "sweeps/results/learning_rate/runs"
    assert len(list(runs.iterdir())) == 2
    about = json.loads((runs / "learning_rate=0.005_seed=0/run.json").read_text())
    assert (about["method"], about["seed"], about["data"]["faces"]) == ("nbp", 0, 96)
    assert about["parameters"]["method"]["schedule"]["learning_rate"] == 0.005
    assert pd.read_csv(runs / "learning_rate=0.005_seed=0/history.csv")["epoch"].tolist() == [1, 2]


def inspect(folder: Path, *options: str) -> str:
    """What W&B's own reader says of an offline run."""
    tool = Path(sys.executable).with_name("wandb")
    done = subprocess.run(
        [tool, "leet", "inspect", "--json", *options, folder], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_every_trial_is_one_run_of_one_group_with_each_epoch_once(rates: Run) -> None:
    runs = sorted((rates.folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 3
    groups, found = set(), {}
    for run in runs:
        records = [json.loads(line) for line in inspect(run).splitlines()]
        groups |= {record["run"]["run_group"] for record in records if record["type"] == "run"}
        summary = json.loads(inspect(run, "--summary"))
        history = [record["history"]["item"] for record in records if record["type"] == "history"]
        found[summary["name"]] = (summary, history)
    assert len(groups) == 1
    assert found.keys() == {f"learning_rate={rate} seed=0" for rate in ("0.001", "0.005", "1e+30")}
    shown(*found["learning_rate=0.005 seed=0"])
    summary, history = found["learning_rate=1e+30 seed=0"]
    assert summary["summary"]["status"] == "diverged"
    assert [row for row in history if "val/accuracy" in row] == []


def shown(summary: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Check what a dashboard shows of a complete trial."""
    assert summary["config"]["train"]["schedule"]["learning_rate"] == 0.005
    assert summary["config"]["sweep_name"] == "learning_rate"
    assert [row["epoch"] for row in history] == [1, 2]
    assert {"val/accuracy", "train/loss", "worker/memory_mib", "worker/cpu_percent"} <= history[1].keys()
    parts = {name.partition("/")[0] for name in history[1] if not name.startswith("_")}
    assert parts == {"epoch", "step", "train", "unit", "val", "worker"}
    assert len(summary["config"]["dvc"]["data"]) == 2
    assert summary["summary"]["confusion"]["nrows"] == 49
    assert summary["summary"]["examples"]["ncols"] == 4


def test_a_killed_worker_is_retried_from_its_checkpoint(cluster: str, rates: Run, tmp_path: Path) -> None:
    folder = project(tmp_path)
    options = ("learning_rate", "--set", "train.schedule.learning_rate=0.005", "--epochs", "8", "--address", cluster)
    pipe = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(*options), cwd=folder, env=ENVIRONMENT, **pipe) as driver:
        # The first epoch's lies there before Ray knows of it; training goes on once it does.
        places = wait_for(folder, "ray/learning_rate/*/checkpoint_000001/places.json")
        os.kill(json.loads(places.read_text())[-1]["process"], signal.SIGKILL)
        _, said = driver.communicate(timeout=300)
    timing = pd.read_csv(folder / "sweeps/results/learning_rate/timing.csv")
    assert driver.returncode == 0, said
    assert "its worker was lost; tried again" in said
    assert timing["epoch"].tolist() == list(range(1, 9))
    assert timing["process"].nunique() == 2


def wait_for(folder: Path, pattern: str, count: int = 1, empty: bool = False) -> Path:
    """The first of so many files that match, as soon as they do and are whole; no empty one unless that is said."""
    end = time.monotonic() + 280
    while time.monotonic() < end:
        found = sorted(path for path in folder.glob(pattern) if empty or path.stat().st_size)
        if len(found) >= count:
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no {pattern} in {folder}")


def test_a_trial_larger_than_any_node_is_refused_at_once(cluster: str, tmp_path: Path) -> None:
    done = sweep(project(tmp_path), "activation", "--cpus-per-trial", "2", "--address", cluster)
    assert done.code == 2
    assert done.error.splitlines()[-1] == "error: --cpus-per-trial: 2 wanted, and the largest node of this Ray has 1"


def obey_permissions() -> None:
    """Give up root's right to write where permissions forbid it; others never had it."""
    drop_from_bounding_set, override_permissions = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, override_permissions)


def have_a_full_disk() -> None:
    """Write no file above 256 KiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))


@pytest.mark.parametrize(
    ("limit", "cause"), [(obey_permissions, "Permission denied"), (have_a_full_disk, "File too large")]
)
def test_results_that_cannot_be_written_are_said_before_anything_trains(
    cluster: str, tmp_path: Path, limit: Callable[[], None], cause: str
) -> None:
    folder = project(tmp_path)
    results = folder / "sweeps/results/activation"
    results.mkdir(parents=True)
    if limit is obey_permissions:
        results.chmod(0o555)
    done = limited(folder, limit, *GRID, "--address", cluster)
    assert done.code == 2, done
    (line,) = done.error.splitlines()
    assert line.startswith("error: --out: cannot write to sweeps/results/activation: ") and cause in line
    assert list(results.iterdir()) == []
    assert not (folder / "ray/activation").exists()


STAGE = """
stages:
  train:
    cmd: touch begun; until [ -e go ]; do sleep 0.1; done; python -m pipeline.train runs/bp-0 --method bp --seed 0
    deps: [data/splits]
    outs: [runs/bp-0/model.safetensors, {runs/bp-0/history.csv: {cache: false}}]
"""


def test_a_sweep_beside_a_running_dvc_repro_leaves_its_stage_alone(cluster: str, tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "dvc.yaml").write_text(STAGE)
    tool = Path(sys.executable).with_name("dvc")
    environment = ENVIRONMENT | {"DVC_NO_ANALYTICS": "1", "PATH": f"{tool.parent}:{os.environ['PATH']}"}

    def dvc(*arguments: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([tool, *arguments], cwd=folder, env=environment, **pipes)

    with dvc("init", "--no-scm", "-q") as init:
        assert init.wait(120) == 0
    with dvc("repro") as repro:
        try:
            wait_for(folder, "begun", empty=True)
            done = sweep(folder, "activation", "--set", "model.activation=relu", "--method", "bp", "--address", cluster)
        finally:
            (folder / "go").touch()
        said, _ = repro.communicate(timeout=300)
    assert (done.code, repro.returncode) == (0, 0), (done, said)
    with dvc("status", "-q") as status:
        assert status.wait(120) == 0
    epochs, history = (pd.read_csv(folder / name) for name in
                       ("sweeps/results/activation/epochs.csv", "runs/bp-0/history.csv"))  # fmt: skip
    assert epochs["val/loss"].tolist() == history["val/loss"].tolist()


def test_asha_stops_what_falls_behind_and_calls_it_stopped(cluster: str, tmp_path: Path) -> None:
    folder = project(tmp_path)
    options = ("--set", "train.schedule.learning_rate=0.03,0.001,0.0001", "--epochs", "8", "--search", "asha")
    done = sweep(folder, "learning_rate", *options, "--address", cluster)
    trials = pd.read_csv(folder / "sweeps/results/learning_rate/trials.csv")
    stopped = trials[trials["status"] == "stopped"]
    assert done.code == 0, done
    assert set(trials["status"]) == {"complete", "stopped"}
    assert (stopped["epochs"] < 8).all()
    assert stopped["parameters"].notna().all()


def test_optuna_repeats_each_setting_it_tries_over_all_seeds(cluster: str, tmp_path: Path) -> None:
    folder = project(tmp_path)
    options = ("--search", "optuna", "--samples", "2", "--seeds", "2", "--epochs", "1", "--address", cluster)
    done = sweep(folder, "rates", "--set", "train.schedule.learning_rate=0.1,0.01,0.001,0.0001", *options)
    trials = pd.read_csv(folder / "sweeps/results/rates/trials.csv")
    assert done.code == 0, done
    assert all(line.startswith(("trial ", "learning_rate=")) for line in done.error.splitlines()), done.error
    assert (trials.groupby("train.schedule.learning_rate")["seed"].apply(list).map(tuple) == (0, 1)).all()


def interrupted(folder: Path, number: int, pattern: str, count: int, *arguments: str) -> Finished:
    """Run a sweep as from a terminal and send a signal to its whole process group once so many files are there."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    line = command(*arguments)
    with subprocess.Popen(line, cwd=folder, env=ENVIRONMENT, start_new_session=True, **pipes) as driver:
        wait_for(folder, pattern, count)
        if number == signal.SIGKILL:
            driver.kill()
        else:
            os.killpg(driver.pid, number)
        out, error = driver.communicate(timeout=300)
    return Finished(driver.returncode, out, error)


def ended(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Where the epochs of trials ran that have come to their end, by trial."""
    kept = storage.at(str(folder / "ray"), "activation")
    names = [path.stem for path in folder.glob("ray/activation/outcomes/*.npz")]
    return {name: outcome.read(kept, name).summary.places for name in names}


def test_a_stopped_and_a_killed_driver_resume_to_the_tables_of_an_undisturbed_sweep(
    cluster: str, tmp_path: Path
) -> None:
    whole, broken = project(tmp_path / "whole"), project(tmp_path / "broken")
    there = (*GRID, "--address", cluster)
    assert sweep(whole, *there).code == 0
    first = interrupted(broken, signal.SIGINT, "ray/activation/*/checkpoint_*/places.json", 1, *GRID)
    assert first.code == 130, first
    assert "--resume continues" in first.error
    second = interrupted(broken, signal.SIGKILL, "ray/activation/outcomes/*.npz", 1, *there, "--resume")
    assert second.code == -signal.SIGKILL
    before = ended(broken)
    assert before
    last = sweep(broken, *there, "--resume")
    assert last.code == 0, last
    after = ended(broken)
    assert {name: after[name] for name in before} == before
    for name in (*TABLES, "sweep.json"):
        tables = [(folder / "sweeps/results/activation" / name).read_bytes() for folder in (whole, broken)]
        assert tables[0] == tables[1], name


def test_a_sweep_that_grows_by_a_seed_trains_that_seed_alone_and_ends_with_the_tables_of_both(
    cluster: str, tmp_path: Path
) -> None:
    whole, grown = project(tmp_path / "whole"), project(tmp_path / "grown")
    there = ("activation", "--set", "model.activation=relu", "--epochs", "1", "--address", cluster)
    assert sweep(whole, *there, "--seeds", "2").code == 0
    assert sweep(grown, *there, "--seeds", "1").code == 0
    before = ended(grown)
    last = sweep(grown, *there, "--seeds", "2", "--resume")
    assert last.code == 0, last
    after = ended(grown)
    assert len(after) == 2 * len(before) > 0
    assert {name: after[name] for name in before} == before
    for name in (*TABLES, "sweep.json"):
        tables = [(folder / "sweeps/results/activation" / name).read_bytes() for folder in (whole, grown)]
        assert tables[0] == tables[1], name


def test_a_killed_sweep_has_its_runs_in_wandb(cluster: str, tmp_path: Path) -> None:
    folder = project(tmp_path)
    options = ("activation", "--epochs", "50", "--address", cluster)
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command(*options), cwd=folder, env=ENVIRONMENT | {"WANDB_MODE": "offline"}, **pipes
    ) as driver:
        wait_for(folder, "wandb/offline-run-*/*.wandb")
        wait_for(folder, "ray/activation/*/checkpoint_000003/places.json")
        for name in ("relu", "tanh"):  # on a busy machine one may be there long before the other
            wait_for(folder, f"ray/activation/activation={name}*/checkpoint_*/places.json")
        driver.kill()
    wait_until_closed(folder)
    found = {}
    for run in folder.glob("wandb/offline-run-*"):
        records = [json.loads(line) for line in inspect(run).splitlines()]
        name = next(record["run"]["display_name"] for record in records if record["type"] == "run")
        found[name] = sum(record["type"] == "history" for record in records)
    assert set(found) == {"activation=relu seed=0", "activation=tanh seed=0"}
    assert max(found.values()) >= 3, found


def wait_until_closed(folder: Path) -> None:
    """Wait until W&B's files no longer grow."""
    before: list[int] = []
    for _ in range(60):
        now = [path.stat().st_size for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]
        if now == before and min(now) > 100:
            return
        before = now
        time.sleep(0.5)


def test_a_sweep_over_methods_is_compared(cluster: str, tmp_path: Path) -> None:
    folder = project(tmp_path)
    options = ("--set", "method=nbp,bp", "--seeds", "2", "--address", cluster)
    done = sweep(folder, "methods", *options)
    assert done.code == 0, done
    assert "| bp | 2 |" in done.out and "| nbp | 2 |" in done.out
    comparison = json.loads((folder / "sweeps/results/methods/compare/compare.json").read_text())
    assert set(comparison["methods"]) == {"nbp", "bp"}
    assert comparison["methods"]["nbp"]["against"]["faces"]["seeds"] == [0, 1]
    tool = [sys.executable, "-m", "pipeline.compare", "again", "--runs", "sweeps/results/methods/runs"]
    tool += ["--evaluations", "sweeps/results/methods/evaluate"]
    subprocess.run(tool, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    assert json.loads((folder / "again/compare.json").read_text()) == comparison


@pytest.mark.slow
def test_a_sweep_whose_ray_state_was_cut_off_by_a_kill_resumes(cluster: str, tmp_path: Path) -> None:
    folder, there = project(tmp_path / "broken"), (*GRID, "--address", cluster)
    assert interrupted(folder, signal.SIGKILL, "ray/activation/outcomes/*.npz", 1, *there).code == -signal.SIGKILL
    before = ended(folder)
    (folder / "ray/activation/tuner.pkl").write_bytes(b"")
    last = sweep(folder, *there, "--resume")
    assert last.code == 0, last
    assert {name: ended(folder)[name] for name in before} == before
