"""Units that train in parallel: consecutive ones form a segment, and each segment learns in a Ray worker of its own.

No gradient comes back, so that a segment takes the next batch while the following one still learns from the last.
Features go forward through Ray's object store, or straight, as compute.transport says. The numbers are those of
`cfpn.training.train`.
"""

import statistics
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import nn

from cfpn import checkpoint, training
from cfpn.faces import Faces
from cfpn.learner import DivergedError, weigh
from cfpn.training import Record, State
from pipeline.process import InputError
from pipeline.runs import cluster
from pipeline.runs.segment import Report, Segment, Task, segments
from pipeline.runs.session import DIRECT

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
UNDER_WAY = 3  # batches between the first segment and the last
RETRIES = 3  # of an epoch in which a worker died
PATIENCE = 10.0  # seconds for workers to begin before it is asked whether there is place for them
LOST = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError)  # what the death of a worker raises
PICTURED = 12  # steps of which timing.json keeps when each worker began and ended
MIB = 2**20

# Who worked when: worker, step, begin and end in seconds of the clock, bytes handed on, bytes of memory at most so far.
Log = list[dict[str, float]]


def train(state: State, task: Task, faces: Faces, validation: Faces, workers: int, log: Log) -> Iterator[Record]:
    """`cfpn.training.train` with the units on `workers` Ray workers; the same records and the same state.

    An epoch in which a worker dies is repeated from the state before it, by new workers. Raises DivergedError, and
    InputError where several workers would give other numbers than one.
    """
    workers = min(workers, len(state.network.units))
    if workers > 1:
        check_no_dropout(state.network)
    if ray.util.get_current_placement_group() is None:
        cluster.check_resources(workers, *needs(task))
    weigh(state.learners, task.recipe.class_weights, faces.labels, state.network.classes)
    shared = ray.put(faces.pixels.cpu().numpy()), ray.put(faces.labels.cpu().numpy())
    crew: list[Any] = []
    try:
        for epoch in range(state.epoch, task.recipe.epochs):
            told_before = len(log)
            for attempt in range(RETRIES + 1):
                try:
                    crew = crew or hired(state, task, workers, shared)
                    values, seconds = yield from an_epoch(crew, task, epoch, log)
                    take_over(state, crew, epoch + 1)
                    break
                except LOST as error:
                    dismiss(crew)
                    crew = []
                    del log[told_before:]  # other workers may have other units
                    if attempt == RETRIES:
                        raise WorkerLostError(f"epoch {epoch + 1}: a worker died {RETRIES + 1} times") from error
                    print(f"epoch {epoch + 1}: a worker died; the epoch begins again", file=sys.stderr)
            steps, told = task.steps // task.recipe.epochs, training.summary(state, values, validation)
            yield Record(epoch + 1, (epoch + 1) * steps, seconds, told, complete=True)
    finally:
        dismiss(crew)


def check_no_dropout(network: nn.Module) -> None:
    """Raise InputError for a network with dropout, whose units draw from one stream of random numbers, one by one."""
    found = [name for name, module in network.named_modules() if isinstance(module, DROPOUT) and module.p > 0]
    if found:
        raise InputError(f"compute.workers: expected 1 for a network with dropout, which is at {found[0]}: "
                         "several workers would draw other numbers than one")  # fmt: skip


class WorkerLostError(OSError):
    """A worker died again and again, or no machine is left; the checkpoint of the last complete epoch is kept."""


def hired(state: State, task: Task, workers: int, shared: tuple[Any, Any]) -> list[Any]:
    """A worker for each segment, with the state after state.epoch; fewer than `workers` where a node has been lost."""
    how = {"enable_tensor_transport": task.transport in DIRECT}
    hire = ray.remote(**how)(Segment)  # type: ignore[call-overload]  # Ray's types lack the option
    while True:
        places = segments(state, min(workers, room(task, workers)))
        crew: list[Any] = [hire.options(**options).remote() for options in seats(task, len(places))]
        join(task, crew)
        built = [worker.build.remote(task, where, *shared) for worker, where in zip(crew, places, strict=True)]
        # It takes Ray a while to notice that a node is gone. Until then it would wait for a place there, and after too.
        while ray.wait(built, num_returns=len(built), timeout=PATIENCE)[1] and len(places) <= room(task, workers):
            pass
        if len(places) <= room(task, workers):
            break
        dismiss(crew)
    ray.get(built)
    if state.epoch:
        saved = ray.put({name: t.detach().cpu().numpy() for name, t in checkpoint.tensors(state).items()})
        ray.get([worker.load.remote(saved, state.epoch) for worker in crew])
    return crew


def needs(task: Task) -> tuple[int, int]:
    """CPUs and GPUs of a worker."""
    return (0, 1) if task.device == "cuda" else (task.threads, 0)


def room(task: Task, workers: int) -> int:
    """How many workers there is place for; `workers` in a sweep's trial, which has reserved it.

    Raises WorkerLostError where there is none.
    """
    if ray.util.get_current_placement_group() is not None:
        return workers
    if (places := cluster.room(*needs(task))) == 0:
        raise WorkerLostError("no node is left that could hold a worker")
    return places


def seats(task: Task, count: int) -> list[dict[str, Any]]:
    """Ray's options of each worker: spread over the nodes, or what a sweep's trial has reserved for it."""
    group = ray.util.get_current_placement_group()
    if group is None:
        cpus, gpus = needs(task)
        return [{"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}] * count
    return [
        {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, place),
        }
        for place, bundle in enumerate(group.bundle_specs[:count])
    ]


def join(task: Task, crew: Sequence[Any]) -> None:
    """Let the workers send tensors to each other, where features go by Ray Direct Transport."""
    if task.transport in DIRECT:
        from ray.experimental.collective import create_collective_group

        create_collective_group(list(crew), backend=task.transport)


def dismiss(crew: Sequence[Any]) -> None:
    """End the workers."""
    for worker in crew:
        ray.kill(worker)


def an_epoch(
    crew: Sequence[Any], task: Task, epoch: int, log: Log
) -> Generator[Record, None, tuple[dict[str, list[float]], float]]:
    """Records of the steps of an epoch (from 0); returns all values by metric and the seconds."""
    begin, values = time.perf_counter(), defaultdict(list)
    steps = task.steps // task.recipe.epochs
    ray.get([worker.begin.remote(epoch) for worker in crew])
    under_way: deque[list[Any]] = deque()
    for done in range(steps + UNDER_WAY - 1):
        if done < steps:
            under_way.append(sent_directly(crew, task.transport) if task.transport in DIRECT else sent_through(crew))
        if done >= UNDER_WAY - 1:
            step = epoch * steps + done - UNDER_WAY + 1
            found = scalars(answers(under_way.popleft()), step, log)
            for name, value in found.items():
                values[name].append(value)
            yield Record(epoch, step + 1, time.perf_counter() - begin, found, complete=False)
    return values, time.perf_counter() - begin


def sent_through(crew: Sequence[Any]) -> list[Any]:
    """Ask every worker in turn for the next step, on the features of the one before; returns their reports to come."""
    features: Any = {}
    reports = []
    for worker in crew:
        features, report = worker.step.options(num_returns=2).remote(features)
        reports.append(report)
    return reports


def sent_directly(crew: Sequence[Any], transport: str) -> list[Any]:
    """The same by Ray Direct Transport: from worker to worker, past the object store."""
    features: Any = {}
    reports = []
    for worker in crew:
        how = {"tensor_transport": transport} if worker is not crew[-1] else {}
        features = worker.direct_step.options(**how).remote(features)
        reports.append(worker.report.remote())
    return reports


def answers(reports: list[Any]) -> list[Report]:
    """The reports of a step; raises DivergedError as the worker raised it."""
    try:
        return ray.get(reports)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DivergedError):
            raise DivergedError(str(error.cause)) from None
        if isinstance(error.cause, LOST):  # a worker missed the features of one that died
            raise error.cause from None
        raise


def scalars(reports: list[Report], step: int, log: Log) -> dict[str, float]:
    """Losses and training accuracy of a step by their metric names, in the order of the units."""
    losses = [loss for report in reports for loss in report.losses]
    for worker, report in enumerate(reports):
        span = {"worker": worker, "step": step, "begin": report.begin, "end": report.end}
        log.append(span | {"sent": report.sent, "peak": report.peak})
    accuracy = reports[-1].accuracy
    if accuracy is None:
        raise ValueError(f"step {step + 1}: expected an accuracy from the worker of the last unit, found none")
    result = {f"unit/{name}/loss": value for name, value in losses[:-1]}
    return result | {"train/loss": losses[-1][1], "train/accuracy": accuracy}


def take_over(state: State, crew: Sequence[Any], epoch: int) -> None:
    """Put what the workers have learnt together in `state`, which then stands after `epoch`."""
    whole: dict[str, np.ndarray] = {}
    for part in ray.get([worker.tensors.remote() for worker in crew]):
        whole |= part
    checkpoint.restore(state, {name: torch.tensor(array) for name, array in whole.items()}, epoch)


def timetable(state: State, log: Log, skip: int = 0) -> list[dict[str, Any]]:
    """What a log says of each worker, as JSON values.

    Where the number of workers changed, only steps of the last number count.
    units: their names. busy_ms, sent_mib: milliseconds of work and MiB handed on in a step, means over all steps from
    `skip` on. peak_mib: memory at most. spans: step, begin and end in seconds since the first one's begin, of the first
    PICTURED steps from `skip` on.
    """
    crews = Counter(int(span["step"]) for span in log)  # by step; fewer workers after one was lost
    count = crews[max(crews)]
    late = [span for span in log if span["step"] >= skip and crews[int(span["step"])] == count]
    first = min(span["begin"] for span in late)
    result = []
    for worker, places in enumerate(segments(state, count)):
        own = [span for span in late if span["worker"] == worker]
        result.append({
            "units": [state.network.units[place].name for place in places],
            "busy_ms": 1000 * statistics.fmean(span["end"] - span["begin"] for span in own),
            "sent_mib": statistics.fmean(span["sent"] for span in own) / MIB,
            "peak_mib": max(span["peak"] for span in own) / MIB,
            "spans": [[int(one["step"]), one["begin"] - first, one["end"] - first] for one in own[:PICTURED]],
        })  # fmt: skip
    return result
