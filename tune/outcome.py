"""What is left of a trial: its history, its scores and its description. Kept in one small file when the trial ends."""

import io
import json
from typing import Any, NamedTuple

import numpy as np
from pyarrow import fs

from tune import storage
from tune.names import Config
from tune.storage import Storage

FOLDER = "outcomes"  # below the sweep's own in storage


class Summary(NamedTuple):
    """What a checkpoint tells without its weights: history and places have one entry per complete epoch."""

    history: list[dict[str, float]]
    best_epoch: int
    places: list[dict[str, Any]]


class Score(NamedTuple):
    """What the weights of the best epoch predict.

    probabilities: (n, classes) of the validation faces. test: metrics of the test split, and test_probabilities
    (n, classes), where the sweep asks for them. collapsed: see `pipeline.runs.chance`, on the
    validation faces.
    """

    probabilities: np.ndarray
    parameters: int
    test: dict[str, Any] | None
    test_probabilities: np.ndarray | None = None
    collapsed: bool = False


class Ended(NamedTuple):
    """A trial that needs no more training. about: its run.json."""

    summary: Summary
    score: Score
    about: dict[str, Any]


class Outcome(NamedTuple):
    """How a trial ended. status: complete, stopped (by the scheduler), diverged, failed or unfinished."""

    config: Config
    status: str
    reason: str
    summary: Summary
    score: Score | None
    about: dict[str, Any] | None = None

    @property
    def remark(self) -> str:
        """What a reader has to know beside the numbers; nothing of a complete trial that tells classes apart."""
        collapsed = self.score is not None and self.score.collapsed
        return " and ".join(([] if self.status == "complete" else [self.status]) + ["collapsed"] * collapsed)


def write(kept: Storage, name: str, ended: Ended) -> None:
    """Keep what is left of the trial `name`, whole or not at all."""
    score = ended.score
    about = {
        "summary": ended.summary._asdict(),
        "parameters": score.parameters,
        "test": score.test,
        "collapsed": score.collapsed,
        "about": ended.about,
    }
    arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), "probabilities": score.probabilities}
    arrays |= {} if score.test_probabilities is None else {"test_probabilities": score.test_probabilities}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    kept.system.create_dir(f"{kept.path}/{FOLDER}", recursive=True)
    storage.write(kept, _file(name), buffer.getvalue())


def read(kept: Storage, name: str) -> Ended | None:
    """What is left of the trial `name`; None where it has not ended, or where the file is damaged."""
    path = f"{kept.path}/{_file(name)}"
    if kept.system.get_file_info(path).type != fs.FileType.File:
        return None
    with kept.system.open_input_stream(path) as stream:
        content = stream.read()
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        about = json.loads(str(arrays["about"]))
        test = arrays.get("test_probabilities")
        score = Score(arrays["probabilities"], about["parameters"], about["test"], test, about["collapsed"])
        return Ended(Summary(**about["summary"]), score, about["about"])
    except Exception:  # a damaged archive makes the readers of zip and of NumPy raise almost anything
        return None


def _file(name: str) -> str:
    return f"{FOLDER}/{name}.npz"
