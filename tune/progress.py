"""What a sweep says while it runs: a line per trial and epoch, columns that fit under one heading."""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tune import spaces
from tune.spaces import Sweep
from tune.trial import METRIC

HEADING = ("trial", "epoch", METRIC, "val/loss", "seconds", "trials done")


class Progress(tune.Callback):
    """Prints every report and every failure to standard output."""

    def __init__(self, sweep: Sweep, names: list[str], total: int) -> None:
        self.sweep = sweep
        self.width = max([len(HEADING[0]), *map(len, names)])
        self.total = total

    def setup(self, **info: object) -> None:
        """Print the heading."""
        print(f"{HEADING[0]:{self.width}}  " + "  ".join(f"{name:>12}" for name in HEADING[1:]), flush=True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        """Print a line of the table."""
        done = sum(other.status == Trial.TERMINATED for other in trials)
        if result.get("reason"):
            self._say(trial, result["reason"])
            return
        values = (
            f"{result['epoch']:12d}",
            f"{result[METRIC]:12.4f}",
            f"{result['val/loss']:12.4f}",
            f"{result['time_this_iter_s']:12.1f}",
            f"{f'{done}/{self.total}':>12}",
        )
        self._say(trial, "  ".join(values))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Say that a trial is tried again."""
        self._say(trial, "failed, or its worker was lost; tried again from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Say that a trial is given up."""
        self._say(trial, "failed for good")

    def _say(self, trial: Trial, text: str) -> None:
        name = spaces.identifier(spaces.point(self.sweep, trial.config))
        print(f"{name:{self.width}}  {text}", flush=True)
