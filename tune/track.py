"""What W&B is told of a sweep: one run per trial, in one group, with a name that says its setting."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from safetensors import SafetensorError

from pipeline.process import json_hash
from pipeline.sinks import forgiving
from pipeline.sinks.wandb import shown
from tune import names, outcome, spaces, storage, trial
from tune.names import Config
from tune.outcome import Ended, Outcome
from tune.spaces import Sweep, Training
from tune.storage import Storage
from tune.wandb_runs import Begin, End, Log, Writer

UNTOLD = "W&B is not told what has happened to a trial, the sweep goes on"


class Tracker(tune.Callback):
    """Tells the writer of W&B runs what happens to trials, when it happens; what fails there ends no sweep."""

    def __init__(
        self, sweep: Sweep, about: dict[str, Any], kept: Storage, writer: Writer, source: dict[str, Any]
    ) -> None:
        self.sweep, self.about, self.kept, self.writer, self.source = sweep, about, kept, writer, source
        self.begun: set[str] = set()
        self.unscored: set[str] = set()  # told as stopped

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: object
    ) -> None:
        """An epoch; the run of a trial that another command began is told anew, with all its epochs."""
        config = spaces.point(self.sweep, trial.config)
        name = names.identifier(config)
        with forgiving(UNTOLD):
            if name not in self.begun:
                ended = outcome.read(self.kept, name)
                rows = history(self.kept, name, ended)[: int(result["epoch"]) - 1]
                self.begin(config, rows, ended.about if ended is not None else None)
            if not result.get("reason"):
                self.writer.send(Log(name, shown(json.loads(result["row"]))))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """A run that nobody has begun yet; one that goes on, or has ended before, is told with its first result."""
        config = spaces.point(self.sweep, trial.config)
        name = names.identifier(config)
        with forgiving(UNTOLD):
            new = not storage.checkpoints(self.kept, name) and outcome.read(self.kept, name) is None
            if name not in self.begun and new:
                self.begin(config, [])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """The end of a run, with its scores; a trial that was stopped has none yet, and `settle` tells it anew."""
        config = spaces.point(self.sweep, trial.config)
        name = names.identifier(config)
        with forgiving(UNTOLD):
            ended = outcome.read(self.kept, name)
            if ended is not None:
                self.end(Outcome(config, "complete", "", *ended))
            elif name in self.begun:
                self.writer.send(End(name, {"status": "stopped"}, None))  # hundreds of runs are not kept open
                self.begun.remove(name)
                self.unscored.add(name)

    def begin(self, config: Config, rows: list[dict[str, float]], run: dict[str, Any] | None = None) -> None:
        """Begin the run of a trial with the epochs that it has.

        run: the run.json of one that has ended, which may have run at another commit than that of this command.
        """
        what = spaces.training(self.sweep, config, self.about["threads"], self.about["device"])
        name = names.identifier(config)
        self.begun.add(name)
        code = {"code": {"commit": run["code"]["commit"]}} if run is not None else {}
        told = settings(self.sweep, self.about, config, what) | self.source | code
        run_id = json_hash([storage.identity(self.about), config])  # the same for a trial that is resumed
        self.writer.send(Begin(name, names.title(config, what.method), run_id, told, rows))

    def end(self, one: Outcome) -> None:
        """Finish the run of a trial."""
        summary = {"status": one.status, "reason": one.reason, "best_epoch": one.summary.best_epoch}
        summary["epochs"] = len(one.summary.history)
        if one.score is not None:
            summary["parameters"] = one.score.parameters
            summary |= {f"test/{key}": value for key, value in flat(one.score.test or {}).items()}
        probabilities = one.score.probabilities if one.score is not None else None
        self.writer.send(End(names.identifier(one.config), summary, probabilities))

    def settle(self, outcomes: list[Outcome]) -> None:
        """Tell the end of all trials that have not come to their own: stopped, diverged or failed ones.

        ASHA stops a trial at its last epoch before it is scored, so one that is complete may be among them.
        """
        for one in outcomes:
            if one.status != "complete" or names.identifier(one.config) in self.unscored:
                if names.identifier(one.config) not in self.begun:
                    self.begin(one.config, whole(one), one.about)
                self.end(one)


def history(kept: Storage, name: str, ended: Ended | None) -> list[dict[str, float]]:
    """All epochs of a trial, from what is left of it where it has ended, else from its newest whole checkpoint."""
    if ended is not None:
        return whole(Outcome({}, "complete", "", *ended))
    for saved in storage.checkpoints(kept, name):
        try:
            with saved.as_directory() as folder:
                return whole(Outcome({}, "", "", trial.summary(Path(folder)), None))
        except (OSError, ValueError, KeyError, SafetensorError):  # a kill cuts off what is being written
            continue
    return []


def whole(one: Outcome) -> list[dict[str, float]]:
    """The rows of all complete epochs, each with what the epoch took of the machine it ran on."""
    return [shown(trial.row(metrics, place)) for metrics, place in
            zip(one.summary.history, one.summary.places, strict=True)]  # fmt: skip


def group(about: dict[str, Any]) -> str:
    """Name of the group that the runs of a sweep stand in, from its specification: more seeds join those before."""
    return f"{about['sweep']}-{json_hash(storage.identity(about))[:8]}"


def settings(sweep: Sweep, about: dict[str, Any], config: Config, what: Training) -> dict[str, Any]:
    """What a dashboard groups and filters by: the sweep, its group, the setting, every parameter of the training.

    "sweep" and "group" alone are W&B's own names, which its filters take for something else.
    """
    method = {"method": asdict(what.how), "method_name": what.method, "seed": what.seed}
    chosen = what.params.model_dump(mode="json", include={"profile", "model", "train", "compute"})
    short = names.short(config)
    axes = {short[name]: value for name, value in config.items()}
    found = {"sweep_name": sweep.name, "sweep_group": group(about), "setting": names.setting(config)}
    return found | {"axes": axes} | method | chosen | {"data": about.get("data")}


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping with "/" between its keys."""
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}{key}/") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return result
