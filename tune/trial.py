"""One trial of a sweep: the training of the train stage with a report and a checkpoint per epoch, then its scores."""

import json
import math
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import ray
import torch
from ray import tune
from safetensors import safe_open
from torch import Tensor

from cfpn import checkpoint, prediction
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces
from cfpn.learner import DivergedError
from cfpn.network import Network
from pipeline import evaluate
from pipeline.process import InputError
from pipeline.runs import about as run_json
from pipeline.runs import chance
from pipeline.runs import session as sessions
from pipeline.runs.session import Session
from tune import names, outcome, spaces, storage
from tune.names import BEST, METRIC, Config
from tune.outcome import Ended, Score, Summary
from tune.spaces import Sweep, Training
from tune.storage import PLACES, Storage

STATE = "session.safetensors"
USE = ("seconds", "memory_mib", "gpu_memory_mib", "cpu_seconds", "cpu_percent", "gpu_percent")  # shown in W&B
TOLD = ("epoch", METRIC, "val/loss")  # numbers that the progress line needs


class Arrays(NamedTuple):
    """Faces as NumPy arrays: Ray keeps them once per node in shared memory, and every trial there maps the same bytes.

    pixels (n, c, h, w) uint8, labels (n,) int64, rows (n,) int64.
    """

    pixels: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    classes: tuple[str, ...]
    drawn: bool


class Data(NamedTuple):
    """All that a trial needs and its machine may not have.

    faces: by train.faces, "val", and "test" where it is scored; copied: which test faces (n,) training has seen.
    fingerprints: of the data files, by train.faces, and code: commit and fingerprint, both as run.json has them.
    """

    faces: Mapping[str, Arrays]
    copied: np.ndarray | None
    fingerprints: Mapping[str, str]
    code: Mapping[str, str | None]


@dataclass(frozen=True)
class Place:
    """Where a trial runs: threads of its CPUs, "cuda" where it was given a share of a GPU, else "cpu"."""

    threads: int
    device: Literal["cpu", "cuda"]


class Clock(NamedTuple):
    """A moment of this process: seconds of the wall, and of all CPUs so far."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Clock":
        """This moment."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.perf_counter(), usage.ru_utime + usage.ru_stime)


def arrays(faces: Faces) -> Arrays:
    """The same faces for Ray's object store."""
    return Arrays(faces.pixels.numpy(), faces.labels.numpy(), faces.rows.numpy(), faces.classes, faces.drawn)


def faces(shared: Arrays) -> Faces:
    """Faces on the memory of `shared`, without a copy; nothing may write to them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        pixels, labels, rows = (torch.from_numpy(array) for array in (shared.pixels, shared.labels, shared.rows))
    return Faces(pixels, labels, rows, shared.classes, shared.drawn)


def run(config: Config, sweep: Sweep, place: Place, kept: Storage, data: Data) -> None:
    """Train the point `config` from its last whole checkpoint in storage, or from the start.

    A training that diverges, or whose input is wrong, ends with a report that says so: tried again, it would end in the
    same way. Any other error is raised, so that Ray Tune tries again, on another node perhaps, and a resumed sweep does
    so too.
    """
    try:
        _train(spaces.point(sweep, config), sweep, place, kept, data)
    except DivergedError as error:
        tune.report({"epoch": 0, METRIC: 0.0, BEST: 0.0, "diverged": 1, "reason": str(error)})
    except InputError as error:
        tune.report({"epoch": 0, METRIC: 0.0, BEST: 0.0, "diverged": 0, "reason": str(error)})


def _train(config: Config, sweep: Sweep, place: Place, kept: Storage, data: Data) -> None:
    name, what = names.identifier(config), spaces.training(sweep, config, place.threads, place.device)
    ended = outcome.read(kept, name)
    if ended is not None:  # by a trial that was killed before Tune took note of its end
        tune.report(brief(ended.summary.history, ended.summary.places[-1]) | {"kept": 1})
        return
    own, validation = prepare(what, place, data)
    session = sessions.begin(what.params, what.how, what.seed, own)
    places = resume(session, storage.checkpoints(kept, name))
    if places:
        report(session, places, kept=True)  # Tune may know less: a driver is killed between a checkpoint and its note
    before = Clock.now()
    for record in sessions.advance(session, what.params, what.how, what.seed, own, validation):
        if record.complete:
            check_finite(record.epoch, record.scalars)
            now = Clock.now()
            places.append(here(record.epoch, record.seconds, place, before, now))
            report(session, places)
            before = now
    checkpoint.set_weights(session.state.averaged, session.best)
    summary = Summary(session.history, session.best_epoch, places)
    found = score(session.state.averaged, data, session.history)
    outcome.write(kept, name, Ended(summary, found, about(what, own, data)))


def prepare(what: Training, place: Place, data: Data) -> tuple[Faces, Faces]:
    """Threads of this process, and the faces to learn from and to validate on, on the trial's device."""
    if place.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("Ray gave this trial a GPU that PyTorch cannot use")  # another node's may do
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    device, params = sessions.device(what.params.compute), what.params
    own = sessions.learnt(params, faces(data.faces[params.train.faces]), what.seed)
    return own.to(device), faces(data.faces["val"]).to(device)


def about(what: Training, own: Faces, data: Data) -> dict[str, Any]:
    """run.json of a trial: that of the train stage for the same training."""
    result = run_json.describe(what.params, what.method, what.seed, own, [], data.code)
    result["data"]["fingerprint"] = data.fingerprints[what.params.train.faces]
    return result


def resume(session: Session, checkpoints: list[tune.Checkpoint]) -> list[dict[str, Any]]:
    """Continue from the first of the checkpoints that is whole; returns its places, none for a training from scratch.

    A worker that is killed while it writes leaves a checkpoint in pieces; the one before it is still there.
    """
    for saved in checkpoints:
        try:
            with saved.as_directory() as folder:
                places: list[dict[str, Any]] = json.loads((Path(folder) / PLACES).read_text())
                sessions.restore(session, Path(folder) / STATE)
        except (InputError, FileNotFoundError, ValueError):
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


def row(metrics: Mapping[str, float], place: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch as W&B shows it: its metrics, and what it took of the machine as "worker/..."."""
    return dict(metrics) | {f"worker/{name}": place[name] for name in USE if name in place}


def brief(history: Sequence[Mapping[str, float]], place: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune is told of the last epoch: Tune keeps about 2 KiB for each number of each trial, so its row is a text.

    Schedulers and Optuna see the best epoch so far, by which the tables compare trials, and not the last one.
    """
    whole = row(history[-1], place)
    best = max(one[METRIC] for one in history)
    return {name: whole[name] for name in TOLD} | {BEST: best, "row": json.dumps(whole), "diverged": 0, "reason": ""}


def report(session: Session, places: list[dict[str, Any]], kept: bool = False) -> None:
    """Report the last epoch together with a checkpoint of the whole session; kept: it was trained before."""
    with tempfile.TemporaryDirectory() as folder:
        sessions.save(session, Path(folder) / STATE)
        (Path(folder) / PLACES).write_text(json.dumps(places))
        told = brief(session.history, places[-1]) | ({"kept": 1} if kept else {})
        tune.report(told, checkpoint=tune.Checkpoint.from_directory(folder))


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


def score(network: Network, data: Data, history: Sequence[Mapping[str, float]]) -> Score:
    """Predictions of a network on the validation faces; on the test faces too where data has "test"."""
    device = next(network.parameters()).device

    def units(name: str) -> dict[str, Tensor]:
        return prediction.unit_log_probabilities(network, faces(data.faces[name]).to(device).pixels)

    validation = prediction.vote(units("val"), network.vote).cpu().numpy()
    lost = chance.stuck([row["val/accuracy"] for row in history], faces(data.faces["val"]).labels)
    own = Score(validation, network.count(), None, collapsed=lost)
    if "test" not in data.faces:
        return own
    found, test = units("test"), faces(data.faces["test"])
    probabilities = prediction.vote(found, network.vote).cpu()
    metrics = evaluate.metrics(probabilities, test.labels, torch.tensor(data.copied), test.classes)
    metrics |= evaluate.by_unit(found, test.labels)
    return own._replace(test=metrics, test_probabilities=probabilities.numpy())


def score_checkpoint(
    config: Config, sweep: Sweep, place: Place, saved: tune.Checkpoint, data: Data, kept: Storage | None
) -> Ended:
    """What is left of a trial that did not come to its own end, written to `kept` unless that is None."""
    what = spaces.training(sweep, config, place.threads, place.device)
    own, _ = prepare(what, place, data)
    network = sessions.begin(what.params, what.how, what.seed, own).state.averaged
    with saved.as_directory() as folder:
        checkpoint.set_weights(network, best(Path(folder)))
        known = summary(Path(folder))
        ended = Ended(known, score(network, data, known.history), about(what, own, data))
    if kept is not None:
        outcome.write(kept, names.identifier(config), ended)
    return ended
