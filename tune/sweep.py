"""Train a grid of settings on Ray Tune, one trial per setting and seed, and write tidy tables of the results."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # `python tune/sweep.py`: the packages stand beside this folder, not in it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline.process import InputError, command_line, only_one, run, workspace
from pipeline.runs.cluster import reach
from tune import cluster

if TYPE_CHECKING:
    from tune.outcome import Outcome
    from tune.spaces import Sweep
    from tune.storage import Storage
    from tune.trial import Data, Place

SAMPLES = 20  # settings that optuna tries
EXAMPLE = """examples:
  python tune/sweep.py activation --seeds 3
  python tune/sweep.py methods --seeds 5        the study: methods compared over paired seeds
  python tune/sweep.py learning_rate --set train.schedule.learning_rate=0.001,0.01 --epochs 10 --cpus-per-trial 1
  python tune/sweep.py width --set model.width=32,64 --set methods.nbp.local_loss.hsic_weight=0.1,0.5 --search asha
  python tune/sweep.py models --epochs 2 --out sweeps/results/pilots     which learning rate suits which network
  python tune/sweep.py models --rates sweeps/results/pilots/models/models.csv --seeds 2
  python tune/sweep.py models --address auto --gpus-per-trial 0.25 --storage s3://bucket/sweeps
  python tune/sweep.py models --resume          after Ctrl-C, a crash or a lost machine
  python tune/sweep.py models --seeds 5 --resume    five seeds in all: trials that have ended are kept

exit codes: 0 all trials complete; 1 some failed or diverged (see trials.csv); 2 wrong input; 130 or 143 interrupted
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = command_line("python tune/sweep.py", __doc__, EXAMPLE)
    add = parser.add_argument
    add("name", help="a sweep of sweeps/params.yaml, or a new name together with --set")
    add("--set", action="append", default=[], metavar="NAME=V1,V2", help="dotted parameter: one value, or an axis")
    add("--method", help="of all trials, a name in methods.yaml (default: the sweep's)")
    add("--seeds", type=int, help="trials of each setting, seeds 0, 1, ... (default: the sweep's)")
    add("--epochs", type=int, help="short for --set train.epochs=N")
    add("--rates", type=Path, metavar="TABLE", help="models.csv of an earlier sweep over networks: train each at its "
        "tuned rate of that table")  # fmt: skip
    add("--search", choices=("grid", "asha", "optuna"), default="grid", help="default: %(default)s")
    add("--samples", type=int, help=f"settings that optuna tries (default: {SAMPLES})")
    add("--cpus-per-trial", type=float, help="also its threads; of each worker, where compute.workers is above 1 "
        "(default: compute.threads of params.yaml)")  # fmt: skip
    add("--gpus-per-trial", type=float, help="may be a fraction; 0 trains on the CPU (default: 1 where compute.device "
        "of params.yaml is cuda, else 0)")  # fmt: skip
    add("--cpus", type=int, help="CPUs of the local Ray (default: all)")
    add("--address", help="of a running Ray, HOST:PORT or auto (default: start a Ray here and stop it at the end)")
    add("--storage", default="ray", help="folder or URI for state and checkpoints (default: %(default)s)")
    add("--resume", nargs="?", const="same", choices=("same", "auto"), help="continue an unfinished sweep, or a grid "
        "with another number of seeds; 'auto': discard it and start anew where its specification differs")  # fmt: skip
    add("--restart", action="store_true", help="discard an unfinished sweep of this name")
    add("--retries", type=int, default=3, help="of a trial whose worker was lost (default: %(default)s)")
    add("--allow-failed", action="store_true", help="exit code 0 although trials failed or diverged")
    add("--project", help="of Weights & Biases (default: tracking.project of params.yaml)")
    add("--params", type=Path, default=Path("params.yaml"))
    add("--splits", type=Path, default=Path("data/splits"))
    add("--augmented", type=Path, default=Path("data/augmented.parquet"))
    add("--out", type=Path, default=Path("sweeps/results"), help="folder of the tables (default: %(default)s)")
    args = parser.parse_args()
    check(parser, args)
    args.samples = args.samples or SAMPLES
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with exit code 2 where options exclude each other, have no effect, or are counts that cannot be."""
    if args.resume and args.restart:
        parser.error("--resume and --restart exclude each other")
    if args.rates and sets_rate(args.set):
        parser.error("--rates and --set train.schedule.learning_rate exclude each other: both choose the rate")
    for flag, count, least in (
        ("--samples", args.samples, 1),
        ("--retries", args.retries, 0),
        ("--cpus", args.cpus, 1),
    ):
        if count is not None and count < least:  # to Ray, -1 samples are endless ones
            parser.error(f"{flag}: expected {least} or more, found {count}")
    if args.address and args.cpus is not None:
        parser.error("--cpus is of the Ray that is started here; --address names one that runs")
    if args.samples is not None and args.search != "optuna":
        parser.error("--samples: expected --search optuna beside it")


def sets_rate(sets: list[str]) -> bool:
    """Whether one of the values of --set is that of the learning rate, or a group with it."""
    from tune import spaces

    return any(spaces.gives_rate(name, value) for name, values in map(spaces.values_of, sets) for value in values)


def main() -> None:
    """Command line; what takes seconds to import is imported behind it."""
    args = arguments()
    if args.address is not None:
        reach(args.address, cluster.ADDRESS)
    from tune import inputs, progress, results, spaces, storage

    sweep = planned(args)
    place = where(args, sweep)
    files = inputs.needed(sweep, args.splits, args.augmented)
    about = spaces.specification(sweep, args.search, args.samples)
    about |= {"threads": place.threads, "device": place.device, "data": inputs.digests(files), "code": inputs.code()}
    kept, out = storage.at(args.storage, args.name), args.out / args.name
    storage.apart(kept, out)
    data = inputs.load(sweep, files, args.splits, place.device)
    with only_one(out), alone(kept):
        results.probe(out)
        resume = prepare(kept, about, args)
        storage.probe(kept)
        outcomes = trained(sweep, args, place, data, kept, resume, about)
        finish(out, sweep, about, outcomes, data, kept)
    print(f"\n{progress.conclusion(sweep, outcomes, out)}")
    conclude(outcomes, args)


def planned(args: argparse.Namespace) -> "Sweep":
    """The sweep that the command line asks for, checked point by point."""
    from tune import spaces

    fixed = {} if args.epochs is None else {"train.epochs": args.epochs}
    sweep = spaces.read(args.params, args.name, args.set, fixed, args.method, args.seeds)
    sweep = spaces.with_rates(sweep, args.rates) if args.rates else spaces.with_common_rate(sweep)
    spaces.check(sweep)
    return sweep


def where(args: argparse.Namespace, sweep: "Sweep") -> "Place":
    """Threads and device of a trial, from its resources; sets those of args that were left out."""
    from tune import spaces
    from tune.trial import Place

    compute = spaces.resolve(sweep, sweep.fixed).compute
    if args.cpus_per_trial is None:
        args.cpus_per_trial = compute.threads
    if args.gpus_per_trial is None:
        args.gpus_per_trial = float(compute.device == "cuda")
    if not (args.cpus_per_trial > 0 and args.gpus_per_trial >= 0):  # so that NaN is refused too
        found = f"{args.cpus_per_trial:g} and {args.gpus_per_trial:g}"
        raise InputError(f"--cpus-per-trial must be above 0 and --gpus-per-trial at least 0, found {found}")
    for flag, count in (("--cpus-per-trial", args.cpus_per_trial), ("--gpus-per-trial", args.gpus_per_trial)):
        if count > 1 and count % 1:
            raise InputError(f"{flag}: expected a whole number or less than 1, found {count:g}; Ray splits single ones")
    return Place(max(1, int(args.cpus_per_trial)), "cuda" if args.gpus_per_trial else "cpu")


@contextmanager
def alone(kept: "Storage") -> Iterator[None]:
    """Keep a second sweep of the same name off a local storage folder."""
    from pyarrow import fs

    if not isinstance(kept.system, fs.LocalFileSystem):
        yield
        return
    with only_one(Path(kept.path).with_name(f".{Path(kept.path).name}.lock")):
        yield


def prepare(kept: "Storage", about: dict[str, Any], args: argparse.Namespace) -> bool:
    """Whether to continue what storage holds; otherwise it is cleared. Raises InputError where neither is wanted.

    A grid continues with another number of seeds, which storage then notes: trials that it shares are kept. It needs no
    record of Ray's to continue, since its trials go on from their outcomes and checkpoints.
    """
    from ray import tune

    from tune import storage

    old, wanted = storage.found(kept), json.loads(json.dumps(about))
    reseeded = old is not None and storage.reseeded(old, wanted)
    if reseeded and not (args.resume or args.restart):
        raise InputError(f"{storage.uri(kept)} holds this sweep with other seeds: --resume keeps the trials that have "
                         "ended, --restart discards them")  # fmt: skip
    if reseeded and args.resume:
        storage.specify(kept, about)
        old = wanted
    differ = storage.differences(old, wanted) if old is not None else []
    usable = old is not None and tune.Tuner.can_restore(storage.uri(kept))
    grid = old is not None and old.get("search") == "grid"
    if args.resume == "same" and differ:
        raise InputError(f"--resume: {storage.uri(kept)} holds another sweep: {'; '.join(differ[:5])}")
    if args.resume and (usable or grid) and not differ:
        return True
    if args.resume == "same" and old is None:
        raise InputError(f"--resume: there is no sweep to continue in {storage.uri(kept)}")
    if (usable or grid) and not args.restart and not storage.finished(kept):
        held = f"{storage.uri(kept)} holds an unfinished sweep"
        if not args.resume and not differ:
            raise InputError(f"{held}: --resume continues it, --restart discards it")
        if not args.resume:
            raise InputError(f"{held} of another kind ({differ[0]}): --restart discards it")
        print(f"{held} of another kind ({differ[0]}), which is discarded", file=sys.stderr)
    storage.begin(kept, about)
    return False


def trained(
    sweep: "Sweep",
    args: argparse.Namespace,
    place: "Place",
    data: "Data",
    kept: "Storage",
    resume: bool,
    about: dict[str, Any],
) -> "list[Outcome]":
    """Run all trials, say what happens and tell W&B; returns how every trial ended."""
    from pipeline.sinks import forgiving
    from pipeline.sinks import wandb as sink
    from tune import inputs, names, progress, search, spaces, storage, track
    from tune.wandb_runs import Project, Shown, Writer

    epochs = {names.identifier(config): search.epochs_of(sweep, config) for config in spaces.configs(sweep)}
    mode, trials = None, args.samples * sweep.seeds if args.search == "optuna" else len(epochs)
    project = args.project or spaces.resolve(sweep, sweep.fixed).tracking.project
    with forgiving("no W&B runs, the sweep goes on without"):
        mode = sink.mode(workspace())
    most = max(search.workers(sweep, place, config) for config in spaces.configs(sweep))
    files = inputs.needed(sweep, args.splits, args.augmented)
    source = {"code": {"commit": data.code["commit"]}, "dvc": sink.dvc(files.values())}
    with cluster.cluster(args):
        at_once = cluster.fits(args, most)
        told = mode not in (None, "disabled")
        tracked = f"{mode}, project {project}, group {track.group(about)}, folder {workspace() / 'wandb'}"
        places = {"tables": str(args.out / args.name), "checkpoints": storage.uri(kept),
                  "W&B runs": tracked if told else "none"}  # fmt: skip
        print(progress.announcement(
            sweep, list(epochs.values()), trials, at_once, resources(args, most), places), flush=True)  # fmt: skip
        shown = Shown(*data.faces["val"][:2], data.faces["val"].classes)
        writer = Writer(Project(workspace(), project, track.group(about)), shown, mode)
        tracker = track.Tracker(sweep, about, kept, writer, source)
        try:
            callbacks = [progress.Progress(sweep, epochs, trials), *([tracker] if told else [])]
            grid = search.fit(sweep, args, place, data, kept, resume, callbacks)
            outcomes = search.collect(grid, sweep, args, place, data, kept)
            if told:
                tracker.settle(outcomes)
        finally:
            writer.close()
    return outcomes


def resources(args: argparse.Namespace, workers: int) -> str:
    """What a trial gets of which Ray, in words."""
    trial = "trial" if workers == 1 else f"worker, {workers} workers per trial,"
    gpus = f" and {args.gpus_per_trial:g} GPU" if args.gpus_per_trial else ""
    ray = f"the Ray at {args.address}" if args.address else f"a Ray on this machine ({args.cpus or os.cpu_count()} CPU)"
    return f"{args.cpus_per_trial:g} CPU{gpus} per {trial} on {ray}"


def finish(
    out: Path, sweep: "Sweep", about: dict[str, Any], outcomes: "list[Outcome]", data: "Data", kept: "Storage"
) -> None:
    """Write tables and runs, and note in storage that all is done."""
    from tune import results, runs, storage, trial

    runs.write(out, outcomes, trial.faces(data.faces["test"]) if sweep.test else None, data.copied)
    if sweep.methods and sweep.test and not sweep.axes:
        print(f"\n{runs.comparison(out)}")
    results.write(out, sweep, about, outcomes)
    if all(one.status not in ("failed", "unfinished") for one in outcomes):
        storage.finish(kept)


def conclude(outcomes: "list[Outcome]", args: argparse.Namespace) -> None:
    """Say what did not come to its end; exit with 1 where a trial failed, unless that is allowed."""
    from tune import names

    bad = [one for one in outcomes if one.status in ("diverged", "failed", "unfinished")]
    for one in bad:
        print(f"{one.status}: {names.label(one.config)}: {one.reason}", file=sys.stderr)
    if bad and not args.allow_failed:
        print(f"{len(bad)} of {len(outcomes)} trials did not complete", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(main)
