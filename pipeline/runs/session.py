"""One training from parameters to a whole checkpoint: what the train stage and a sweep's trial both run."""

from __future__ import annotations  # Params are named, not imported: a machine without pydantic can have sessions

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from cfpn import checkpoint, training
from cfpn.diagnostics import FEWEST_FACES, diagnose
from cfpn.faces import Faces, mislabelled
from cfpn.graph import Cuts
from cfpn.recipe import Recipe
from cfpn.training import Method, Record, State
from pipeline import networks
from pipeline.networks import Model
from pipeline.process import InputError, atomic

if TYPE_CHECKING:
    from pipeline.params import Compute, Params, Transport

EXPECTED = 10  # faces of a class in a mixed order: then none of them is no accident
DIRECT = {"gloo": "cpu", "nccl": "cuda"}  # transports that hand on tensors, and the device where these have to be


@dataclass
class Session:
    """A training under way: its state, the rows of its complete epochs, their seconds and the best weights so far.

    log: who worked when, where units learn on several workers.
    """

    state: State
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)

    def note(self, record: Record) -> None:
        """Take in a complete epoch; the first of equally accurate ones on validation is the best."""
        self.history.append({"epoch": record.epoch, "step": record.step} | record.scalars)
        self.seconds.append(record.seconds)
        accuracies = [row["val/accuracy"] for row in self.history]
        if max(accuracies) > max(accuracies[:-1], default=-1.0):
            self.best_epoch = record.epoch
            self.best = {name: tensor.clone() for name, tensor in self.state.averaged.predicting().items()}


def model_for(params: Params, faces: Faces) -> Model:
    """The network's parameters, with the channels and classes of the data; InputError where they name others."""
    model, channels, classes = params.model, faces.pixels.shape[1], len(faces.classes)
    for name, known in (("channels", channels), ("classes", classes)):
        if (asked := getattr(model, name)) not in (getattr(type(model), name, known), known):
            raise InputError(f"model.{name}: the faces have {known}, found {asked}; leave it out")
    return replace(model, channels=channels, classes=classes)


def learnt(params: Params, faces: Faces, seed: int) -> Faces:
    """Those of the training faces that a training learns from, with the labels that it sees.

    Raises InputError where the first of them lack a class that they would hold in a mixed order.
    """
    first = faces.first(params.train.limit)
    shares = len(first.labels) * faces.labels.bincount(minlength=len(faces.classes)) / len(faces.labels)
    for place in (shares >= EXPECTED).nonzero().flatten().tolist():
        if not (first.labels == place).any():
            raise InputError(
                f"train.limit: the first {len(first.labels)} faces have none of {faces.classes[place]!r}: "
                "the rows are sorted; shuffle them, or set 0 for all faces"
            )
    return mislabelled(first, params.train.wrong_labels, seed)


def begin(params: Params, method: Method, seed: int, faces: Faces) -> Session:
    """A session before its first step, on the device of params.compute; InputError where the parts do not fit."""
    model = model_for(params, faces)
    try:
        return Session(first_state(model, method, params.train.recipe, seed, device(params.compute)))
    except ValueError as error:
        raise InputError(str(error)) from error


def first_state(model: Model, method: Method, recipe: Recipe, seed: int, device: torch.device) -> State:
    """The state of a network before its first step, all drawn from `seed`; ValueError where the parts do not fit."""
    nodes, size = networks.build(model, seed), model.input_size
    return training.start(nodes, method, recipe, size, seed, device, model.channels, model.classes)


def advance(
    session: Session, params: Params, method: Method, seed: int, faces: Faces, validation: Faces
) -> Iterator[Record]:
    """Train on from where the session stands; a complete record is noted in the session before it is yielded.

    A complete record carries the diagnostics of every block as well. Raises InputError as `check_counts` does.
    """
    check_counts(params.train.batch, len(faces), len(validation))
    for record in _records(session, params, method, seed, faces, validation):
        if record.complete:
            record.scalars.update(diagnose(session.state, method, faces, validation))
            session.note(record)
        yield record


def check_kinds(faces: Faces, validation: Faces) -> None:
    """Raise InputError where the two splits are of different faces or classes, and for fewer than two classes."""
    for name in ("side", "channels", "classes"):
        ours, theirs = getattr(faces, name), getattr(validation, name)
        if ours != theirs:
            raise InputError(f"validation split: expected the {name} of the training faces, {ours}, found {theirs}")
    if len(faces.classes) < 2:
        raise InputError(f"training faces: expected two classes or more, found {', '.join(faces.classes) or 'none'}")


def check_counts(batch: int, faces: int, validation: int) -> None:
    """Raise InputError for fewer faces than a batch, and for fewer validation faces than the diagnostics need."""
    if batch > faces:
        raise InputError(f"train.batch: expected at most the {faces} faces there are, found {batch}")
    if validation < FEWEST_FACES:
        raise InputError(f"validation split: expected {FEWEST_FACES} faces or more, found {validation}")


def _records(
    session: Session, params: Params, method: Method, seed: int, faces: Faces, validation: Faces
) -> Iterator[Record]:
    recipe, compute = params.train.recipe, params.compute
    count = workers_of(params, method)
    if count == 1:
        yield from training.train(session.state, method, recipe, faces, validation, seed)
        return
    from pipeline.runs import cluster, segment, workers  # Ray takes a second to import

    steps = len(faces) // recipe.batch * recipe.epochs
    kind = device(compute).type
    check_transport(compute.transport, kind)
    task = segment.Task(model_for(params, faces), method, recipe, seed, steps, kind, compute.threads, compute.transport)
    with cluster.connected(compute.address, count * compute.threads):
        yield from workers.train(session.state, task, faces, validation, count, session.log)


def check_transport(transport: Transport, kind: str) -> None:
    """Raise InputError where features between workers on devices of this kind cannot take this way."""
    if kind != DIRECT.get(transport, kind):
        raise InputError(f"compute.transport: {transport} needs compute.device {DIRECT[transport]}")


def workers_of(params: Params, method: Method) -> int:
    """The number of workers on which the units of a method learn: one where gradients cross units, and one a unit."""
    if method.gradients == "pass" or method.units == "network":
        return 1
    return min(params.compute.workers, most_units(method.units))


def most_units(cuts: Cuts) -> int:
    """As many units as cuts give at most, as far as they tell without a network; else a large number."""
    if isinstance(cuts, str):
        kind, _, count = cuts.partition(":")
        return int(count) if kind == "balanced" and count.isdecimal() else sys.maxsize
    return len(cuts) + 1


def device(compute: Compute) -> torch.device:
    """The device asked for; "auto" is CUDA where there is one. Raises InputError for CUDA where there is none."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device: cuda was asked for and this machine offers none")
    return torch.device("cuda" if compute.device != "cpu" and torch.cuda.is_available() else "cpu")


def about_weights(session: Session, params: Params, faces: Faces) -> dict[str, str]:
    """Metadata of the weights file of a run."""
    return checkpoint.about(session.state.network, asdict(model_for(params, faces)), faces.classes, side=faces.side)


def save(session: Session, path: Path) -> None:
    """Write the whole session to one safetensors file, by atomic rename."""
    tensors = checkpoint.tensors(session.state) | {f"best/{name}": tensor for name, tensor in session.best.items()}
    about = {"history": session.history, "seconds": session.seconds, "best_epoch": session.best_epoch}
    write(tensors, {"session": json.dumps(about)}, path)


def restore(session: Session, path: Path) -> None:
    """Continue from a file that `save` wrote; raises InputError where it is missing or of another network."""
    try:
        tensors, about = read(path)
    except InputError as error:
        raise InputError(f"{error}; delete it to begin anew") from error
    try:
        saved = json.loads(about["session"])
        history, seconds, best_epoch = saved["history"], saved["seconds"], saved["best_epoch"]
        checkpoint.restore(session.state, tensors, len(history))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: not a checkpoint of this training: {error}") from error
    session.history, session.seconds, session.best_epoch = history, seconds, best_epoch
    session.best = {name.removeprefix("best/"): t for name, t in tensors.items() if name.startswith("best/")}


def write(tensors: dict[str, Tensor], about: dict[str, str], path: Path) -> None:
    """Write tensors and metadata as safetensors, by atomic rename."""
    with atomic(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, about)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises InputError where there is none."""
    try:
        return checkpoint.read(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{path}: no readable weights: {error}") from error
