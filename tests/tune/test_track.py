"""What W&B is told of trials, and when; nothing here starts Ray or W&B."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tune import names, outcome, spaces, storage, track, trial, wandb_runs
from tune.outcome import Ended, Outcome, Score, Summary
from tune.track import Tracker
from tune.wandb_runs import Begin, End, Log, Project, Shown

PARAMS = Path(__file__).parents[2] / "params.yaml"
SWEEP = spaces.read(PARAMS, "activation", [], {}, None, 1)
ABOUT = {"sweep": "activation", "threads": 1, "device": "cpu", "data": {}}
CONFIG = {"model.activation": "relu", "seed": 0}
NAME = names.identifier(CONFIG)
TRIAL: Any = SimpleNamespace(config=CONFIG)
RUN = {"code": {"commit": "earlier"}}
ROW = {"val/accuracy": 0.5, "val/loss": 1.2, "worker/seconds": 1.0}


class Listener:
    """Takes what a writer would send."""

    def __init__(self) -> None:
        self.messages: list[Begin | Log | End] = []

    def send(self, message: Begin | Log | End) -> None:
        self.messages.append(message)


def tracker(folder: Path) -> tuple[Tracker, Listener]:
    """A tracker over an empty storage."""
    listener: Any = Listener()
    return Tracker(SWEEP, ABOUT, storage.at(str(folder), "activation"), listener, {"commit": "abc"}), listener


def result(epoch: int) -> dict[str, Any]:
    """What Tune hands over of an epoch, with keys of its own."""
    return trial.brief([ROW | {"epoch": epoch, "step": 3 * epoch}], {}) | {"time_total_s": 9, "pid": 1}


def ended(epochs: int) -> Ended:
    """What is left of a trial."""
    history = [{"epoch": epoch, "step": 3 * epoch, "val/accuracy": 0.5} for epoch in range(1, epochs + 1)]
    places = [{"epoch": epoch, "seconds": 1.0} for epoch in range(1, epochs + 1)]
    return Ended(Summary(history, 1, places), Score(np.eye(7, dtype=np.float32), 5, {"recall": {"sad": 1.0}}), RUN)


def test_a_trial_is_told_while_it_runs_and_its_scores_at_its_end(tmp_path: Path) -> None:
    told, heard = tracker(tmp_path)
    told.on_trial_start(0, [], TRIAL)
    told.on_trial_result(0, [], TRIAL, result(1))
    outcome.write(told.kept, NAME, ended(1))
    told.on_trial_complete(0, [], TRIAL)
    begin, log, end = heard.messages
    assert isinstance(begin, Begin) and (begin.title, begin.history) == ("activation=relu seed=0", [])
    assert begin.config["commit"] == "abc" and begin.config["axes"] == {"activation": "relu", "seed": 0}
    assert log == Log(NAME, ROW | {"epoch": 1, "step": 3})
    assert isinstance(end, End) and (end.summary["status"], end.summary["test/recall/sad"]) == ("complete", 1.0)


def test_the_run_of_a_resumed_trial_is_told_anew_with_the_epochs_before(tmp_path: Path) -> None:
    told, heard = tracker(tmp_path)
    outcome.write(told.kept, NAME, ended(3))
    told.on_trial_start(0, [], TRIAL)
    told.on_trial_result(0, [], TRIAL, result(3))
    begin, log = heard.messages
    assert isinstance(begin, Begin) and [row["epoch"] for row in begin.history] == [1, 2]
    assert begin.config["code"]["commit"] == "earlier"
    assert isinstance(log, Log) and log.row["epoch"] == 3


def checkpointed(folder: Path, epochs: int) -> Path:
    """A checkpoint after these epochs, as a trial writes it; its file with the weights."""
    folder.mkdir(parents=True)
    known = ended(epochs).summary
    (folder / storage.PLACES).write_text(json.dumps(known.places))
    about = {"history": known.history, "best_epoch": 1}
    save_file({"best/w": torch.zeros(9)}, folder / trial.STATE, {"session": json.dumps(about)})
    return folder / trial.STATE


@pytest.mark.parametrize("left", [0, 4, 50, -1])
def test_of_a_checkpoint_that_a_kill_cut_off_the_one_before_is_told(left: int, tmp_path: Path) -> None:
    kept = storage.at(str(tmp_path), "activation")
    checkpointed(tmp_path / "activation" / f"{NAME}-x_0" / "checkpoint_000000", 1)
    last = checkpointed(tmp_path / "activation" / f"{NAME}-x_0" / "checkpoint_000001", 2)
    assert [row["epoch"] for row in track.history(kept, NAME, None)] == [1, 2]
    last.write_bytes(last.read_bytes()[:left])
    assert [row["epoch"] for row in track.history(kept, NAME, None)] == [1]


def test_storage_that_fails_ends_no_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise OSError("connection reset")

    told, heard = tracker(tmp_path)
    monkeypatch.setattr(outcome, "read", failing)
    told.on_trial_start(0, [], TRIAL)
    told.on_trial_result(0, [], TRIAL, result(1))
    told.on_trial_complete(0, [], TRIAL)
    assert capsys.readouterr().err.count("the sweep goes on: OSError: connection reset") == 3
    assert not heard.messages


def test_what_did_not_come_to_its_own_end_is_told_after_the_last_trial(tmp_path: Path) -> None:
    told, heard = tracker(tmp_path)
    stopped = Outcome(CONFIG, "stopped", "", *ended(2))
    told.on_trial_start(0, [], TRIAL)
    told.on_trial_complete(0, [], TRIAL)
    assert heard.messages[1:] == [End(NAME, {"status": "stopped"}, None)]
    told.settle([stopped, Outcome(CONFIG | {"seed": 1}, "complete", "", *ended(2))])
    begin, end = heard.messages[2:]
    assert isinstance(begin, Begin) and len(begin.history) == 2
    assert isinstance(end, End) and end.summary["status"] == "stopped"


def test_a_trial_that_asha_stopped_at_its_last_epoch_is_told_as_complete_once_it_is_scored(tmp_path: Path) -> None:
    told, heard = tracker(tmp_path)
    told.on_trial_start(0, [], TRIAL)
    told.on_trial_complete(0, [], TRIAL)
    told.settle([Outcome(CONFIG, "complete", "", *ended(2))])
    begin, end = heard.messages[2:]
    assert isinstance(begin, Begin) and len(begin.history) == 2
    assert isinstance(end, End) and (end.summary["status"], end.summary["test/recall/sad"]) == ("complete", 1.0)


def test_the_same_trial_of_the_same_sweep_is_the_same_run(tmp_path: Path) -> None:
    identities = []
    for about in (ABOUT, ABOUT, ABOUT | {"code": "other"}):
        told, heard = tracker(tmp_path)
        told.about = about
        told.begin(CONFIG, [])
        identities += [message.identity for message in heard.messages if isinstance(message, Begin)]
    assert identities[0] == identities[1] != identities[2]


def specified(search: str, **space: list[int]) -> dict[str, Any]:
    """A specification."""
    return ABOUT | {"search": search, "space": space}


def identity(folder: Path, about: dict[str, Any], seed: int = 0) -> str:
    """Of the run of a trial of the sweep so specified."""
    told, heard = tracker(folder)
    told.about = about
    told.begin(CONFIG | {"seed": seed}, [])
    (begin,) = heard.messages
    assert isinstance(begin, Begin)
    return begin.identity


def test_more_seeds_of_a_grid_join_the_runs_of_the_seeds_before(tmp_path: Path) -> None:
    fewer, more, other = (specified("grid", **space) for space in ({"seed": [0]}, {"seed": [0, 1]}, {"width": [8]}))
    assert track.group(fewer) == track.group(more) != track.group(other)
    assert identity(tmp_path, fewer) == identity(tmp_path, more) != identity(tmp_path, other)
    assert identity(tmp_path, more, 0) != identity(tmp_path, more, 1)


@pytest.mark.parametrize("search", ["asha", "optuna"])
def test_more_seeds_are_another_sweep_to_a_strategy_that_learns(search: str, tmp_path: Path) -> None:
    fewer, more = (specified(search, seed=seeds) for seeds in ([0], [0, 1]))
    assert track.group(fewer) != track.group(more)
    assert identity(tmp_path, fewer) != identity(tmp_path, more)


def test_a_run_that_could_not_begin_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(wandb_runs.sink, "begin", refuse)
    shown = Shown(np.zeros((7, 1, 4, 4), np.uint8), np.arange(7), tuple("abcdefg"))
    project, runs = Project(tmp_path, "p", "g"), {}
    with pytest.raises(OSError, match="no room"):
        wandb_runs.take(Begin("a", "a", "i", {}, []), runs, project, shown)
    wandb_runs.take(Log("a", {"epoch": 1}), runs, project, shown)
    wandb_runs.take(End("a", {"epochs": 1}, None), runs, project, shown)
    assert runs == {}


def test_disabled_tracking_starts_no_process(tmp_path: Path) -> None:
    shown = Shown(np.zeros((7, 1, 4, 4), np.uint8), np.arange(7), tuple("abcdefg"))
    for mode in (None, "disabled"):
        writer = wandb_runs.Writer(Project(tmp_path, "p", "g"), shown, mode)
        writer.send(Log("a", {"epoch": 1}))
        writer.close()
        assert writer.process is None


def test_the_process_that_writes_runs_needs_neither_torch_nor_ray() -> None:
    import subprocess
    import sys

    command = "import sys; import tune.wandb_runs; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", command], cwd=PARAMS.parent, check=True, timeout=60)
