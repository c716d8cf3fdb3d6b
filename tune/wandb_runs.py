"""The process that writes the W&B runs of a sweep, one per trial, while it runs.

A process of its own, so that W&B never delays a trial, and so that a killed sweep keeps its runs: W&B writes a run's
file when the run is finished, and this process outlives the sweep's for long enough to finish all that are open.
It imports neither PyTorch nor Ray.
"""

import multiprocessing
import os
import queue
import signal
import sys
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.sinks import Row, forgiving
from pipeline.sinks import wandb as sink

if TYPE_CHECKING:
    from wandb import Run

EXAMPLES = 8  # faces of each kind
LOOK = 0.5  # seconds after which this process looks whether the sweep's is still there


class Project(NamedTuple):
    """Where runs go: `folder`/wandb, a project of W&B and a group in it."""

    folder: Path
    name: str
    group: str


class Shown(NamedTuple):
    """The faces whose predictions are shown: pixels (n, c, h, w), labels (n,), names of the classes."""

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Begin(NamedTuple):
    """A trial begins, or is told anew from its history."""

    trial: str
    title: str
    identity: str
    config: dict[str, Any]
    history: list[Row]


class Log(NamedTuple):
    """An epoch of a trial."""

    trial: str
    row: Row


class End(NamedTuple):
    """A trial has ended; probabilities (n, classes): of the faces shown, None where it has no score."""

    trial: str
    summary: dict[str, Any]
    probabilities: np.ndarray | None


def serve(messages: "Queue[Begin | Log | End | None]", project: Project, shown: Shown, mode: str) -> None:
    """Write runs as messages tell, until None comes or the sweep's process is gone; then finish all that are open."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a Ctrl-C goes to both processes; the sweep's says when to end
        signal.signal(number, signal.SIG_IGN)
    os.environ[sink.MODE] = mode
    runs: dict[str, Run] = {}
    while (message := _next(messages)) is not None:
        with forgiving(f"no whole W&B run of {message.trial}"):
            take(message, runs, project, shown)
    for name, run in runs.items():
        with forgiving(f"the W&B run of {name} was not finished"):
            run.finish(exit_code=1)


def _next(messages: "Queue[Begin | Log | End | None]") -> Begin | Log | End | None:
    parent = multiprocessing.parent_process()
    while True:
        try:
            return messages.get(timeout=LOOK)
        except queue.Empty:
            if parent is not None and not parent.is_alive():
                return None


def take(message: Begin | Log | End, runs: "dict[str, Run]", project: Project, shown: Shown) -> None:
    """Do what one message says."""
    run = runs.get(message.trial)
    if isinstance(message, Begin):
        if run is None:
            runs[message.trial] = sink.begin(
                project.name, project.group, message.title, message.identity, message.config, message.history,
                project.folder,
            )  # fmt: skip
    elif run is None:
        return  # it could not begin, which has been said
    elif isinstance(message, Log):
        run.log(message.row, step=int(message.row["epoch"]))
    else:
        runs.pop(message.trial)
        end(run, message, shown)


def end(run: "Run", message: End, shown: Shown) -> None:
    """The summary with tables of the predictions, and the run is whole."""
    try:
        run.summary.update(message.summary)
        if message.probabilities is not None:  # in the history, numbers of rows and columns would get charts
            run.summary.update(tables(message.probabilities, shown))
    finally:
        run.finish(exit_code=0 if message.summary.get("status") in ("complete", "stopped") else 1)


def tables(probabilities: np.ndarray, faces: Shown) -> dict[str, Any]:
    """Confusions and example predictions of probabilities (n, classes) on the faces, as W&B shows them."""
    import wandb as client

    predicted, certain = probabilities.argmax(1), probabilities.max(1)
    order = np.argsort(-certain, kind="stable")
    wrong = order[predicted[order] != faces.labels[order]][:EXAMPLES]
    right = order[predicted[order] == faces.labels[order]][:EXAMPLES]
    names = faces.classes
    rows = [
        [client.Image(picture(faces.pixels[i])), names[faces.labels[i]], names[predicted[i]], float(certain[i])]
        for i in [*wrong, *right]
    ]
    counts = [
        [label, other, int(((faces.labels == i) & (predicted == j)).sum())]
        for i, label in enumerate(names)
        for j, other in enumerate(names)
    ]
    confusion = client.Table(columns=["label", "predicted", "faces"], data=counts)
    examples = client.Table(columns=["face", "label", "predicted", "probability"], data=rows)
    return {"confusion": confusion, "examples": examples}


def picture(pixels: np.ndarray) -> np.ndarray:
    """Pixels (c, h, w) as (h, w) or (h, w, 3)."""
    return pixels[0] if len(pixels) != 3 else np.moveaxis(pixels, 0, -1)


class Writer:
    """The sweep's end of that process; `mode` is online, offline or disabled, and None starts no process."""

    def __init__(self, project: Project, shown: Shown, mode: str | None) -> None:
        self.process = None
        if mode in (None, "disabled"):
            return
        context = multiprocessing.get_context("spawn")
        self.messages = context.Queue()
        self.messages.cancel_join_thread()  # a sweep never waits for W&B but in `close`
        self.process = context.Process(target=serve, args=(self.messages, project, shown, mode), daemon=False)
        self.process.start()

    def send(self, message: Begin | Log | End) -> None:
        """Hand over a message; it never waits."""
        if self.process is not None:
            self.messages.put(message)

    def close(self, seconds: float = 120.0) -> None:
        """Let the process write what it was told; after so many seconds it is ended, and that is said."""
        if self.process is None:
            return
        self.messages.put(None)
        self.process.join(seconds)
        if self.process.is_alive():
            print(f"warning: W&B took more than {seconds:.0f} s to finish and was ended", file=sys.stderr)
            self.process.kill()
        self.process = None
