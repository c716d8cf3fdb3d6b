"""Units that train in parallel: consecutive ones form a segment, and each segment learns in a Ray worker of its own.

No gradient comes back, so that a segment takes the next batch while the following one still learns from the last.
Features go forward through Ray's object store. Every worker draws its own batches, labels, augmentation and kernel
matrices from (seed, epoch, step), so that nothing of that travels. The numbers are those of `cfpn.training.train`.
"""

import math
import statistics
import sys
import time
import warnings
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from torch import Tensor, nn

from cfpn import checkpoint, prediction, training
from cfpn import faces as data
from cfpn.allocator import keep_freed_memory
from cfpn.averaging import average
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Unit, walk
from cfpn.learner import DivergedError, unit_step, weigh
from cfpn.network import CFPN, Network
from cfpn.partition import balanced, node_costs
from cfpn.training import Method, Recipe, Record, State
from pipeline import networks
from pipeline.networks import Baseline
from pipeline.runs import cluster

UNDER_WAY = 3  # batches between the first segment and the last
RETRIES = 3  # of an epoch in which a worker died


@dataclass(frozen=True)
class Task:
    """All that a worker needs to build the training that its segment is a part of."""

    model: CFPN | Baseline
    method: Method
    recipe: Recipe
    seed: int
    steps: int
    device: str
    threads: int


class Report(NamedTuple):
    """What a segment says of a step: losses by unit, accuracy of the last unit, when it worked, bytes handed on."""

    losses: list[tuple[str, float]]
    accuracy: float | None
    begin: float
    end: float
    sent: int


Log = list[dict[str, float]]  # who worked when: worker, step, begin and end in seconds of the clock, bytes handed on


def segments(state: State, workers: int) -> list[range]:
    """The units of each worker: consecutive ones, so that the workers' costs, counted from shapes, are near equal."""
    network = state.network
    nodes = [node for unit in network.units for node in unit.nodes]
    costs = dict(zip((node.name for node in nodes), node_costs(nodes, network.shapes(nodes)), strict=True))
    of_units = [sum(costs[node.name] for node in unit.nodes) for unit in network.units]
    starts = [0, *balanced(of_units, min(workers, len(of_units))), len(of_units)]
    return [range(*pair) for pair in pairwise(starts)]


class Segment:
    """Consecutive units of a training, in a worker of their own."""

    def build(self, task: Task, places: range, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Make the training and take the units at `places` of it; pixels (n, c, h, w), labels (n,)."""
        torch.set_num_threads(task.threads)
        keep_freed_memory()
        self.task, device, model = task, torch.device(task.device), task.model
        self.faces = Faces(torch.tensor(pixels), torch.tensor(labels), torch.arange(len(labels))).to(device)
        self.state = training.start(
            networks.build(model, task.seed), task.method, task.recipe, model.input_size, task.seed, device,
            model.channels, model.classes,
        )  # fmt: skip
        weigh(self.state.learners, task.recipe.class_weights, self.faces.labels, model.classes)
        self.learners = [self.state.learners[place] for place in places]
        self.places, self.last = places, places.stop == len(self.state.learners)
        self.needed = {name for learner in self.state.learners[places.stop :] for name in learner.unit.inputs}
        units = [learner.unit for learner in self.learners]
        self.network, self.averaged = own_modules(self.state.network, units), own_modules(self.state.averaged, units)

    def load(self, tensors: dict[str, np.ndarray], epoch: int) -> None:
        """Take over the state after `epoch` and begin the next."""
        saved = {name: torch.tensor(array) for name, array in tensors.items()}
        checkpoint.restore(self.state, saved, epoch)
        self.begin(epoch)

    def begin(self, epoch: int) -> None:
        """Begin an epoch (from 0): its batches come in the order that every worker draws."""
        self.epoch = epoch
        self.state.network.train()
        self.batches = enumerate(data.batches(self.faces, self.task.recipe.batch, self.task.seed, epoch))

    def step(self, features: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], Report]:
        """The step of all units of the segment on the next batch; returns the features that later segments need."""
        begin, task = time.time(), self.task
        i, (pixels, labels) = next(self.batches)
        step = self.epoch * (task.steps // task.recipe.epochs) + i
        random = data.generator(task.seed, training.SEED_AUGMENTATION, self.epoch, i)
        images = data.images(pixels, self.state.network.input_size)
        images = data.augment(images, task.recipe.augmentation, random, self.faces.side)
        torch.manual_seed(random.initial_seed())
        try:
            losses, live = self.learn(step, images, labels, features)
        except DivergedError as error:
            raise DivergedError(f"step {step + 1}: {error}") from error
        if task.recipe.average:
            average(self.averaged, self.network, task.recipe.average, step)
        accuracy = None
        if self.last:
            logits = live[self.learners[-1].unit.outputs[0]]
            accuracy = (logits.argmax(1) == labels).float().mean().item()
        sent = {name: packed(feature) for name, feature in live.items() if name in self.needed and name != IMAGE}
        size = sum(array.nbytes for array in sent.values())
        return sent, Report(losses, accuracy, begin, time.time(), size)

    def learn(
        self, step: int, images: Tensor, labels: Tensor, features: dict[str, np.ndarray]
    ) -> tuple[list[tuple[str, float]], dict[str, Tensor]]:
        """Losses of the units that learnt, and all features that there are at the segment's end."""
        targets = self.task.method.local_loss.targets(images, labels, self.state.network.classes)
        rates = self.task.method.schedule.rates(step, self.task.steps, len(self.state.learners))
        live = {name: unpacked(array).to(images.device) for name, array in features.items()} | {IMAGE: images}
        losses, walking = [], walk([learner.unit for learner in self.learners], live)
        for (unit, inputs), learner, place in zip(walking, self.learners, self.places, strict=True):
            outputs, loss = unit_step(learner, inputs, targets, rates[place])
            walking.send(outputs)
            live = {name: feature for name, feature in (live | outputs).items() if name not in unit.dropped}
            if loss is not None:
                losses.append((unit.name, finite(unit.name, loss.item())))
        return losses, live

    def tensors(self) -> dict[str, np.ndarray]:
        """The part of the training's checkpoint that this segment has changed."""
        units = [learner.unit for learner in self.learners]
        starts = [f"adam/{unit.name}/" for unit in units]
        for place in ("network", "averaged"):
            starts += [f"{place}/heads.{unit.name}." for unit in units]
            starts += [f"{place}/nodes.{node.name}." for unit in units for node in unit.nodes]
        found = checkpoint.tensors(self.state)
        return {name: t.detach().cpu().numpy() for name, t in found.items() if name.startswith(tuple(starts))}


def own_modules(network: Network, units: Sequence[Unit]) -> nn.ModuleList:
    """The nodes and heads of units in a network."""
    nodes = [network.nodes[node.name] for unit in units for node in unit.nodes]
    return nn.ModuleList(nodes + [network.heads[unit.name] for unit in units if unit.name in network.heads])


def finite(name: str, loss: float) -> float:
    """The loss; raises DivergedError where it is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss of unit {name} is {loss}")
    return loss


def packed(feature: Tensor) -> np.ndarray:
    """A feature map (n, c, h, w) as an array (n, h, w, c), which channels_last needs no copy for."""
    return feature.detach().cpu().permute(0, 2, 3, 1).contiguous().numpy()


def unpacked(array: np.ndarray) -> Tensor:
    """The feature map of `packed`, on the same read-only memory: no unit writes to its inputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array).permute(0, 3, 1, 2)


def train(state: State, task: Task, faces: Faces, validation: Faces, workers: int, log: Log) -> Iterator[Record]:
    """`cfpn.training.train` with the units on `workers` Ray workers; the same records and the same state.

    An epoch in which a worker dies is repeated from the state before it, by new workers. Raises DivergedError.
    """
    cluster.check_resources(workers, task.threads, int(task.device == "cuda"))
    weigh(state.learners, task.recipe.class_weights, faces.labels, state.network.classes)
    shared = ray.put(faces.pixels.cpu().numpy()), ray.put(faces.labels.cpu().numpy())
    crew: list[Any] = []
    try:
        for epoch in range(state.epoch, task.recipe.epochs):
            for attempt in range(RETRIES + 1):
                try:
                    crew = crew or hired(state, task, segments(state, workers), shared)
                    values, seconds = yield from an_epoch(crew, task, epoch, log)
                    take_over(state, crew, epoch + 1)
                    break
                except ray.exceptions.RayActorError as error:
                    dismiss(crew)
                    crew = []
                    if attempt == RETRIES:
                        raise WorkerLostError(f"epoch {epoch + 1}: a worker died {RETRIES + 1} times") from error
                    print(f"epoch {epoch + 1}: a worker died; the epoch begins again", file=sys.stderr)
            means = {name: statistics.fmean(found) for name, found in values.items()}
            means |= prediction.validate(state.averaged, validation)
            if not math.isfinite(means["val/loss"]):
                raise DivergedError(f"epoch {epoch + 1}: the validation loss is {means['val/loss']}")
            steps = task.steps // task.recipe.epochs
            yield Record(epoch + 1, (epoch + 1) * steps, seconds, means, complete=True)
    finally:
        dismiss(crew)


class WorkerLostError(OSError):
    """A worker died again and again; the checkpoint of the last complete epoch is kept."""


def hired(state: State, task: Task, places: Sequence[range], shared: tuple[Any, Any]) -> list[Any]:
    """A worker for each segment, with the state after state.epoch."""
    needs = {"num_gpus": 1} if task.device == "cuda" else {"num_cpus": task.threads}
    hire = ray.remote(Segment).options(scheduling_strategy="SPREAD", **needs)
    crew: list[Any] = [hire.remote() for _ in places]
    ray.get([worker.build.remote(task, where, *shared) for worker, where in zip(crew, places, strict=True)])
    if state.epoch:
        saved = ray.put({name: t.detach().cpu().numpy() for name, t in checkpoint.tensors(state).items()})
        ray.get([worker.load.remote(saved, state.epoch) for worker in crew])
    return crew


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
            under_way.append(sent_through(crew))
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


def answers(reports: list[Any]) -> list[Report]:
    """The reports of a step; raises DivergedError as the worker raised it."""
    try:
        return ray.get(reports)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DivergedError):
            raise DivergedError(str(error.cause)) from None
        raise


def scalars(reports: list[Report], step: int, log: Log) -> dict[str, float]:
    """Losses and training accuracy of a step by their metric names, in the order of the units."""
    losses = [loss for report in reports for loss in report.losses]
    for worker, report in enumerate(reports):
        span = {"worker": worker, "step": step, "begin": report.begin, "end": report.end, "sent": report.sent}
        log.append(span)
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
