"""One training in a process of its own, saved after every epoch, ended in time."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.gpu.plan import Training
from cfpn import checkpoint, prediction, training
from cfpn.faces import Faces
from cfpn.network import build
from cfpn.training import State
from pipeline.process import atomic

PROBED, WARM_UP = 12, 4  # steps of a probe, and those that do not count
KEY = "training"  # of the metadata of a file that is not finished
Row = dict[str, Any]


def begin(task: Training, device: torch.device) -> State:
    """The state before the first step."""
    model = task.model
    return training.start(
        build(model, task.seed), task.method, task.recipe, model.input_size, task.seed, device,
        model.channels, model.classes,
    )  # fmt: skip


def probe(task: Training, faces: dict[str, Faces], device: torch.device) -> float:
    """Seconds of a step, while other processes do the same."""
    state = begin(task, device)
    records = training.train(state, task.method, task.recipe, faces["train"], faces["val"], task.seed)
    next(islice(records, WARM_UP - 1, None), None)
    finish(device)
    start = time.perf_counter()
    steps = sum(not record.complete for record in islice(records, PROBED - WARM_UP))
    finish(device)
    return (time.perf_counter() - start) / max(1, steps)


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Run:
    """A training of `epochs` epochs that continues from its file; `rows` yields what belongs into the table."""

    def __init__(self, task: Training, epochs: int, folder: Path, device: torch.device) -> None:
        self.task = replace(task, recipe=replace(task.recipe, epochs=epochs))
        self.path = folder / f"{task.name}.safetensors"
        self.state = begin(self.task, device)
        self.best: dict[str, Tensor] = {}
        self.about: dict[str, Any] = {"best_epoch": 0, "best": -1.0, "epochs": epochs}
        if self.path.exists():
            self.restore()

    def restore(self) -> None:
        """Take over what `note` saved."""
        tensors, metadata = checkpoint.read(self.path)
        self.about = json.loads(metadata[KEY])
        self.best = {name.removeprefix("best/"): value for name, value in tensors.items() if name.startswith("best/")}
        checkpoint.restore(self.state, tensors, self.about["epoch"])

    def rows(self, faces: dict[str, Faces], deadline: float) -> Iterator[Row]:
        """Train until the end or until `deadline` (time.time()); a row per epoch, and one of the test at the end."""
        task = self.task
        for record in training.train(self.state, task.method, task.recipe, faces["train"], faces["val"], task.seed):
            if record.complete:
                self.note(record.scalars["val/accuracy"])
                yield {"epoch": record.epoch, "step": record.step, "seconds": record.seconds} | record.scalars
            if time.time() > deadline and not (record.complete and record.epoch == task.recipe.epochs):
                return
        yield self.tested(faces["test"])

    def note(self, accuracy: float) -> None:
        """Keep the weights of the best epoch, and save."""
        if accuracy > self.about["best"]:
            self.about |= {"best": accuracy, "best_epoch": self.state.epoch}
            self.best = {name: tensor.clone() for name, tensor in self.state.averaged.predicting().items()}
        self.about["epoch"] = self.state.epoch
        tensors = checkpoint.tensors(self.state) | {f"best/{name}": value for name, value in self.best.items()}
        self.write(tensors, {KEY: json.dumps(self.about)})

    def tested(self, test: Faces) -> Row:
        """Score the best epoch's weights on the test faces and make them the file, which `cfpn.load` reads."""
        network = self.state.averaged
        checkpoint.set_weights(network, self.best)
        units = prediction.unit_log_probabilities(network, test.pixels)
        accuracy = prediction.accuracy(prediction.vote(units, network.vote), test.labels)
        mirrored = prediction.unit_log_probabilities(network, test.pixels.flip(-1))
        both = prediction.vote(units, network.vote).log() + prediction.vote(mirrored, network.vote).log()
        alone = prediction.accuracy(units[next(reversed(units))], test.labels)
        self.write(self.best, checkpoint.about(network, asdict(self.task.model), test.classes, training=self.about))
        return {
            "epoch": self.about["best_epoch"], "test/accuracy": accuracy, "test/faces": len(test),
            "test/network_accuracy": alone, "test/mirrored_accuracy": prediction.accuracy(both, test.labels),
            "best/val_accuracy": self.about["best"],
        }  # fmt: skip

    def write(self, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        """Write the run's file, by atomic rename."""
        with atomic(self.path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, about)
