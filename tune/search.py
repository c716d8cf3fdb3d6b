"""Running the trials on Ray Tune: the search space, its strategy, interruption, and what became of every trial."""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Repeater

from pipeline.process import InputError
from pipeline.runs import session as sessions
from tune import names, outcome, spaces, storage, trial
from tune.names import BEST, SEED, Config
from tune.outcome import Ended, Outcome, Summary
from tune.spaces import Sweep
from tune.storage import Storage
from tune.trial import Data, Place


class Observers(tune.Callback):
    """Hands Tune's events to the callbacks of this process: Tune keeps its own with the sweep and restores them.

    So a resumed sweep shows its progress on the terminal that it was resumed from.
    """

    present: ClassVar[list[tune.Callback]] = []

    def setup(self, *details: Any, **info: Any) -> None:  # noqa: ANN401 - what Tune hands over, here and below
        """Before the first trial."""
        for one in self.present:
            one.setup(*details, **info)

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """A trial begins, or begins again."""
        for one in self.present:
            one.on_trial_start(iteration, trials, trial, **info)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """A trial reports."""
        for one in self.present:
            one.on_trial_result(iteration, trials, trial, result, **info)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """A trial will be tried again."""
        for one in self.present:
            one.on_trial_recover(iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """A trial is given up."""
        for one in self.present:
            one.on_trial_error(iteration, trials, trial, **info)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:  # noqa: ANN401
        """A trial has ended, or was stopped by the scheduler."""
        for one in self.present:
            one.on_trial_complete(iteration, trials, trial, **info)


class Tidy(tune.Callback):
    """Deletes the checkpoints of a trial as soon as its outcome is kept."""

    def __init__(self, sweep: Sweep, kept: Storage) -> None:
        self.sweep, self.kept = sweep, kept

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: object) -> None:
        """A trial that the scheduler stopped has no outcome yet: its checkpoint is still to be scored."""
        tidy(self.kept, names.identifier(spaces.point(self.sweep, trial.config)))


def tidy(kept: Storage, name: str) -> None:
    """Delete the checkpoints of the trial `name` if its outcome is kept; a disk that refuses ends no sweep."""
    try:
        if outcome.read(kept, name) is not None:
            storage.forget(kept, name)
    except OSError as error:
        print(f"warning: checkpoints of {name} are left: {error}", file=sys.stderr)


def fit(
    sweep: Sweep,
    args: argparse.Namespace,
    place: Place,
    data: Data,
    kept: Storage,
    resume: bool,
    callbacks: Sequence[tune.Callback],
) -> tune.ResultGrid:
    """Run all trials, or those that are left; when asked to stop it raises as `end` does, with the state kept."""
    shared = tune.with_parameters(trial.run, sweep=sweep, place=place, kept=kept, data=data)
    trainable = tune.with_resources(shared, partial(resources, sweep, place, args.cpus_per_trial, args.gpus_per_trial))
    space = param_space(sweep, args.search)
    Observers.present = [Tidy(sweep, kept), *callbacks]
    try:
        if resume and args.search != "grid":  # what Optuna has learnt, and which trials ASHA stopped: Ray's own record
            return fitted(tune.Tuner.restore(
                storage.uri(kept), trainable, resume_unfinished=True, resume_errored=True, param_space=space
            ))  # fmt: skip
        # Trials go on from their checkpoints and outcomes. Ray's record may be cut off by a kill, or name deleted ones.
        return fitted(tune.Tuner(
            trainable, param_space=space, tune_config=strategy(sweep, args), run_config=running(args, kept)
        ))  # fmt: skip
    except (OSError, EOFError, TuneError) as error:
        storage.probe(kept)
        raise InputError(f"{storage.uri(kept)}: Ray Tune lost its state there: {error!r}") from error


def resources(sweep: Sweep, place: Place, cpus: float, gpus: float, config: Config) -> tune.PlacementGroupFactory:
    """What Ray reserves for the trial of a point: as much for each worker as for a trial that is one process.

    The process of a trial with several workers waits while they work, and takes nothing.
    """
    each, count = {"CPU": cpus, "GPU": gpus}, workers(sweep, place, spaces.point(sweep, config))
    return tune.PlacementGroupFactory([each] if count == 1 else [{}, *[each] * count])


def workers(sweep: Sweep, place: Place, config: Config) -> int:
    """The number of workers of the trial at a point."""
    what = spaces.training(sweep, config, place.threads, place.device)
    return sessions.workers_of(what.params, what.how)


def fitted(tuner: tune.Tuner) -> tune.ResultGrid:
    """The results of a tuner; when asked to stop it raises as `end` does, with the state kept."""
    with stopping() as stopped:
        grid: tune.ResultGrid = tuner.fit()
    if stopped:
        end(stopped[0])
    return grid


def end(number: int) -> NoReturn:
    """Raise KeyboardInterrupt for Ctrl-C, and for SIGTERM SystemExit with its exit code."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def param_space(sweep: Sweep, search: str) -> dict[str, Any]:
    """Every axis as Ray Tune wants it: a grid, or choices for Optuna (seeds are then repetitions)."""
    axes = spaces.space(sweep)
    if search == "optuna":
        return {name: tune.choice(values) for name, values in axes.items() if name != SEED}
    return {name: tune.grid_search(values) for name, values in axes.items()}


def strategy(sweep: Sweep, args: argparse.Namespace) -> tune.TuneConfig:
    """How trials are chosen and which are stopped early."""
    common: dict[str, Any] = {"metric": BEST, "mode": "max", "trial_dirname_creator": partial(folder, sweep)}
    if args.search == "asha":
        longest = max(epochs_of(sweep, config) for config in spaces.configs(sweep))
        asha = ASHAScheduler(time_attr="epoch", max_t=longest, grace_period=max(1, longest // 4), reduction_factor=3)
        return tune.TuneConfig(scheduler=asha, **common)
    if args.search == "optuna":
        return tune.TuneConfig(search_alg=optuna(sweep), num_samples=args.samples * sweep.seeds, **common)
    return tune.TuneConfig(**common)


def folder(sweep: Sweep, own: Trial) -> str:
    """Name of a trial's folder in storage: its point, then Ray's name for it."""
    return f"{names.identifier(spaces.point(sweep, own.config))}-{own.trial_id}"


def optuna(sweep: Sweep) -> Repeater:
    """Optuna's sampler, which sees the mean over seeds of each setting; raises InputError without the package."""
    try:
        import optuna as package
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise InputError("--search optuna: the package is missing; pip install optuna") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return Repeater(OptunaSearch(seed=0, metric=BEST, mode="max"), repeat=sweep.seeds, set_index=True)


def epochs_of(sweep: Sweep, config: Config) -> int:
    """Epochs of a complete trial at a point."""
    return spaces.training(sweep, config, 1, "cpu").params.train.epochs


def running(args: argparse.Namespace, kept: Storage) -> tune.RunConfig:
    """Names, retries, checkpoints and output of the run."""
    return tune.RunConfig(
        name=args.name,
        storage_path=kept.root,
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=args.retries, fail_fast=False),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        callbacks=[Observers()],
    )


@contextmanager
def stopping() -> Iterator[list[int]]:
    """While Tune runs, the first Ctrl-C or SIGTERM lets it write its state and return; the second ends at once."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if received or not callable(signal.getsignal(signal.SIGUSR1)):
            end(number)
        received.append(number)
        print("stopping; what is done is kept, --resume continues", file=sys.stderr)
        signal.raise_signal(signal.SIGUSR1)  # Tune's own request to stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def collect(
    grid: tune.ResultGrid, sweep: Sweep, args: argparse.Namespace, place: Place, data: Data, kept: Storage
) -> list[Outcome]:
    """Every trial's outcome, in the order of the grid whatever the order they ended in.

    What has not come to its own end is scored from its last checkpoint; one that may be resumed keeps it.
    """
    by_name = {Path(result.path).name.rpartition("-")[0]: result for result in map(grid.__getitem__, range(len(grid)))}
    task = ray.remote(num_cpus=args.cpus_per_trial, num_gpus=args.gpus_per_trial)(trial.score_checkpoint)
    shared = ray.put(data)
    scoring = {}
    for config in spaces.configs(sweep):
        name = names.identifier(config)
        result = by_name.get(name)
        if result is not None and result.checkpoint is not None and outcome.read(kept, name) is None:
            where = None if tried_again(result) else kept
            scoring[name] = task.remote(config, sweep, place, result.checkpoint, shared, where)
    outcomes = []
    for config in spaces.configs(sweep):
        name = names.identifier(config)
        if name in by_name:
            ended, fault = scored(scoring[name]) if name in scoring else (outcome.read(kept, name), "")
            one = told(config, by_name[name], ended, args.search, epochs_of(sweep, config))
            outcomes.append(one._replace(status="failed", reason=fault) if fault else one)
            tidy(kept, name)
    return outcomes


def tried_again(result: tune.Result) -> bool:
    """Whether a resumed sweep trains on from the last checkpoint: of a trial that failed or diverged.

    An outcome in storage would say that it has come to its end.
    """
    return result.error is not None or bool((result.metrics or {}).get("reason"))


def scored(score: "ray.ObjectRef[Ended]") -> tuple[Ended | None, str]:
    """What a scoring gave, or why it failed: one that fails loses no other trial's results."""
    try:
        return ray.get(score), ""
    except RayError as error:
        return None, f"not scored: {reason(error)}"


def reason(error: Exception) -> str:
    """The first line of what went wrong in a worker."""
    cause = getattr(error, "cause", None) or error
    return ": ".join([type(cause).__name__, *str(cause).strip().splitlines()[:1]])


def told(config: Config, result: tune.Result, ended: Ended | None, search: str, epochs: int) -> Outcome:
    """How a trial ended that was to run so many epochs, from what is left of it and its last report."""
    summary = ended.summary if ended is not None else Summary([], 0, [])
    last = result.metrics or {}
    if result.error is not None:
        status, why = "failed", reason(result.error)
    elif last.get("reason"):
        status, why = "diverged" if last.get("diverged") else "failed", last["reason"]
    elif len(summary.history) == epochs:
        status, why = "complete", ""
    else:
        status, why = "stopped" if search == "asha" else "unfinished", ""
    return Outcome(config, status, why, summary, *(ended[1:] if ended is not None else (None, None)))
