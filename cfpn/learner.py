"""A unit with all that its learning needs: its loss, its step, and the step of several units together."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cfpn.graph import Unit, run, walk
from cfpn.heads import UnitHead, balanced_weights, cross_entropy
from cfpn.objectives import LocalLoss, Targets

Precision = Literal["float32", "bfloat16"]
ClassWeights = Literal["none", "balanced"]


class DivergedError(FloatingPointError):
    """The loss of a unit is no longer finite; the message names the unit, and the step where it is known."""


@dataclass
class Learner:
    """A unit with what belongs to it alone.

    head, loss: of a hidden unit; None for the last unit, which minimises the cross-entropy of its logits.
    optimizer: over the unit's and its head's parameters; None where nothing is trained.
    precision: "bfloat16" runs the forward pass under autocast. recompute: every node runs again in the backward pass,
    which trades time for memory; the numbers stay the same.
    class_weights: (classes,), in every cross-entropy; None: all classes count the same. label_smoothing: see `Recipe`.
    """

    unit: Unit
    head: UnitHead | None = None
    loss: LocalLoss | None = None
    optimizer: torch.optim.Optimizer | None = None
    precision: Precision = "float32"
    recompute: bool = False
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0

    @property
    def own_optimizer(self) -> torch.optim.Optimizer:
        """The optimiser; raises ValueError where nothing is trained."""
        if self.optimizer is None:
            raise ValueError(f"unit {self.unit.name} has no optimiser")
        return self.optimizer


def outputs_of(learner: Learner, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Forward pass of the unit on its inputs: its outputs by name."""
    return run(learner.unit.nodes, features, learner.unit.outputs, learner.recompute)


def unit_loss(learner: Learner, features: dict[str, Tensor], targets: Targets) -> tuple[dict[str, Tensor], Tensor]:
    """Forward pass and loss of a unit on its inputs: its outputs by name, and the scalar loss.

    Raises DivergedError where a kernel matrix of its features cannot be inverted.
    """
    device = targets.labels.device.type
    # Forward alone under autocast: in the backward of a Gram matrix it would round to bfloat16 what float32 kept.
    with torch.autocast(device, torch.bfloat16, enabled=learner.precision == "bfloat16"):
        outputs = outputs_of(learner, features)
        try:
            return outputs, _loss(learner, list(outputs.values()), targets)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # of a kernel matrix with NaN
            raise DivergedError(f"the loss of unit {learner.unit.name} has no value: {error}") from error


def _loss(learner: Learner, outputs: list[Tensor], targets: Targets) -> Tensor:
    if learner.loss is None or learner.head is None:
        return cross_entropy(outputs[0], targets.labels, learner.class_weights, learner.label_smoothing)
    own = targets._replace(class_weights=learner.class_weights, label_smoothing=learner.label_smoothing)
    return learner.loss(outputs, own, learner.head)


def weigh(learners: Sequence[Learner], how: ClassWeights, labels: Tensor, classes: int) -> None:
    """Give all learners the class weights that the training labels (n,) ask for."""
    for learner in learners:
        learner.class_weights = balanced_weights(labels, classes) if how == "balanced" else None


def update(learners: Sequence[Learner], loss: Tensor, rates: Sequence[float]) -> None:
    """Backward pass of `loss` and one optimiser step of each learner at its learning rate."""
    with torch.autocast(loss.device.type, enabled=False):  # else products of the backward pass are bfloat16 too
        loss.backward()  # type: ignore[no-untyped-call]
    for learner, rate in zip(learners, rates, strict=True):
        for group in learner.own_optimizer.param_groups:
            group["lr"] = rate
        learner.own_optimizer.step()
        learner.own_optimizer.zero_grad()


def unit_step(
    learner: Learner, features: dict[str, Tensor], targets: Targets, rate: float
) -> tuple[dict[str, Tensor], Tensor | None]:
    """One step of a unit on its detached inputs: its detached outputs by name, and its detached loss.

    Nothing but its own loss reaches its parameters. At rate 0 the unit rests: it runs forward, and there is no loss.
    """
    if not rate:
        with (
            torch.no_grad(),
            torch.autocast(targets.labels.device.type, torch.bfloat16, enabled=learner.precision == "bfloat16"),
        ):
            return outputs_of(learner, features), None
    outputs, loss = unit_loss(learner, features, targets)
    outputs = {name: feature.detach() for name, feature in outputs.items()}
    update([learner], loss, [rate])
    return outputs, loss.detach()


Losses = list[tuple[str, Tensor]]  # of the units that learnt, with their names; the last unit's comes last


def local_step(
    learners: list[Learner], features: dict[str, Tensor], targets: Targets, rates: list[float]
) -> tuple[Losses, Tensor]:
    """A step of every unit by its own loss alone; returns the losses and the logits (n, classes) of the last unit."""
    losses, walking = [], walk([learner.unit for learner in learners], features)
    for (unit, inputs), learner, rate in zip(walking, learners, rates, strict=True):
        outputs, loss = unit_step(learner, inputs, targets, rate)
        walking.send(outputs)  # the walk goes on once it has them
        if loss is not None:
            losses.append((unit.name, loss))
    return losses, outputs[unit.outputs[0]]  # of the last unit


def joint_step(
    learners: list[Learner], features: dict[str, Tensor], targets: Targets, rates: list[float]
) -> tuple[Losses, Tensor]:
    """A step by the sum of all losses, whose gradients cross units; returns what `local_step` does."""
    losses, walking = [], walk([learner.unit for learner in learners], features)
    for (unit, inputs), learner in zip(walking, learners, strict=True):
        outputs, loss = unit_loss(learner, inputs, targets)
        walking.send(outputs)
        losses.append((unit.name, loss))
    first, *others = (loss for _, loss in losses)
    update(learners, sum(others, start=first), rates)
    return losses, outputs[unit.outputs[0]].detach()


def finite(name: str, loss: float) -> float:
    """The loss of a unit; raises DivergedError where it is not finite."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss of unit {name} is {loss}")
    return loss


def scalars(losses: Losses, correct: Tensor) -> dict[str, float]:
    """Losses and training accuracy by their metric names; raises DivergedError where a loss is not finite."""
    names = [name for name, _ in losses]
    *values, accuracy = torch.stack([loss.detach() for _, loss in losses] + [correct]).tolist()  # one synchronisation
    for name, value in zip(names, values, strict=True):
        finite(name, value)
    result = {f"unit/{name}/loss": value for name, value in zip(names[:-1], values, strict=False)}
    return result | {"train/loss": values[-1], "train/accuracy": accuracy}


class StepResult(NamedTuple):
    """Number of a step (from 0), losses of its units, share of faces named rightly: on the device, not read yet."""

    number: int
    losses: Losses
    correct: Tensor


def read(steps: list[StepResult]) -> Iterator[dict[str, float]]:
    """What `scalars` says of each step; the list is empty afterwards. Raises DivergedError, which names the step."""
    while steps:
        step = steps.pop(0)
        with naming(step.number):
            yield scalars(step.losses, step.correct)


@contextmanager
def naming(step: int) -> Iterator[None]:
    """Name the step (from 0) in a DivergedError."""
    try:
        yield
    except DivergedError as error:
        raise DivergedError(f"step {step + 1}: {error}") from error
