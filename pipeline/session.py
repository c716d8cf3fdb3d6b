"""One training from parameters to a whole checkpoint: what the train stage and a sweep's trial both run."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cfpn import model as networks
from cfpn import training
from cfpn.data import Faces
from cfpn.diagnostics import diagnose
from cfpn.graph import Node
from cfpn.model import CFPN
from cfpn.training import Method, Recipe, Record, State
from pipeline import networks as others
from pipeline.networks import Baseline
from pipeline.params import Compute, Params
from pipeline.process import InputError, atomic

CODE = Path(__file__).resolve().parents[1]


@dataclass
class Session:
    """A training under way: its state, the rows of its complete epochs, their seconds and the best weights so far."""

    state: State
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    def note(self, record: Record) -> None:
        """Take in a complete epoch; the first of equally accurate ones on validation is the best."""
        self.history.append({"epoch": record.epoch, "step": record.step} | record.scalars)
        self.seconds.append(record.seconds)
        accuracies = [row["val/accuracy"] for row in self.history]
        if max(accuracies) > max(accuracies[:-1], default=-1.0):
            self.best_epoch = record.epoch
            self.best = {name: tensor.clone() for name, tensor in self.state.weights().items()}


def build(model: CFPN | Baseline, seed: int) -> list[Node]:
    """Nodes of the network that `model` describes, weights drawn from `seed`."""
    return networks.build(model, seed) if isinstance(model, CFPN) else others.build(model, seed)


def untrained(model: CFPN | Baseline, method: Method, device: torch.device) -> State:
    """A state to load the weights of a run into, for predictions."""
    return training.start(build(model, 0), method, Recipe(), model.input_size, 0, device)


def begin(params: Params, method: Method, seed: int) -> Session:
    """A session before its first step, on the device of params.compute; InputError where the parts do not fit."""
    recipe, size = params.train.recipe, params.model.input_size
    try:
        state = training.start(build(params.model, seed), method, recipe, size, seed, device(params.compute))
    except ValueError as error:
        raise InputError(str(error)) from error
    return Session(state)


def advance(
    session: Session, params: Params, method: Method, seed: int, faces: Faces, validation: Faces
) -> Iterator[Record]:
    """Train on from where the session stands; a complete record is noted in the session before it is yielded.

    A complete record carries the diagnostics of every block as well. Raises InputError for fewer faces than a batch.
    """
    if params.train.batch > len(faces.labels):
        raise InputError(
            f"train.batch: expected at most the {len(faces.labels)} faces there are, found {params.train.batch}"
        )
    size = params.model.input_size
    for record in training.train(session.state, method, params.train.recipe, faces, validation, size, seed):
        if record.complete:
            record.scalars.update(diagnose(session.state, method, faces, validation, size))
            session.note(record)
        yield record


def device(compute: Compute) -> torch.device:
    """The device asked for; "auto" is CUDA where there is one. Raises InputError for CUDA where there is none."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        raise InputError("compute.device: cuda was asked for and this machine offers none")
    return torch.device("cuda" if compute.device != "cpu" and torch.cuda.is_available() else "cpu")


def fingerprint(params: Params, method: str, seed: int, files: list[Path]) -> str:
    """Hash of all that decides a training: its name and parameters, its data files and the code of the networks."""
    chosen = params.model_dump(mode="json", exclude={"methods", "profile"})
    chosen |= {"name": method, "method": asdict(params.methods[method]), "seed": seed}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    for path in [*sorted((CODE / "cfpn").glob("*.py")), Path(__file__), Path(others.__file__), *files]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def save(session: Session, path: Path) -> None:
    """Write the whole session to one safetensors file, by atomic rename."""
    tensors = session.state.tensors() | {f"best/{name}": tensor for name, tensor in session.best.items()}
    about = {"history": session.history, "seconds": session.seconds, "best_epoch": session.best_epoch}
    write(tensors, {"session": json.dumps(about)}, path)


def restore(session: Session, path: Path) -> None:
    """Continue from a file that `save` wrote; raises InputError where it is missing or of another network."""
    tensors, about = read(path)
    try:
        saved = json.loads(about["session"])
        history, seconds, best_epoch = saved["history"], saved["seconds"], saved["best_epoch"]
        session.state.load(tensors, len(history))
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
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
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (FileNotFoundError, SafetensorError) as error:
        raise InputError(f"{path}: no readable weights: {error}") from error
