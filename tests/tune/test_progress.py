"""What a sweep says before and while it runs; nothing here starts Ray."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial

from tune import names, progress, results, spaces
from tune.outcome import Outcome, Score, Summary
from tune.progress import Progress

PARAMS = Path(__file__).parents[2] / "params.yaml"
SWEEP = spaces.read(PARAMS, "activation", [], {"train.epochs": 2}, None, 1)
EPOCHS = {names.identifier(config): 2 for config in spaces.configs(SWEEP)}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def trial(activation: str, status: str = "RUNNING") -> Any:  # noqa: ANN401 - the part of Ray's trial that matters here
    """A trial as Tune hands it over."""
    return SimpleNamespace(config={"model.activation": activation, "seed": 0}, status=status,
                           get_pickled_error=lambda: None)  # fmt: skip


def told(stream: io.StringIO) -> Progress:
    """A sweep of three trials with two epochs each, four of the six epochs done after 40 seconds."""
    shown = Progress(SWEEP, EPOCHS, stream=stream)
    now = iter([0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    shown.clock = lambda: next(now)
    shown.setup()
    trials = [trial("relu"), trial("tanh")]
    for epoch in (1, 2):
        for one in trials:
            result = {"epoch": epoch, "val/accuracy": 0.5, "val/loss": 1.25, "time_this_iter_s": 3.0}
            shown.on_trial_result(0, trials, one, result)
    trials[0].status = Trial.TERMINATED
    shown.on_trial_complete(0, trials, trials[0])
    return shown


def test_without_a_terminal_there_is_a_line_per_epoch_under_one_heading() -> None:
    stream = io.StringIO()
    told(stream)
    lines = stream.getvalue().splitlines()
    heading = ["trial", "epoch", "val/accuracy", "val/loss", "seconds", "trials", "done", "time", "left"]
    assert lines[0].split() == heading
    assert [line.split()[:2] for line in lines[1:]] == [
        [f"activation={name}_seed=0", f"{epoch}/2"] for epoch in (1, 2) for name in ("relu", "tanh")
    ]
    assert lines[-1].split()[2:] == ["0.5000", "1.2500", "3.0", "0/3", "20", "s"]
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_one_table_is_drawn_anew_with_a_row_per_trial() -> None:
    stream = Terminal()
    told(stream)
    last = stream.getvalue().rpartition("\x1b[J")[2].splitlines()
    assert [line.split()[0] for line in last] == ["trial", "activation=relu_seed=0", "activation=tanh_seed=0"]


def test_time_left_counts_epochs_of_this_command_alone() -> None:
    shown = Progress(SWEEP, EPOCHS, stream=io.StringIO())
    now = iter([0.0, 10.0, 10.0])
    shown.clock = lambda: next(now)
    shown.setup()
    assert shown.left() == "?"
    result = {"epoch": 2, "val/accuracy": 0.5, "val/loss": 1.0, "time_this_iter_s": 3.0}
    shown.on_trial_result(0, [], trial("relu"), result)  # its first epoch was trained by a command before
    assert shown.left() == "40 s"


def test_an_epoch_that_was_trained_before_this_command_takes_none_of_its_time() -> None:
    shown = Progress(SWEEP, EPOCHS, stream=io.StringIO())
    now = iter([0.0, 10.0, 10.0])
    shown.clock = lambda: next(now)
    shown.setup()
    result = {"val/accuracy": 0.5, "val/loss": 1.0, "time_this_iter_s": 3.0}
    shown.on_trial_result(0, [], trial("relu"), result | {"epoch": 2, "kept": 1})
    assert shown.left() == "?"
    shown.on_trial_result(0, [], trial("tanh"), result | {"epoch": 1})
    shown.clock = lambda: 10.0
    assert shown.left() == "30 s"


def test_a_search_that_tries_some_of_the_points_counts_those() -> None:
    stream = io.StringIO()
    shown = Progress(SWEEP, EPOCHS, trials=2, stream=stream)
    now = iter([0.0, 10.0])
    shown.clock = lambda: next(now)
    shown.setup()
    result = {"epoch": 1, "val/accuracy": 0.5, "val/loss": 1.0, "time_this_iter_s": 3.0}
    shown.on_trial_result(0, [], trial("relu"), result)
    assert stream.getvalue().splitlines()[-1].split()[-3:] == ["0/2", "30", "s"]  # three epochs of four are left


def test_a_trial_that_is_tried_again_or_given_up_says_so() -> None:
    stream = io.StringIO()
    shown = Progress(SWEEP, EPOCHS, stream=stream)
    shown.on_trial_recover(0, [], trial("relu"))
    shown.on_trial_error(0, [], trial("relu"))
    said = stream.getvalue().splitlines()
    assert said[0].endswith("failed, or its worker was lost; tried again from its last checkpoint")
    assert said[1].endswith("failed for good")


@pytest.mark.parametrize(("seconds", "text"), [(42, "42 s"), (600, "10 min"), (11100, "3 h 05 min")])
def test_durations_are_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_the_announcement_says_what_where_and_how_many() -> None:
    text = progress.announcement(SWEEP, [2, 2, 2], 3, 8, "1 CPU per trial on this machine", {"tables": "x/y"})
    assert text.splitlines() == [
        "Sweep activation",
        "  model.activation: relu, tanh, elu",
        "  fixed: method nbp, profile sample, train.epochs = 2",
        "  trials: 3 (1 seed of each setting), 2 epochs each",
        "  resources: 1 CPU per trial on this machine, 3 at once",
        "  tables: x/y",
    ]


def test_the_announcement_says_the_rate_of_each_network() -> None:
    own = spaces.read(PARAMS, "models", [], {}, None, 1)
    own = replace(own, axes={}, rates={"CFPN-NBP": 0.008, "AlexNet": 0.0005})
    assert (
        "  learning rates: CFPN-NBP 0.008, AlexNet 0.0005" in progress.announcement(own, [2], 1, 1, "", {}).splitlines()
    )


def test_a_sweep_over_networks_ends_with_table_two_and_its_files(tmp_path: Path) -> None:
    own = spaces.with_common_rate(spaces.read(PARAMS, "models", [], {}, None, 1))
    row = {"epoch": 1, "step": 3, "val/accuracy": 0.5, "val/loss": 1.0, "train/accuracy": 0.5, "train/loss": 1.0}
    score = Score(np.eye(7, dtype=np.float32), 123, dict.fromkeys(results.TEST, 0.25))
    summary = Summary([row], 1, [{"epoch": 1, "seconds": 1.0}])
    outcomes = [Outcome(config, "complete", "", summary, score) for config in spaces.configs(own)]
    results.write(tmp_path, own, {}, outcomes)
    text = progress.conclusion(own, outcomes, tmp_path)
    table = text.partition("Table II")[2].splitlines()
    assert table[1].split()[:4] == ["network", "rate", "learning", "rate"] and "test mean" in table[1]
    assert [line.split()[0] for line in table[2:4]] == ["CFPN-NBP", "CFPN-NBP"]
    assert len([line for line in table if " common " in line]) == len(own.models)
    assert text.splitlines()[-1].startswith(f"{tmp_path}: curves.csv, epochs.csv, metrics.json, models.csv")
