"""Train a grid of settings on Ray Tune, one trial per setting and seed, and write tidy tables of the results."""

import argparse
import hashlib
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # `python tune/sweep.py`: the packages stand beside this folder, not in it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Repeater

from pipeline import evaluate, networks
from pipeline import params as parameters
from pipeline import session as sessions
from pipeline import train as stage
from pipeline.process import InputError, only_one, run
from tune import results, spaces, storage, track, trial
from tune.progress import Progress
from tune.results import Outcome
from tune.spaces import SEED, Sweep
from tune.storage import Storage
from tune.trial import METRIC, Arrays, Place, Score, Summary

EXAMPLE = """examples:
  python tune/sweep.py activation --seeds 3
  python tune/sweep.py learning_rate --set train.learning_rate=0.001,0.01 --epochs 10 --cpus-per-trial 1
  python tune/sweep.py width --set model.width=32,64 --set methods.nbp.objective.weight=0.1,0.5 --search asha
  python tune/sweep.py models --address auto --gpus-per-trial 0.25 --storage s3://bucket/sweeps
  python tune/sweep.py models --resume          after Ctrl-C, a crash or a lost machine

exit codes: 0 all trials complete; 1 some failed or diverged (see trials.csv); 2 wrong input; 130 interrupted
"""
QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "0",  # a killed driver then forgets no trial that has ended
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
CODE = Path(__file__).resolve().parents[1]
PACKAGES = ("cfpn", "pipeline", "tune")
FILES = {"original": "train.parquet", "val": "val.parquet", "test": "test.parquet"}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python tune/sweep.py",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", help="a key of `sweeps` in params.yaml, or a new name together with --set")
    add("--set", action="append", default=[], metavar="NAME=V1,V2", help="dotted parameter: one value, or an axis")
    add("--method", help="nbp or bp (default: the sweep's)")
    add("--seeds", type=int, help="trials of each setting, seeds 0, 1, ... (default: the sweep's)")
    add("--epochs", type=int, help="short for --set train.epochs=N")
    add("--search", choices=("grid", "asha", "optuna"), default="grid", help="default: %(default)s")
    add("--samples", type=int, default=20, help="settings that optuna tries (default: %(default)s)")
    add("--cpus-per-trial", type=float, help="also the trial's threads (default: compute.threads of params.yaml)")
    add("--gpus-per-trial", type=float, default=0.0, help="may be a fraction; 0 trains on the CPU (default)")
    add("--cpus", type=int, help="CPUs of the local Ray (default: all)")
    add("--address", help="of a running Ray, or auto (default: start a Ray here and stop it at the end)")
    add("--storage", default="ray", help="folder or URI for state and checkpoints (default: %(default)s)")
    add("--resume", nargs="?", const="same", choices=("same", "auto"), help="continue an unfinished sweep; 'auto': "
        "start anew where there is none or its specification differs")  # fmt: skip
    add("--restart", action="store_true", help="discard an unfinished sweep of this name")
    add("--retries", type=int, default=3, help="of a trial whose worker was lost (default: %(default)s)")
    add("--allow-failed", action="store_true", help="exit code 0 although trials failed or diverged")
    add("--project", help="of Weights & Biases (default: tracking.project of params.yaml)")
    add("--params", type=Path, default=Path("params.yaml"))
    add("--splits", type=Path, default=Path("data/splits"))
    add("--augmented", type=Path, default=Path("data/augmented.parquet"))
    add("--out", type=Path, default=Path("results/sweeps"), help="folder of the tables (default: %(default)s)")
    args = parser.parse_args()
    if args.resume and args.restart:
        parser.error("--resume and --restart exclude each other")
    return args


def main() -> None:
    """Command line."""
    args = arguments()
    sweep = planned(args)
    place = where(args, sweep)
    files = needed(args, sweep)
    about = spaces.specification(sweep, args.search, args.samples)
    about |= {"threads": place.threads, "device": place.device, "data": digests(files), "code": code()}
    kept = storage.at(args.storage, args.name)
    storage.apart(kept, args.out / args.name)
    with only_one(args.out / args.name), alone(kept):
        results.probe(args.out / args.name)
        resume = prepare(kept, about, args)
        storage.probe(kept)
        data = {name: trial.arrays(stage.load(path)) for name, path in files.items()}
        with cluster(args):
            fits(args)
            grid = fit(sweep, args, place, data, kept, resume)
            outcomes = collect(grid, sweep, args, place, data, copies(args, sweep))
        results.write(args.out / args.name, sweep, about, outcomes)
        if all(one.status not in ("failed", "unfinished") for one in outcomes):
            storage.finish(kept)
        project = args.project or sweep.raw.get("tracking", {}).get("project", "cfpn-nbp")
        track.replay(Path.cwd(), project, sweep, about, outcomes, data["val"])
    conclude(outcomes, args)


def planned(args: argparse.Namespace) -> Sweep:
    """The sweep that the command line asks for, checked point by point."""
    raw = parameters.read(args.params)
    fixed = {} if args.epochs is None else {"train.epochs": args.epochs}
    sweep = spaces.with_common_rate(spaces.read(raw, args.name, args.set, fixed, args.method, args.seeds))
    spaces.check(sweep)
    return sweep


def where(args: argparse.Namespace, sweep: Sweep) -> Place:
    """Threads and device of a trial, from its resources; sets args.cpus_per_trial where it was left out."""
    if args.cpus_per_trial is None:
        args.cpus_per_trial = spaces.resolve(sweep.raw, sweep.fixed).compute.threads
    if args.cpus_per_trial <= 0 or args.gpus_per_trial < 0:
        raise InputError("--cpus-per-trial must be above 0 and --gpus-per-trial at least 0")
    for flag, count in (("--cpus-per-trial", args.cpus_per_trial), ("--gpus-per-trial", args.gpus_per_trial)):
        if count > 1 and count % 1:
            raise InputError(f"{flag}: expected a whole number or less than 1, found {count:g}; Ray splits single ones")
    return Place(max(1, int(args.cpus_per_trial)), "cuda" if args.gpus_per_trial else "cpu")


def needed(args: argparse.Namespace, sweep: Sweep) -> dict[str, Path]:
    """Files of faces that the trials use, by name: those of train.faces, "val", and "test" where it is scored."""
    points = spaces.configs(sweep)
    names = sorted({spaces.training(sweep, config, 1, "cpu").params.train.faces for config in points})
    names += ["val", "test"] if sweep.test else ["val"]
    return {name: args.augmented if name == "augmented" else args.splits / FILES[name] for name in names}


def digests(files: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of each file."""
    result = {}
    for name, path in files.items():
        with path.open("rb") as file:
            result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def code() -> str:
    """Hash of the code that decides what a trial computes."""
    digest = hashlib.sha256()
    own = (networks, sessions, spaces, trial)
    for path in [*sorted((CODE / "cfpn").glob("*.py")), *(Path(module.__file__) for module in own)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def alone(kept: Storage) -> Iterator[None]:
    """Keep a second sweep of the same name off a local storage folder."""
    if "://" in kept.root:
        yield
        return
    with only_one(Path(kept.root) / f".{Path(kept.path).name}.lock"):
        yield


def prepare(kept: Storage, about: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether to continue what storage holds; otherwise it is cleared. Raises InputError where neither is wanted."""
    old = storage.found(kept)
    differ = storage.differences(old, json.loads(json.dumps(about))) if old is not None else []
    usable = old is not None and tune.Tuner.can_restore(storage.uri(kept))
    if args.resume == "same" and differ:
        raise InputError(f"--resume: {storage.uri(kept)} holds another sweep: {'; '.join(differ[:5])}")
    if args.resume and usable and not differ:
        return True
    if args.resume == "same" and old is None:
        raise InputError(f"--resume: there is no sweep to continue in {storage.uri(kept)}")
    if usable and not args.resume and not args.restart and not storage.finished(kept):
        raise InputError(f"{storage.uri(kept)} holds an unfinished sweep: --resume continues it, --restart discards it")
    storage.begin(kept, about)
    return False


@contextmanager
def cluster(args: argparse.Namespace) -> Iterator[None]:
    """A Ray to run on: the one at --address, or one that is started here and stopped at the end."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is told by Progress and at the end
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if args.address is None:
        token()
        os.environ.setdefault("RAY_worker_niceness", "0")  # by default 15: trials would starve beside anything else
        os.environ["PYTHONPATH"] = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
        ray.init(address="local", num_cpus=args.cpus, include_dashboard=False, **options)
    else:
        if args.address.startswith("ray://"):
            raise InputError("--address: run the command on the cluster (ray job submit) instead of through ray://")
        try:
            modules = [str(CODE / name) for name in PACKAGES]
            ray.init(address=args.address, runtime_env={"py_modules": modules}, **options)
        except ConnectionError as error:
            raise InputError(f"--address {args.address}: no Ray answers there: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def token() -> None:
    """Give the local Ray a token of its own: Ray would write one into the home folder, which may be read-only."""
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def fits(args: argparse.Namespace) -> None:
    """Raise InputError where no node could ever hold one trial: Ray would wait for one without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wanted = {"CPU": args.cpus_per_trial, "GPU": args.gpus_per_trial}
    if any(all(node.get(name, 0) >= count for name, count in wanted.items()) for node in nodes):
        return
    for name, flag in (("CPU", "--cpus-per-trial"), ("GPU", "--gpus-per-trial")):
        largest = max((node.get(name, 0) for node in nodes), default=0)
        if wanted[name] > largest:
            raise InputError(f"{flag}: {wanted[name]:g} wanted, and the largest node of this Ray has {largest:g}")
    both = " and ".join(f"{count:g} {name}" for name, count in wanted.items())
    raise InputError(f"--cpus-per-trial, --gpus-per-trial: no node of this Ray has {both} at once")


def fit(
    sweep: Sweep, args: argparse.Namespace, place: Place, data: dict[str, Arrays], kept: Storage, resume: bool
) -> tune.ResultGrid:
    """Run all trials, or those that are left; raises KeyboardInterrupt when asked to stop, with the state kept."""
    shared = tune.with_parameters(trial.run, sweep=sweep, place=place, kept=kept, data=data)
    trainable = tune.with_resources(shared, {"cpu": args.cpus_per_trial, "gpu": args.gpus_per_trial})
    space = param_space(sweep, args.search)
    if resume:
        tuner = tune.Tuner.restore(
            storage.uri(kept), trainable, resume_unfinished=True, resume_errored=True, param_space=space
        )
    else:
        tuner = tune.Tuner(trainable, param_space=space, tune_config=strategy(sweep, args),
                           run_config=running(sweep, args, kept))  # fmt: skip
    try:
        with stopping() as stopped:
            grid = tuner.fit()
    except (OSError, EOFError, TuneError) as error:
        storage.probe(kept)
        raise InputError(f"{storage.uri(kept)}: Ray Tune lost its state there: {error!r}") from error
    if stopped:
        raise KeyboardInterrupt
    return grid


def param_space(sweep: Sweep, search: str) -> dict[str, Any]:
    """Every axis as Ray Tune wants it: a grid, or choices for Optuna (seeds are then repetitions)."""
    axes = spaces.space(sweep)
    if search == "optuna":
        return {name: tune.choice(values) for name, values in axes.items() if name != SEED}
    return {name: tune.grid_search(values) for name, values in axes.items()}


def strategy(sweep: Sweep, args: argparse.Namespace) -> tune.TuneConfig:
    """How trials are chosen and which are stopped early."""
    common = {"metric": METRIC, "mode": "max", "trial_dirname_creator": partial(trial.folder, sweep)}
    if args.search == "asha":
        longest = max(epochs_of(sweep, config) for config in spaces.configs(sweep))
        asha = ASHAScheduler(time_attr="epoch", max_t=longest, grace_period=max(1, longest // 4), reduction_factor=3)
        return tune.TuneConfig(scheduler=asha, **common)
    if args.search == "optuna":
        return tune.TuneConfig(search_alg=optuna(sweep), num_samples=args.samples * sweep.seeds, **common)
    return tune.TuneConfig(**common)


def optuna(sweep: Sweep) -> Repeater:
    """Optuna's sampler, which sees the mean over seeds of each setting; raises InputError without the package."""
    try:
        import optuna as package
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise InputError("--search optuna: the package is missing; pip install optuna") from error
    package.logging.set_verbosity(package.logging.WARNING)
    return Repeater(OptunaSearch(seed=0, metric=METRIC, mode="max"), repeat=sweep.seeds, set_index=True)


def epochs_of(sweep: Sweep, config: dict[str, Any]) -> int:
    """Epochs of a complete trial at a point."""
    return spaces.training(sweep, config, 1, "cpu").params.train.epochs


def running(sweep: Sweep, args: argparse.Namespace, kept: Storage) -> tune.RunConfig:
    """Names, retries, checkpoints and output of the run."""
    names = [spaces.identifier(config) for config in spaces.configs(sweep)]
    total = args.samples * sweep.seeds if args.search == "optuna" else len(names)
    return tune.RunConfig(
        name=args.name,
        storage_path=kept.root,
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=args.retries, fail_fast=False),
        checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        callbacks=[Progress(sweep, names, total)],
    )


@contextmanager
def stopping() -> Iterator[list[int]]:
    """While Tune runs, the first Ctrl-C or SIGTERM lets it write its state and return; the second ends at once."""
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        if received or not callable(signal.getsignal(signal.SIGUSR1)):
            raise KeyboardInterrupt
        received.append(number)
        print("stopping; what is done is kept, --resume continues", file=sys.stderr)
        signal.raise_signal(signal.SIGUSR1)  # Tune's own request to stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def copies(args: argparse.Namespace, sweep: Sweep) -> Any:  # noqa: ANN401
    """Which test faces (n,) training has seen; None where the test split is not scored."""
    if not sweep.test:
        return None
    test = args.splits / FILES["test"]
    return evaluate.copies(evaluate.load_faces(test), args.splits / FILES["original"]).numpy()


def collect(
    grid: tune.ResultGrid,
    sweep: Sweep,
    args: argparse.Namespace,
    place: Place,
    data: dict[str, Arrays],
    copied: Any,  # noqa: ANN401
) -> list[Outcome]:
    """Every trial's outcome with its score, in the order of the grid whatever the order they ended in."""
    shared = ray.put({name: faces for name, faces in data.items() if name in ("val", "test")})
    task = ray.remote(num_cpus=args.cpus_per_trial, num_gpus=args.gpus_per_trial)(trial.score)
    by_name = {Path(result.path).name.rpartition("-")[0]: result for result in grid}
    found = [(config, by_name[name]) for config in spaces.configs(sweep)
             if (name := spaces.identifier(config)) in by_name]  # fmt: skip
    scores = [
        task.remote(config, sweep, place, result.checkpoint, shared, copied) if result.checkpoint else None
        for config, result in found
    ]
    return [
        outcome(config, result, ray.get(score) if score else None, sweep, args.search)
        for (config, result), score in zip(found, scores, strict=True)
    ]


def outcome(config: dict[str, Any], result: tune.Result, score: Score | None, sweep: Sweep, search: str) -> Outcome:
    """How a trial ended, from its last checkpoint and its last report."""
    summary = Summary([], 0, [])
    if result.checkpoint is not None:
        with result.checkpoint.as_directory() as folder:
            summary = trial.summary(Path(folder))
    last = result.metrics or {}
    if result.error is not None:
        cause = getattr(result.error, "cause", None) or result.error
        status, reason = "failed", ": ".join([type(cause).__name__, *str(cause).strip().splitlines()[:1]])
    elif last.get("reason"):
        status, reason = "diverged", last["reason"]
    elif len(summary.history) == epochs_of(sweep, config):
        status, reason = "complete", ""
    else:
        status, reason = "stopped" if search == "asha" else "unfinished", ""
    return Outcome(config, status, reason, summary, score)


def conclude(outcomes: list[Outcome], args: argparse.Namespace) -> None:
    """Say what came out; exit with 1 where a trial failed, unless that is allowed."""
    print(f"\n{results.table(outcomes)}\n\n{args.out / args.name}: trials.csv, epochs.csv, curves.csv")
    bad = [one for one in outcomes if one.status in ("diverged", "failed", "unfinished")]
    for one in bad:
        print(f"{one.status}: {spaces.label(one.config)}: {one.reason}", file=sys.stderr)
    if bad and not args.allow_failed:
        print(f"{len(bad)} of {len(outcomes)} trials did not complete", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
