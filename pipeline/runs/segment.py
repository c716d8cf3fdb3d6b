"""Consecutive units of a training, which learn by themselves: what a Ray worker of `pipeline.runs.workers` does.

A segment takes the features that it needs, and hands on those that later segments need. It draws its own batches,
labels, augmentation and kernel matrices from (seed, epoch, step). Nothing here needs Ray.
"""

import resource
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cfpn import checkpoint, training
from cfpn import faces as data
from cfpn.allocator import keep_freed_memory
from cfpn.averaging import average
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Unit, walk
from cfpn.learner import DivergedError, finite, naming, unit_step, weigh
from cfpn.network import Network
from cfpn.partition import balanced, node_costs
from cfpn.recipe import Recipe
from cfpn.training import Method, State
from pipeline.networks import Model
from pipeline.runs.session import DIRECT, first_state

Features = dict[str, np.ndarray] | dict[str, Tensor]  # by name, each (n, h, w, c): as arrays, or as tensors if DIRECT


@dataclass(frozen=True)
class Task:
    """All that a worker needs to build the training that its segment is a part of."""

    model: Model
    method: Method
    recipe: Recipe
    seed: int
    steps: int
    device: str
    threads: int
    transport: str = "object_store"


class Report(NamedTuple):
    """What a segment says of a step: losses by unit, accuracy of the last unit, when it worked, bytes handed on.

    peak: bytes of memory so far, see `peak`.
    """

    losses: list[tuple[str, float]]
    accuracy: float | None
    begin: float
    end: float
    sent: int
    peak: int


def segments(state: State, workers: int) -> list[range]:
    """The units of each worker: consecutive ones, so that the workers' costs, counted from shapes, are near equal."""
    network = state.network
    nodes = [node for unit in network.units for node in unit.nodes]
    costs = dict(zip((node.name for node in nodes), node_costs(nodes, network.shapes), strict=True))
    of_units = [sum(costs[node.name] for node in unit.nodes) for unit in network.units]
    starts = [0, *balanced(of_units, min(workers, len(of_units))), len(of_units)]
    return [range(*pair) for pair in pairwise(starts)]


class Segment:
    """Consecutive units of a training, in a worker of their own."""

    def build(self, task: Task, places: range, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Make the training and take the units at `places` of it; pixels (n, c, h, w), labels (n,)."""
        torch.set_num_threads(task.threads)
        keep_freed_memory()
        device, model = torch.device(task.device), task.model
        self.faces = Faces(torch.tensor(pixels), torch.tensor(labels), torch.arange(len(labels))).to(device)
        state = first_state(model, task.method, task.recipe, task.seed, device)
        weigh(state.learners, task.recipe.class_weights, self.faces.labels, model.classes)
        self.take(task, state, places)

    def take(self, task: Task, state: State, places: range) -> None:
        """Take the units at `places` of a training."""
        self.task, self.state = task, state
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

    def step(self, features: Features) -> tuple[Features, Report]:
        """The step of all units of the segment on the next batch; returns the features that later segments need."""
        begin, task = time.time(), self.task
        i, (pixels, labels) = next(self.batches)
        step = self.epoch * (task.steps // task.recipe.epochs) + i
        random = data.generator(task.seed, training.SEED_AUGMENTATION, self.epoch, i)
        images = data.images(pixels, self.state.network.input_size)
        images = data.augment(images, task.recipe.augmentation, random, self.faces.side)
        torch.manual_seed(random.initial_seed())
        with naming(step):
            losses, live = self.learn(step, images, labels, features)
        if task.recipe.average:
            average(self.averaged, self.network, task.recipe.average, step)
        accuracy = None
        if self.last:
            logits = live[self.learners[-1].unit.outputs[0]]
            accuracy = (logits.argmax(1) == labels).float().mean().item()
        sent = self.handed_on(live)
        size = sum(array.nbytes for array in sent.values())
        return sent, Report(losses, accuracy, begin, time.time(), size, peak(images.device))

    def learn(
        self, step: int, images: Tensor, labels: Tensor, features: Features
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

    def handed_on(self, live: dict[str, Tensor]) -> Features:
        """Those of the features at the segment's end that later segments need."""
        maps = {name: packed(feature) for name, feature in live.items() if name in self.needed and name != IMAGE}
        return maps if self.task.transport in DIRECT else {name: as_array(each) for name, each in maps.items()}

    def direct_step(self, features: Features) -> Features:
        """`step` with one result, as Ray Direct Transport wants it; `report` has the other."""
        self.told: Report | DivergedError
        try:
            sent, self.told = self.step(features)
        except DivergedError as error:
            self.told = error
            raise
        return sent

    def report(self) -> Report:
        """What the last `direct_step` says; raises its DivergedError."""
        if isinstance(self.told, DivergedError):
            raise self.told
        return self.told

    def tensors(self) -> dict[str, np.ndarray]:
        """The part of the training's checkpoint that this segment has changed."""
        units = [learner.unit for learner in self.learners]
        starts = [f"optimizer/{unit.name}/" for unit in units]
        for place in ("network", "averaged"):
            starts += [f"{place}/heads.{unit.name}." for unit in units]
            starts += [f"{place}/nodes.{node.name}." for unit in units for node in unit.nodes]
        found = checkpoint.tensors(self.state)
        return {name: t.detach().cpu().numpy() for name, t in found.items() if name.startswith(tuple(starts))}


def peak(device: torch.device) -> int:
    """Most bytes of memory so far: what PyTorch had of a GPU, else what was resident of this process with its code."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 2**10
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def own_modules(network: Network, units: Sequence[Unit]) -> nn.ModuleList:
    """The nodes and heads of units in a network."""
    nodes = [network.nodes[node.name] for unit in units for node in unit.nodes]
    return nn.ModuleList(nodes + [network.heads[unit.name] for unit in units if unit.name in network.heads])


def packed(feature: Tensor) -> Tensor:
    """A feature map (n, c, h, w) as (n, h, w, c), which channels_last needs no copy for."""
    return feature.detach().permute(0, 2, 3, 1).contiguous()


def as_array(feature: Tensor) -> np.ndarray:
    """A feature as an array; NumPy has no bfloat16, whose bits go as int16."""
    feature = feature.cpu()
    return (feature.view(torch.int16) if feature.dtype is torch.bfloat16 else feature).numpy()


def unpacked(packed: np.ndarray | Tensor) -> Tensor:
    """The feature map of `packed`, on the same memory, which may be read-only: no unit writes to its inputs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        feature = torch.as_tensor(packed)
    return (feature.view(torch.bfloat16) if feature.dtype is torch.int16 else feature).permute(0, 3, 1, 2)
