"""One trainer: a method is a partition into units, and whether gradients pass between them."""

import copy
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from cfpn import faces as data
from cfpn import learner, prediction
from cfpn.averaging import average
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Cuts, Node
from cfpn.heads import UnitHead
from cfpn.learner import DivergedError, Learner, Losses, naming, read, scalars, weigh
from cfpn.network import Network
from cfpn.objectives import LocalLoss, Targets
from cfpn.recipe import Recipe
from cfpn.schedule import Schedule

SEED_HEADS, SEED_AUGMENTATION = 1, 2  # second part of a generator's key, so that the two draw apart
READ_EVERY = {"cuda": 50}  # steps, elsewhere 1: to read a loss waits for all that the device still has to do


@dataclass(frozen=True)
class Method:
    """How a network is trained.

    units: where the network is cut (see `graph.units`). gradients: "stop" at the cuts, or "pass" through them, which is
    deep supervision, the control. local_loss: what a hidden unit minimises. schedule: when and how fast units learn.
    vote: predict by the mean log probability of all units' classifiers, in place of the network's own alone.
    recompute: see `Learner`. Raises ValueError for settings that contradict each other.
    """

    units: Cuts = "block"
    gradients: Literal["stop", "pass"] = "stop"
    local_loss: LocalLoss = field(default_factory=LocalLoss)
    schedule: Schedule = field(default_factory=Schedule)
    vote: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.gradients not in ("stop", "pass"):
            raise ValueError(f"gradients: expected stop or pass, found {self.gradients!r}")
        if self.gradients == "pass" and self.schedule.rests:
            raise ValueError("schedule: expected update_every 1 and first_unit_stops_at 1 where gradients pass")
        if self.vote and not self.local_loss.classifies:
            raise ValueError("vote: expected a local_loss with classifier_weight and a linear classifier")


class Record(NamedTuple):
    """What training says: after a step its losses, after an epoch also the validation; seconds are of this epoch.

    epoch: from 0 in a step's record, the epochs done in a complete one. step: the steps done. On CUDA the losses of
    steps are read together; until then a step's record holds those read last, at first none.
    """

    epoch: int
    step: int
    seconds: float
    scalars: dict[str, float]
    complete: bool


@dataclass
class State:
    """Everything that training changes, so that it can be saved after any epoch and continued bit for bit.

    averaged: the network with the moving average of all weights, which is what validation sees and a run keeps; the
    network itself where there is no average.
    """

    network: Network
    averaged: Network
    learners: list[Learner]
    epoch: int = 0


def start(
    nodes: list[Node], method: Method, recipe: Recipe, input_size: int, seed: int, device: torch.device,
    channels: int = 1, classes: int = 7,
) -> State:  # fmt: skip
    """The state before the first step, its network in training mode.

    Heads are drawn from `seed` without touching the network's weights. Raises ValueError where nodes and method do not
    fit, and for a unit without a weight that its loss could train.
    """
    loss = method.local_loss
    network = Network(
        nodes, method.units, input_size=input_size, channels=channels, classes=classes, head=loss.head,
        pool=loss.pool, classifies=loss.classifies, vote=method.vote,
        seed=data.generator(seed, SEED_HEADS).initial_seed(),
    ).to(device)  # fmt: skip
    learners = [_learner(network, place, method, recipe) for place in range(len(network.units))]
    averaged = copy.deepcopy(network) if recipe.average else network
    network.train()
    return State(network, averaged, learners)


def _learner(network: Network, place: int, method: Method, recipe: Recipe) -> Learner:
    unit, last = network.units[place], place == len(network.units) - 1
    head = None if last else cast(UnitHead, network.heads[unit.name])
    parameters = [p for node in unit.nodes for p in node.module.parameters()]
    learnt = any(p.requires_grad for p in parameters) or (head is not None and method.local_loss.trains_head)
    parameters += head.parameters() if head is not None else []
    if not parameters or (method.gradients == "stop" and not learnt):
        raise ValueError(f"unit {unit.name!r}: expected a weight that its loss can train; join it with a neighbour")
    return Learner(
        unit, head, None if last else method.local_loss,
        recipe.optimizer.build(parameters, method.schedule.learning_rate),
        recipe.precision, method.recompute, label_smoothing=recipe.label_smoothing,
    )  # fmt: skip


def train(state: State, method: Method, recipe: Recipe, faces: Faces, validation: Faces, seed: int) -> Iterator[Record]:
    """Train from state.epoch to recipe.epochs; yields a Record per step and one with the validation per epoch.

    When a complete record is yielded, the state is whole. Data order, augmentation and dropout depend on (seed, epoch,
    step) alone. Faces are moved to the network's device. Raises DivergedError at the first loss that is not finite.
    """
    device = next(state.network.parameters()).device
    faces, validation = faces.to(device), validation.to(device)
    per_epoch = len(faces) // recipe.batch
    weigh(state.learners, recipe.class_weights, faces.labels, state.network.classes)
    for epoch in range(state.epoch, recipe.epochs):
        begin, values, losses, unread = time.perf_counter(), defaultdict(list), {}, list[learner.StepResult]()
        state.network.train()
        for i, (pixels, labels) in enumerate(data.batches(faces, recipe.batch, seed, epoch)):
            step = epoch * per_epoch + i
            random = data.generator(seed, SEED_AUGMENTATION, epoch, i)
            images = data.images(pixels, state.network.input_size)
            images = data.augment(images, recipe.augmentation, random, faces.side)
            rates = method.schedule.rates(step, recipe.epochs * per_epoch, len(state.learners))
            unread.append(_step(state, method, images, labels, rates, step, random.initial_seed()))
            if recipe.average:
                average(state.averaged, state.network, recipe.average, step)
            if len(unread) == READ_EVERY.get(images.device.type, 1) or i + 1 == per_epoch:
                for losses in read(unread):
                    for name, value in losses.items():
                        values[name].append(value)
            yield Record(epoch, step + 1, time.perf_counter() - begin, losses, complete=False)
        state.epoch = epoch + 1
        seconds = time.perf_counter() - begin
        yield Record(epoch + 1, (epoch + 1) * per_epoch, seconds, summary(state, values, validation), complete=True)


def summary(state: State, values: Mapping[str, Sequence[float]], validation: Faces) -> dict[str, float]:
    """What the complete record of the epoch at state.epoch says: means over its steps, and the validation.

    Raises DivergedError where the validation loss is not finite.
    """
    means = {name: statistics.fmean(found) for name, found in values.items()}
    means |= prediction.validate(state.averaged, validation)
    if not math.isfinite(means["val/loss"]):
        raise DivergedError(f"epoch {state.epoch}: the validation loss is {means['val/loss']}")
    return means


def _step(
    state: State, method: Method, images: Tensor, labels: Tensor, rates: list[float], step: int, seed: int
) -> learner.StepResult:
    with torch.random.fork_rng([images.device] if images.is_cuda else []), naming(step):
        torch.manual_seed(seed)  # for the dropout of comparison networks
        return learner.StepResult(step, *launch(state, method, images, labels, rates))


def train_step(state: State, method: Method, images: Tensor, labels: Tensor, rates: list[float]) -> dict[str, float]:
    """One optimiser step of every unit on images (n, c, h, w) and labels (n,); returns its losses by name.

    rates: the learning rate of every unit, 0 where a hidden one rests. Raises DivergedError.
    """
    return scalars(*launch(state, method, images, labels, rates))


def launch(state: State, method: Method, images: Tensor, labels: Tensor, rates: list[float]) -> tuple[Losses, Tensor]:
    """`train_step` without waiting for the device: losses of the units, and the share of faces named rightly."""
    hidden = len(state.learners) > 1
    nothing = Targets(labels, labels, labels)  # without hidden units nothing reads the first two
    targets = method.local_loss.targets(images, labels, state.network.classes) if hidden else nothing
    take_step = learner.local_step if method.gradients == "stop" else learner.joint_step
    losses, logits = take_step(state.learners, {IMAGE: images}, targets, rates)
    return losses, (logits.argmax(1) == labels).float().mean()
