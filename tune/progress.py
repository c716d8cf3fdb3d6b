"""What a sweep says before, while and after it runs."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from tune import names, results, spaces
from tune.names import METRIC, SEED
from tune.outcome import Outcome
from tune.search import reason
from tune.spaces import Sweep

HEADING = ("trial", "epoch", METRIC, "val/loss", "seconds", "trials done", "time left")
ENDED = (Trial.TERMINATED, Trial.ERROR)
ROWS = 12  # of the live table


def announcement(
    sweep: Sweep, epochs: Sequence[int], trials: int, at_once: int, resources: str, places: Mapping[str, str]
) -> str:
    """What is swept, how many trials, on what, and where results go.

    epochs: of every point of the grid; trials: how many of them are tried. places: by their title.
    """
    axes = {name: values for name, values in spaces.space(sweep).items() if name != SEED}
    lines = [f"{name}: {', '.join(map(names.text, values))}" for name, values in axes.items()]
    if sweep.rates:
        lines += [f"learning rates: {', '.join(f'{name} {rate:g}' for name, rate in sweep.rates.items())}"]
    fixed = [f"{name} = {names.text(value)}" for name, value in sweep.fixed.items()]
    how = "" if sweep.methods or sweep.models else f"method {sweep.method}, "
    length = f"{min(epochs)}" if min(epochs) == max(epochs) else f"{min(epochs)} to {max(epochs)}"
    seeds = f"{sweep.seeds} {'seed' if sweep.seeds == 1 else 'seeds'}"
    found = spaces.resolve(sweep, sweep.fixed)
    lines += [f"fixed: {', '.join([f'{how}profile {found.profile}', *fixed])}"]
    lines += [f"trials: {trials} ({seeds} of each setting), {length} epochs each"]
    lines += [f"resources: {resources}, {min(at_once, trials)} at once"]
    lines += [f"{title}: {where}" for title, where in places.items()]
    return "\n".join([f"Sweep {sweep.name}", *(f"  {line}" for line in lines)])


class Progress(tune.Callback):
    """A line per epoch and trial; on a terminal one table that is drawn anew. Both on standard error."""

    def __init__(
        self, sweep: Sweep, epochs: Mapping[str, int], trials: int | None = None, stream: TextIO | None = None
    ) -> None:
        """epochs: of a complete trial, by the trial's name. trials: how many of them are tried; None: all."""
        self.trials = len(epochs) if trials is None else trials
        self.sweep, self.epochs, self.stream = sweep, epochs, stream or sys.stderr
        self.width = max([len(HEADING[0]), *map(len, epochs)])
        self.live = self.stream.isatty()
        self.rows: dict[str, str] = {}
        self.drawn = 0
        self.clock: Callable[[], float] = time.monotonic
        self.reached: dict[str, int] = {}  # epochs of each trial
        self.first: dict[str, int] = {}  # of those, the ones that an earlier command had trained
        self.begin = 0.0

    def setup(self, *details: object, **info: object) -> None:
        """Print the heading."""
        self.begin = self.clock()
        if not self.live:
            self._print(self._line(*HEADING))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        """Print a line of the table."""
        name = self._name(trial)
        if result.get("reason"):
            self.reached[name] = self.epochs.get(name, 0)
            self._say(name, result["reason"])
            return
        self.reached[name] = int(result["epoch"])
        self.first.setdefault(name, self.reached[name] - (not result.get("kept")))
        done = sum(other.status in ENDED for other in trials)
        values = (f"{result['epoch']}/{self.epochs.get(name, '?')}", f"{result[METRIC]:.4f}",
                  f"{result['val/loss']:.4f}", f"{result['time_this_iter_s']:.1f}",
                  f"{done}/{max(self.trials, len(trials))}", self.left())  # fmt: skip
        self._say(name, *values)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Say that a trial is tried again."""
        fault = trial.get_pickled_error()  # not always there yet
        what = f"failed ({reason(fault)})" if isinstance(fault, RayTaskError) else "failed, or its worker was lost"
        self._say(self._name(trial), f"{what}; tried again from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Say that a trial is given up."""
        self._say(self._name(trial), "failed for good")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """Count the epochs of a trial that was stopped as done."""
        name = self._name(trial)
        self.reached[name] = self.epochs.get(name, self.reached.get(name, 0))

    def left(self) -> str:
        """Time for the epochs that are left, at the speed of this command so far; trials that are stopped save some."""
        here = sum(count - self.first.get(name, count) for name, count in self.reached.items())
        wanted = sum(self.epochs.values()) * self.trials / max(1, len(self.epochs))  # a search tries some of the points
        rest = wanted - sum(self.reached.get(name, 0) for name in self.epochs)
        return duration((self.clock() - self.begin) * max(rest, 0) / here) if here else "?"

    def _name(self, trial: Trial) -> str:
        return names.identifier(spaces.point(self.sweep, trial.config))

    def _line(self, name: str, *values: str) -> str:
        columns = "  ".join(f"{value:>12}" for value in values) if len(values) > 1 else "".join(values)
        return f"{name:{self.width}}  {columns}"

    def _say(self, name: str, *values: str) -> None:
        line = self._line(name, *values)
        if not self.live:
            self._print(line)
            return
        self.rows.pop(name, None)
        self.rows[name] = line
        width = shutil.get_terminal_size().columns
        shown = [self._line(*HEADING), *list(self.rows.values())[-ROWS:]]
        back = f"\x1b[{self.drawn}F" if self.drawn else ""
        self.drawn = len(shown)
        self._print(f"{back}\x1b[J" + "\n".join(line[: width - 1] for line in shown))

    def _print(self, text: str) -> None:
        print(text, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """ "42 s", "12 min", "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def conclusion(sweep: Sweep, outcomes: list[Outcome], folder: Path) -> str:
    """The table over settings, Table II of a sweep over networks, and the files."""
    parts = [results.table(outcomes)]
    if sweep.models:
        parts.append(results.table2(results.models(results.trials(outcomes), spaces.common_rate(sweep), sweep.rates)))
    files = ", ".join(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    return "\n\n".join([*parts, f"{folder}: {files}"])
