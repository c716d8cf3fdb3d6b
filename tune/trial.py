"""One trial of a sweep: the training of the train stage with a report and a checkpoint per epoch, and its score."""

import json
import math
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray import tune
from ray.tune.experiment import Trial
from safetensors import safe_open
from torch import Tensor

from cfpn import training
from cfpn.allocator import keep_freed_memory
from cfpn.data import Faces
from cfpn.training import DivergedError
from pipeline import evaluate
from pipeline import session as sessions
from pipeline.process import InputError
from pipeline.session import Session
from tune import spaces, storage
from tune.spaces import Sweep
from tune.storage import Storage

STATE, PLACES = "session.safetensors", "places.json"
METRIC = "val/accuracy"


class Arrays(NamedTuple):
    """Faces as NumPy arrays: Ray keeps them once per node in shared memory, and every trial there maps the same bytes.

    pixels (n, 48, 48) uint8, labels (n,) int64, rows (n,) int64.
    """

    pixels: np.ndarray
    labels: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Place:
    """Where a trial runs: threads of its CPUs, "cuda" where it was given a share of a GPU, else "cpu"."""

    threads: int
    device: str


class Clock(NamedTuple):
    """A moment of this process: seconds of the wall, and of all CPUs so far."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Clock":
        """This moment."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), usage.ru_utime + usage.ru_stime)


class Summary(NamedTuple):
    """What a checkpoint tells without its weights: history and places have one entry per complete epoch."""

    history: list[dict[str, float]]
    best_epoch: int
    places: list[dict[str, Any]]


class Score(NamedTuple):
    """Probabilities (n, 7) of the validation faces and, where the sweep asks for it, metrics of the test split."""

    probabilities: np.ndarray
    parameters: int
    test: dict[str, Any] | None


def arrays(faces: Faces) -> Arrays:
    """The same faces for Ray's object store."""
    return Arrays(*(tensor.numpy() for tensor in faces))


def faces(shared: Arrays) -> Faces:
    """Faces on the memory of `shared`, without a copy; nothing may write to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return Faces(*(torch.from_numpy(array) for array in shared))


def folder(sweep: Sweep, own: Trial) -> str:
    """Name of a trial's folder in storage: its point, then Ray's name for it."""
    return f"{spaces.identifier(spaces.point(sweep, own.config))}-{own.trial_id}"


def run(config: dict[str, Any], sweep: Sweep, place: Place, kept: Storage, data: Mapping[str, Arrays]) -> None:
    """Train the point `config` from its last whole checkpoint in storage, or from the start.

    data: training faces by train.faces, and the validation faces as "val". A training that diverges ends with a report
    that says so: it would diverge again if it were retried. Any other error is raised, so that Ray Tune tries again, on
    another node perhaps, and a resumed sweep does so too.
    """
    try:
        _train(spaces.point(sweep, config), sweep, place, kept, data)
    except DivergedError as error:
        tune.report({"epoch": 0, METRIC: 0.0, "diverged": 1, "reason": str(error)})


def _train(config: dict[str, Any], sweep: Sweep, place: Place, kept: Storage, data: Mapping[str, Arrays]) -> None:
    what = spaces.training(sweep, config, place.threads, place.device)
    params, method = what.params, what.params.methods[what.method]
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    session = sessions.begin(params, method, what.seed)
    places = resume(session, storage.checkpoints(kept, spaces.identifier(config)))
    if places:
        report(session, places)  # Tune may know less: a driver is killed between a checkpoint and its note of it
    device = sessions.device(params.compute)
    own, validation = (faces(data[name]).to(device) for name in (params.train.faces, "val"))
    own, before = own.first(params.train.limit), Clock.now()
    for record in sessions.advance(session, params, method, what.seed, own, validation):
        if record.complete:
            check_finite(record.epoch, record.scalars)
            now = Clock.now()
            places.append(here(record.epoch, record.seconds, place, before, now))
            report(session, places)
            before = now


def resume(session: Session, checkpoints: list[tune.Checkpoint]) -> list[dict[str, Any]]:
    """Continue from the first of the checkpoints that is whole; returns its places, none for a training from scratch.

    A worker that is killed while it writes leaves a checkpoint in pieces; the one before it is still there.
    """
    for checkpoint in checkpoints:
        try:
            with checkpoint.as_directory() as folder:
                places = json.loads((Path(folder) / PLACES).read_text())
                sessions.restore(session, Path(folder) / STATE)
        except (InputError, FileNotFoundError, json.JSONDecodeError):
            continue
        return places
    return []


def check_finite(epoch: int, scalars: dict[str, float]) -> None:
    """Raise DivergedError for a metric that is not finite: schedulers silently keep such trials."""
    for name, value in scalars.items():
        if not math.isfinite(value):
            raise DivergedError(f"epoch {epoch}: {name} is {value}")


def here(epoch: int, seconds: float, place: Place, before: Clock, now: Clock) -> dict[str, Any]:
    """Where an epoch ran and its cost: peak memory of process and GPU (0 without one) in MiB, CPU seconds so far.

    cpu_percent is of one CPU, from `before` to `now`, with the epoch's validation; gpu_percent, where the GPU's driver
    tells it, is that of the last second, whoever used it.
    """
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "epoch": epoch,
        "seconds": seconds,
        "process": os.getpid(),
        "node": ray.get_runtime_context().get_node_id(),
        "device": place.device,
        "threads": place.threads,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
        "gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20 if place.device == "cuda" else 0.0,
        "cpu_seconds": now.cpu,
        "cpu_percent": 100 * (now.cpu - before.cpu) / (now.wall - before.wall),
    } | (gpu_percent() if place.device == "cuda" else {})


def gpu_percent() -> dict[str, float]:
    """Utilisation of the GPU in per cent; nothing where the driver or its Python package does not tell it."""
    try:
        return {"gpu_percent": float(torch.cuda.utilization())}
    except Exception:  # errors of the driver's package have no other base
        return {}


def report(session: Session, places: list[dict[str, Any]]) -> None:
    """Report the last epoch together with a checkpoint of the whole session."""
    with tempfile.TemporaryDirectory() as folder:
        sessions.save(session, Path(folder) / STATE)
        (Path(folder) / PLACES).write_text(json.dumps(places))
        row = session.history[-1]
        tune.report(row | {"diverged": 0, "reason": ""}, checkpoint=tune.Checkpoint.from_directory(folder))


def summary(folder: Path) -> Summary:
    """History, best epoch and places of a checkpoint's folder."""
    with safe_open(folder / STATE, framework="pt") as file:
        about = json.loads(file.metadata()["session"])
    places = json.loads((folder / PLACES).read_text())
    return Summary(about["history"], about["best_epoch"], places)


def best(folder: Path) -> dict[str, Tensor]:
    """Weights of the best epoch in a checkpoint's folder."""
    with safe_open(folder / STATE, framework="pt") as file:
        return {name.removeprefix("best/"): file.get_tensor(name) for name in file.keys() if name.startswith("best/")}  # noqa: SIM118


def score(
    config: dict[str, Any],
    sweep: Sweep,
    place: Place,
    checkpoint: tune.Checkpoint,
    data: Mapping[str, Arrays],
    copied: np.ndarray | None,
) -> Score:
    """Predictions of a trial's best weights on the validation faces; on the test faces too where data has "test"."""
    what = spaces.training(sweep, config, place.threads, place.device)
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    device = sessions.device(what.params.compute)
    state = sessions.untrained(what.params.model, what.params.methods[what.method], device)
    with checkpoint.as_directory() as folder:
        state.load_weights(best(Path(folder)))

    def predict(name: str) -> Tensor:
        own, size = faces(data[name]).to(device), what.params.model.input_size
        return training.predict(state, own, size, evaluate.BATCH).cpu()

    test = None
    if "test" in data:
        labels = torch.tensor(data["test"].labels)
        test = evaluate.metrics(predict("test"), labels, torch.tensor(copied))
    return Score(predict("val").numpy(), training.parameters(state), test)
