"""Trainings on a Ray of their own or of others: nothing is left behind, and a lost machine changes no bit."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.pipeline.test_train import write_split

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 300  # seconds until something that has to happen counts as missing
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "WANDB_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A node that is killed is given up after seconds, not after half a minute.
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


def project(folder: Path, epochs: int, **compute: object) -> Path:
    """A folder with small splits and the project's parameters at the size of a toy."""
    (folder / "profiles").mkdir(parents=True)
    (folder / "data/splits").mkdir(parents=True)
    changes: dict[str, dict[str, dict[str, object]]] = {
        "params.yaml": {"compute": compute},
        "methods.yaml": {},
        "profiles/sample.yaml": {
            "model": {"width": 16, "input_size": 16, "layers": 1, "pyramids": 1},
            "train": {"epochs": epochs, "batch": 16},
        },
    }
    yaml = YAML(typ="safe", pure=True)
    for name, groups in changes.items():
        content = yaml.load(ROOT / name)
        for group, values in groups.items():
            content[group] |= values
        yaml.dump(content, folder / name)
    write_split(folder / "data/splits/train.parquet", 160, 0)
    write_split(folder / "data/splits/val.parquet", 20, 1)
    return folder


@contextmanager
def training(folder: Path, **more: str) -> Iterator[subprocess.Popen]:
    """The train stage in a process group of its own, killed where a test fails."""
    command = [sys.executable, "-m", "pipeline.train", "runs/nbp-0", "--method", "nbp", "--seed", "0"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT | more, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(there: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Return once it is so; fails where it is not in time, or where the process has ended."""
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "not in time"
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def processes(name: str, text: bytes) -> list[int]:
    """Processes in whose /proc/PID/NAME the text stands."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and text in (entry / name).read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_is_ended_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    folder, mark = project(tmp_path / "project", 10_000, workers=2), uuid.uuid4().hex
    with training(folder, CFPN_TEST=mark) as process:
        wait_until(lambda: any(folder.glob(".checkpoints/nbp-0/*.safetensors")), process)
        assert len(processes("environ", mark.encode())) > 3  # the driver, Ray's own and both workers
        if number == signal.SIGINT:  # a terminal sends it to the whole group
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        wait_until(lambda: not processes("environ", mark.encode()))
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]


@contextmanager
def node(folder: Path, *options: str) -> Iterator[subprocess.Popen]:
    """A node of two CPUs by `ray start` in a working directory of its own, killed at the end."""
    folder.mkdir()
    tool = Path(sys.executable).with_name("ray")
    line = [tool, "start", "--num-cpus", "2", "--object-store-memory", "100000000", "--block", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, cwd=folder, env=ENVIRONMENT, start_new_session=True, **pipes) as process:
        try:
            assert any("Ray runtime started" in text for text in process.stdout)
            yield process
        finally:
            process.terminate()


def kill_all_of(folder: Path) -> None:
    """Kill every process whose working directory is the folder, as a machine that loses power does."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue


def places_of_segments(folder: Path) -> list[Path]:
    """Working directories in the folder of the processes that hold segments."""
    places = (Path(f"/proc/{number}/cwd").readlink() for number in processes("cmdline", b"ray::Segment"))
    return sorted(place for place in places if folder in place.parents)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_two_nodes_share_a_training_and_one_ends_it_alone_when_the_other_is_lost(tmp_path: Path) -> None:
    with training(project(tmp_path / "alone", 20)) as process:
        assert process.wait(PATIENCE) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    head, other = tmp_path / "head", tmp_path / "other"
    first = ("--head", "--port", address.partition(":")[2], "--include-dashboard", "false")
    with node(head, *first), node(other, "--address", address):
        folder = project(tmp_path / "shared", 20, workers=2, address=address)
        with training(folder) as process:
            wait_until(lambda: any(folder.glob(".checkpoints/nbp-0/*.safetensors")), process)
            assert places_of_segments(tmp_path) == [head, other]
            kill_all_of(other)
            _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "a worker died; the epoch begins again" in said
    timing = json.loads((folder / "runs/nbp-0/timing.json").read_text())
    assert [unit for worker in timing["workers"] for unit in worker["units"]][:2] == ["block1", "block2"]
    assert all(worker["spans"] and worker["peak_mib"] > 50 for worker in timing["workers"])
    for name in ("history.csv", "metrics.json", "model.safetensors"):
        assert (folder / "runs/nbp-0" / name).read_bytes() == (tmp_path / "alone/runs/nbp-0" / name).read_bytes(), name
