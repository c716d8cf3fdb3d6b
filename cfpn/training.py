"""One trainer: back-propagation, local training and deep supervision differ in the partition into units alone."""

import copy
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cfpn import data
from cfpn.data import Augmentation, Faces
from cfpn.graph import IMAGE, Cuts, Node, Unit, run, units
from cfpn.objectives import CLASSES, Objective, References, UnitHead

SEED_HEADS, SEED_AUGMENTATION = 1, 2  # second part of a generator's key


@dataclass(frozen=True)
class Method:
    """How a network is trained.

    units: where gradients stop (see `graph.units`). detach False lets them pass all the same: deep supervision, the
    control. share, in (0, 1]: the part of the steps in which a hidden unit learns, evenly spread; units rest in
    different steps (at 0.5 odd and even units alternate), and the last one learns in each. freeze, in (0, 1]: the part
    of the training after which the first hidden unit has learnt; the others end evenly spread between it and the last
    unit, which learns to the end, and the schedule of each runs to its own end (FreezeOut, Brock et al.,
    arXiv:1706.04983). vote: predict by the mean log probability of all units' classifiers in place of the network's
    own alone. learning_rate: of a method that was tuned to another than the recipe's. recompute: trade time for memory
    by running every node again in the backward pass; the numbers stay the same.
    """

    units: Cuts = "block"
    detach: bool = True
    objective: Objective = field(default_factory=Objective)
    share: float = 1.0
    freeze: float = 1.0
    vote: bool = False
    learning_rate: float | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("freeze", self.freeze)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}: expected more than 0 and at most 1, found {value}")
        if not self.detach and min(self.share, self.freeze) < 1:
            raise ValueError("share, freeze: expected 1 where gradients pass between units: none can rest there")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate: expected more than 0, found {self.learning_rate}")
        if self.vote and not self.objective.classifies:
            raise ValueError("vote: expected an objective with cross_entropy of a linear classifier")

    def due(self, place: int, step: int) -> bool:
        """Whether the hidden unit at `place` (from 0) learns in `step` (from 0), as long as it does at all."""
        return math.ceil((step + place + 1) * self.share) > math.ceil((step + place) * self.share)


@dataclass(frozen=True)
class Recipe:
    """What is equal for all methods: optimiser Adam, its schedule, the data order and the arithmetic.

    schedule: "constant", or "one_cycle": up linearly over the share warm_up, in [0, 1), of a unit's steps, then down to
    0 as a cosine (Smith & Topin: Super-Convergence, 2018).
    precision: "bfloat16" is autocast. average, in [0, 1): decay per step of the moving average of the weights, which is
    what validation sees and a run keeps; 0: the weights themselves.
    """

    epochs: int = 10
    batch: int = 128
    learning_rate: float = 0.005
    schedule: Literal["constant", "one_cycle"] = "constant"
    warm_up: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Literal["float32", "bfloat16"] = "float32"
    average: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 4 or not 0 < self.learning_rate < math.inf:
            raise ValueError(f"train: expected epochs >= 1, batch >= 4 and learning_rate > 0, found {self}")
        for name in ("warm_up", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train.{name}: expected 0 or more and less than 1, found {getattr(self, name)}")


class Record(NamedTuple):
    """What training says: after a step its losses, after an epoch also the validation; seconds are of this epoch."""

    epoch: int
    step: int
    seconds: float
    scalars: dict[str, float]
    complete: bool


class DivergedError(FloatingPointError):
    """The loss of a unit is no longer finite; the message names step, unit and value."""


class Learner(NamedTuple):
    """A unit with what belongs to it alone: its head (None: the last unit, cross-entropy) and its optimiser, if any."""

    unit: Unit
    head: UnitHead | None
    optimizer: torch.optim.Adam | None
    depth: float


@dataclass
class State:
    """Everything that training changes, so that it can be saved after any epoch and continued bit for bit.

    averaged: copies of the learners with the moving average of their weights; the learners themselves where there is
    none. classify: whether hidden units have trained classifiers. vote: whether these predict too.
    """

    nodes: list[Node]
    learners: list[Learner]
    averaged: list[Learner]
    classify: bool = False
    vote: bool = False
    epoch: int = 0

    @property
    def network(self) -> list[Node]:
        """The nodes that validation sees."""
        return [node for learner in self.averaged for node in learner.unit.nodes]

    def weights(self) -> dict[str, Tensor]:
        """What predictions need: "<node>.<name>", and of trained classifiers "head/<unit>.<name>"."""
        return weights(self.network) | (_heads(self.averaged, "head") if self.classify else {})

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `weights` gave; raises KeyError or RuntimeError where names or shapes differ."""
        if self.classify:
            _load_heads(self.averaged, _below(tensors, "head/"))
            tensors = {key: value for key, value in tensors.items() if not key.startswith("head/")}
        load_weights(self.network, tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Weights as "model/<node>.<name>", heads as "head/<unit>.<name>", Adam as "adam/<unit>/<parameter>/<name>".

        Averages as "average/<node>.<name>" and "average_head/<unit>.<name>".
        """
        result = {f"model/{key}": value for key, value in weights(self.nodes).items()}
        result |= _heads(self.learners, "head")
        if self.averaged is not self.learners:
            result |= {f"average/{key}": value for key, value in weights(self.network).items()}
            result |= _heads(self.averaged, "average_head")
        for learner in self.learners:
            for index, moments in learner.optimizer.state_dict()["state"].items():
                result |= {f"adam/{learner.unit.name}/{index}/{key}": value for key, value in moments.items()}
        return result

    def load(self, tensors: dict[str, Tensor], epoch: int) -> None:
        """Take over what `tensors` gave after `epoch`; raises KeyError or RuntimeError where names or shapes differ."""
        names = [learner.unit.name for learner in self.learners]
        for key in tensors:
            if key.startswith("adam/") and not key.startswith(tuple(f"adam/{name}/" for name in names)):
                raise KeyError(f"state: {key!r} belongs to none of the units {', '.join(names)}")
        load_weights(self.nodes, _below(tensors, "model/"))
        _load_heads(self.learners, _below(tensors, "head/"))
        if self.averaged is not self.learners:
            load_weights(self.network, _below(tensors, "average/"))
            _load_heads(self.averaged, _below(tensors, "average_head/"))
        for learner in self.learners:
            _load_adam(learner.optimizer, _below(tensors, f"adam/{learner.unit.name}/"))
        self.epoch = epoch


def _heads(learners: Sequence[Learner], start: str) -> dict[str, Tensor]:
    owners = [learner for learner in learners if learner.head is not None]
    return {f"{start}/{o.unit.name}.{key}": value for o in owners for key, value in o.head.state_dict().items()}


def _load_heads(learners: Sequence[Learner], tensors: dict[str, Tensor]) -> None:
    known = {name.removeprefix("head/") for name in _heads(learners, "head")}
    if known != set(tensors):
        strange = sorted(known ^ set(tensors))[0]
        raise KeyError(f"heads: {strange!r} is {'missing' if strange in known else 'of none of the units'}")
    for learner in learners:
        if learner.head is not None:
            try:
                learner.head.load_state_dict(_below(tensors, f"{learner.unit.name}."))
            except RuntimeError as error:
                raise RuntimeError(f"head of {learner.unit.name}: {error}") from error


def _load_adam(optimizer: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    saved = optimizer.state_dict() | {"state": {}}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        index, name = key.split("/")
        # The fused step walks memory: moments must lie as their parameter does, channels last included.
        value = torch.empty_like(parameters[int(index)]).copy_(value) if name != "step" else value.clone()
        saved["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(saved)


def _below(tensors: dict[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def weights(nodes: list[Node]) -> dict[str, Tensor]:
    """Parameters and buffers of a network as "<node>.<name>"."""
    return {f"{n.name}.{key}": value for n in nodes for key, value in n.module.state_dict().items()}


def load_weights(nodes: list[Node], tensors: dict[str, Tensor]) -> None:
    """Set the weights of a network; leading "module." and "_orig_mod." are cut, anything else must match.

    Raises RuntimeError or KeyError where names or shapes differ.
    """
    tensors = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in tensors.items()}
    known = set(weights(nodes))
    if known != set(tensors):
        strange = sorted(known ^ set(tensors))[0]
        raise KeyError(f"weights: {strange!r} is {'missing' if strange in known else 'not part of this network'}")
    for node in nodes:
        node.module.load_state_dict(_below(tensors, f"{node.name}."))


def start(nodes: list[Node], method: Method, recipe: Recipe, input_size: int, seed: int, device: torch.device) -> State:
    """The state before the first step; heads are drawn from `seed` without touching the network's weights."""
    for node in nodes:
        node.module.to(device)
    partition = units(nodes, method.units)
    shapes = _shapes(nodes, input_size, device)
    learners = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.generator(seed, SEED_HEADS).initial_seed())
        for i, unit in enumerate(partition):
            head = None if unit is partition[-1] else _head(unit, method.objective, shapes).to(device)
            parameters = [p for node in unit.nodes for p in node.module.parameters()]
            parameters += head.parameters() if head is not None else []
            optimizer = torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=True)
            learners.append(Learner(unit, head, optimizer, i / max(1, len(partition) - 2)))
    averaged = _copies(learners) if recipe.average else learners
    return State(nodes, learners, averaged, method.objective.classifies, method.vote)


def _copies(learners: Sequence[Learner]) -> list[Learner]:
    return [Learner(*copy.deepcopy((learner.unit, learner.head)), None, learner.depth) for learner in learners]


def _shapes(nodes: list[Node], input_size: int, device: torch.device) -> dict[str, torch.Size]:
    for node in nodes:
        node.module.eval()
    image = torch.zeros(1, 1, input_size, input_size, device=device)
    with torch.no_grad():
        features = run(nodes, {IMAGE: image}, [node.name for node in nodes])
    return {name: feature.shape for name, feature in features.items()}


def _head(unit: Unit, objective: Objective, shapes: dict[str, torch.Size]) -> UnitHead:
    outputs = [shapes[name] for name in unit.outputs]
    size = min([objective.pool or outputs[0][-1]] + [shape[-1] for shape in outputs])
    return UnitHead(objective.head, sum(shape[1] for shape in outputs), size, CLASSES)


def train(
    state: State, method: Method, recipe: Recipe, faces: Faces, validation: Faces, input_size: int, seed: int
) -> Iterator[Record]:
    """Train from state.epoch to recipe.epochs; yields a Record per step and one with the validation per epoch.

    When a complete record is yielded, the state is whole. Data order, augmentation and dropout depend on (seed, epoch,
    step) alone. Raises DivergedError at the first loss that is not finite.
    """
    per_epoch = len(faces.labels) // recipe.batch
    for epoch in range(state.epoch, recipe.epochs):
        begin, values = time.perf_counter(), defaultdict(list)
        _mode(state, training=True)
        for i, (pixels, labels) in enumerate(data.batches(faces, recipe.batch, seed, epoch)):
            step = epoch * per_epoch + i
            random = data.generator(seed, SEED_AUGMENTATION, epoch, i)
            images = data.augment(data.images(pixels, input_size), recipe.augmentation, random)
            due = rates(method, recipe, len(state.learners), step, recipe.epochs * per_epoch)
            with torch.random.fork_rng([images.device] if images.is_cuda else []):
                torch.manual_seed(random.initial_seed())  # for the dropout of comparison networks
                scalars = train_step(state.learners, method, images, labels, step, due, recipe.precision)
            if recipe.average:
                _average(state, recipe.average, step)
            for name, value in scalars.items():
                values[name].append(value)
            yield Record(epoch, step + 1, time.perf_counter() - begin, scalars, complete=False)
        state.epoch = epoch + 1
        seconds = time.perf_counter() - begin
        scalars = {name: statistics.fmean(found) for name, found in values.items()}
        scalars |= validate(state, validation, input_size)
        if not math.isfinite(scalars["val/loss"]):
            raise DivergedError(f"epoch {epoch + 1}: the validation loss is {scalars['val/loss']}")
        yield Record(epoch + 1, (epoch + 1) * per_epoch, seconds, scalars, complete=True)


def rates(method: Method, recipe: Recipe, units: int, step: int, steps: int) -> list[float]:
    """The learning rate of each of `units` units in `step` (0-based) of `steps`; 0 where a hidden one rests."""
    peak, result = method.learning_rate or recipe.learning_rate, []
    for place in range(units):
        last = place == units - 1
        end = steps if last else steps * (method.freeze + (1 - method.freeze) * place / (units - 1))
        learns = last or (step < end and method.due(place, step))
        result.append(peak * factor(recipe.schedule, step, end, recipe.warm_up) if learns else 0.0)
    return result


def factor(schedule: str, step: int, steps: float, warm_up: float) -> float:
    """Share of the learning rate in `step` (0-based) of `steps`; see `Recipe`."""
    if schedule == "constant":
        return 1.0
    warm = max(1.0, warm_up * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def train_step(
    learners: list[Learner],
    method: Method,
    images: Tensor,
    labels: Tensor,
    step: int,
    rates: Sequence[float],
    precision: str = "float32",
) -> dict[str, float]:
    """One optimiser step of every unit on images (n, 1, h, w) and labels (n,); returns its losses by name.

    rates: the learning rate of every unit, 0 where a hidden one rests. A unit takes detached features, and nothing but
    its own loss reaches its parameters. Raises DivergedError.
    """
    hidden = len(learners) > 1
    references = method.objective.references(images, labels) if hidden else None
    features, losses = {IMAGE: images}, []
    for learner, rate in zip(learners, rates, strict=True):
        last = learner.head is None
        due = rate > 0
        # Forward alone under autocast: in the backward of a Gram matrix it would round to bfloat16 what float32 kept.
        with (
            torch.set_grad_enabled(due),
            torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            outputs = run(learner.unit.nodes, features, learner.unit.outputs, method.recompute)
            loss = _loss(learner, method.objective, outputs, references, labels, step) if due else None
        if last:
            correct = (next(iter(outputs.values())).detach().argmax(1) == labels).float().mean()
        if method.detach:
            outputs = {name: feature.detach() for name, feature in outputs.items()}
            if due:
                _update([learner], loss, rate)
        if due:
            losses.append((learner.unit.name, loss.detach()) if method.detach else (learner.unit.name, loss))
        features = {name: f for name, f in (features | outputs).items() if name not in learner.unit.dropped}
    if not method.detach:
        _update(learners, sum(loss for _, loss in losses), rates[-1])
    return _scalars(losses, correct, step)


def _loss(
    learner: Learner,
    objective: Objective,
    outputs: dict[str, Tensor],
    references: References | None,
    labels: Tensor,
    step: int,
) -> Tensor:
    try:
        return unit_loss(learner, objective, outputs, references, labels)
    except torch.linalg.LinAlgError as error:  # of a kernel matrix with NaN
        raise DivergedError(f"step {step + 1}: the loss of unit {learner.unit.name} has no value: {error}") from error


def unit_loss(
    learner: Learner, objective: Objective, outputs: dict[str, Tensor], references: References | None, labels: Tensor
) -> Tensor:
    """What a unit minimises, given its outputs: cross-entropy of the logits for the last, else the local objective."""
    if learner.head is None:
        return F.cross_entropy(next(iter(outputs.values())).float(), labels)
    return objective(list(outputs.values()), references, learner.head, learner.depth)


def _update(learners: list[Learner], loss: Tensor, rate: float) -> None:
    with torch.autocast(loss.device.type, enabled=False):  # else products of the backward pass are bfloat16 too
        loss.backward()
    for learner in learners:
        for group in learner.optimizer.param_groups:
            group["lr"] = rate
        learner.optimizer.step()
        learner.optimizer.zero_grad()


def _scalars(losses: list[tuple[str, Tensor]], correct: Tensor, step: int) -> dict[str, float]:
    names = [name for name, _ in losses]
    *values, accuracy = torch.stack([loss.detach() for _, loss in losses] + [correct]).tolist()  # one synchronisation
    for name, value in zip(names, values, strict=True):
        if not math.isfinite(value):
            raise DivergedError(f"step {step + 1}: the loss of unit {name} is {value}")
    scalars = {f"unit/{name}/loss": value for name, value in zip(names[:-1], values, strict=False)}
    return scalars | {"train/loss": values[-1], "train/accuracy": accuracy}


def _mode(state: State, training: bool) -> None:
    for module in [n.module for n in state.nodes] + [o.head for o in state.learners if o.head is not None]:
        module.train(training)


def _average(state: State, decay: float, step: int) -> None:
    """Move the averages towards the weights after `step`, faster in the first steps, when weights still say little."""
    update = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    means, values = (
        [t for t in (weights(nodes) | _heads(learners, "head")).values() if t.is_floating_point()]
        for nodes, learners in ((state.network, state.averaged), (state.nodes, state.learners))
    )
    update(means, values, None)


def predict(state: State, faces: Faces, input_size: int, batch: int = 256) -> Tensor:
    """Probabilities (n, 7) float32 of the classes for all faces, in their order, from running statistics."""
    return verdict(ballots(state, faces, input_size, batch), state.vote)


def ballots(state: State, faces: Faces, input_size: int, batch: int = 256) -> dict[str, Tensor]:
    """Log probabilities (n, 7) float32 of every unit with a trained classifier, by its name; the network's own last."""
    voters = state.averaged if state.classify else whole(state.network)
    for module in [node.module for node in state.network] + [voter.head for voter in voters if voter.head is not None]:
        module.eval()
    result: dict[str, list[Tensor]] = {voter.unit.name: [] for voter in voters}
    with torch.no_grad():
        for pixels in faces.pixels.split(batch):
            features = {IMAGE: data.images(pixels, input_size)}
            for unit, head, *_ in voters:
                outputs = run(unit.nodes, features, unit.outputs)
                logits = next(iter(outputs.values())) if head is None else head.logits(list(outputs.values()))
                result[unit.name].append(logits.float().log_softmax(1))
                features = {name: f for name, f in (features | outputs).items() if name not in unit.dropped}
    return {name: torch.cat(parts) for name, parts in result.items()}


def verdict(ballots: dict[str, Tensor], vote: bool) -> Tensor:
    """Probabilities (n, 7) of the network's own classifier, or in proportion to the geometric mean of all units'."""
    logs = torch.stack(list(ballots.values()))
    return (logs.mean(0) if vote else logs[-1]).softmax(1)


def whole(nodes: list[Node]) -> list[Learner]:
    """All nodes as one unit, which has no head."""
    return [Learner(units(nodes, "network")[0], None, None, 0.0)]


def validate(state: State, faces: Faces, input_size: int) -> dict[str, float]:
    """Loss and accuracy over all faces, each counted once; also of each unit's classifier and of their vote."""
    found = ballots(state, faces, input_size)
    probabilities = verdict(found, state.vote)
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), faces.labels)
    result = {"val/loss": loss.item(), "val/accuracy": accuracy(probabilities, faces.labels)}
    if len(found) > 1:
        result["val/vote_accuracy"] = accuracy(verdict(found, vote=True), faces.labels)
        result |= {f"unit/{name}/accuracy": accuracy(ballot, faces.labels) for name, ballot in found.items()}
    return result


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows of scores (n, 7) whose largest stands at the label."""
    return (scores.argmax(1) == labels).double().mean().item()


def parameters(state: State) -> int:
    """Number of trained parameters that take part in a prediction: of the network, and of heads that vote."""
    modules = [node.module for node in state.nodes]
    modules += [learner.head for learner in state.learners if state.vote and learner.head is not None]
    return sum(p.numel() for module in modules for p in module.parameters())
