"""One training in a process of its own, saved after every epoch, ended in time."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.gpu.plan import Training
from cfpn import checkpoint, prediction, training
from cfpn.faces import Faces
from pipeline.runs import session as sessions
from pipeline.runs.session import Session, first_state

PROBED, WARM_UP = 12, 4  # steps of a probe, and those that do not count
Row = dict[str, Any]


def probe(task: Training, faces: dict[str, Faces], device: torch.device) -> float:
    """Seconds of a step, while other processes do the same."""
    state = first_state(task.model, task.method, task.recipe, task.seed, device)
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
        self.session = Session(first_state(task.model, task.method, self.task.recipe, task.seed, device))
        if self.path.exists():
            sessions.restore(self.session, self.path)

    def rows(self, faces: dict[str, Faces], deadline: float) -> Iterator[Row]:
        """Train until the end or until `deadline` (time.time()); a row per epoch, and one of the test at the end."""
        task, state = self.task, self.session.state
        for record in training.train(state, task.method, task.recipe, faces["train"], faces["val"], task.seed):
            if record.complete:
                self.session.note(record)
                sessions.save(self.session, self.path)
                yield {"epoch": record.epoch, "step": record.step, "seconds": record.seconds} | record.scalars
            if time.time() > deadline and not (record.complete and record.epoch == task.recipe.epochs):
                return
        yield self.tested(faces["test"])

    def tested(self, test: Faces) -> Row:
        """Score the best epoch's weights on the test faces and make them the file, which `cfpn.load` reads."""
        network, epoch = self.session.state.averaged, self.session.best_epoch
        checkpoint.set_weights(network, self.session.best)
        units, mirrored = (
            prediction.unit_log_probabilities(network, pixels) for pixels in (test.pixels, test.pixels.flip(-1))
        )
        alone, own, other = (
            units[network.units[-1].name],
            *(prediction.vote(u, network.vote) for u in (units, mirrored)),
        )
        row = {
            "epoch": epoch,
            "test/accuracy": prediction.accuracy(own, test.labels),
            "test/network_accuracy": prediction.accuracy(alone, test.labels),
            "test/mirrored_accuracy": prediction.accuracy(own.log() + other.log(), test.labels),
            "test/faces": len(test),
            "best/val_accuracy": self.session.history[epoch - 1]["val/accuracy"],
        }
        about = checkpoint.about(network, asdict(self.task.model), test.classes, scores=row)
        sessions.write(self.session.best, about, self.path)
        return row


def finished(path: Path) -> bool:
    """Whether a run's file holds the weights of a complete training, and not one under way."""
    return path.exists() and "session" not in checkpoint.read(path)[1]


def tested(folder: Path, name: str) -> Row:
    """The row of the test that a finished run's file keeps."""
    row: Row = json.loads(checkpoint.read(folder / f"{name}.safetensors")[1]["network"])["scores"]
    return row
