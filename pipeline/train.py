"""Train one network by one method from one seed; a killed training continues from its last complete epoch."""

import argparse
import csv
import json
import os
import shutil
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path

import torch

from cfpn import data, training
from cfpn.allocator import keep_freed_memory
from cfpn.data import Faces
from pipeline import params as parameters
from pipeline import session as sessions
from pipeline import sinks
from pipeline.params import Params
from pipeline.process import InputError, atomic, only_one, run
from pipeline.session import Session
from pipeline.sinks import Sink

EXAMPLE = """example:
  python -m pipeline.train runs/nbp-0 --method nbp --seed 0
"""
PATIENCE = 3  # epochs at the majority share before a run says so


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder for model.safetensors, history.csv, metrics.json, timing.json")
    parser.add_argument("--method", required=True, help="a name under methods in params.yaml")
    parser.add_argument("--seed", type=int, required=True, help="of weights, data order and augmentation")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    parser.add_argument("--augmented", type=Path, default=Path("data/augmented.parquet"))
    parser.add_argument("--checkpoints", type=Path, default=Path(".checkpoints"))
    parser.add_argument("--project", default="cfpn-nbp", help="of Weights & Biases (default: %(default)s)")
    args = parser.parse_args()
    params = parameters.load(args.params)
    if args.seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {args.seed}")
    if args.method not in params.methods:
        raise InputError(f"--method: expected one of {', '.join(params.methods)}, found {args.method!r}")
    with only_one(args.checkpoints / args.out.name):
        train(params, args)


def train(params: Params, args: argparse.Namespace) -> None:
    """Train as the command line says and write the outputs."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    files = [args.augmented if params.train.faces == "augmented" else args.splits / "train.parquet"]
    files.append(args.splits / "val.parquet")
    identity = sessions.fingerprint(params, args.method, args.seed, files)
    session = sessions.begin(params, params.methods[args.method], args.seed)
    checkpoint = args.checkpoints / args.out.name / f"{identity}.safetensors"
    if checkpoint.exists():
        sessions.restore(session, checkpoint)
        print(f"continue after epoch {session.state.epoch}: {checkpoint}")
    elif any(checkpoint.parent.glob("*.safetensors")):
        print(f"begin anew: the checkpoint in {checkpoint.parent} is of other parameters, data or code")
    device = sessions.device(params.compute)
    faces, validation = (load(path).to(device) for path in files)
    faces = faces.first(params.train.limit)
    majority = validation.labels.bincount().max().item() / len(validation.labels)
    print(f"{args.out.name}: {len(faces.labels)} faces, majority share of validation {majority:.4f}")
    epochs(session, params, args, faces, validation, checkpoint, majority)
    write(session, params, args, majority, device)
    shutil.rmtree(checkpoint.parent)


def load(path: Path) -> Faces:
    """Faces of a split, with a bad file as an input error."""
    try:
        return data.load(path)
    except ValueError as error:
        raise InputError(str(error)) from error


def epochs(
    session: Session,
    params: Params,
    args: argparse.Namespace,
    faces: Faces,
    validation: Faces,
    checkpoint: Path,
    majority: float,
) -> None:
    """Train to the end, a checkpoint after every epoch and every record to every sink."""
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(sink)
            for sink in destinations(session, params, args, len(faces.labels), checkpoint.stem)
        ]
        for record in sessions.advance(session, params, params.methods[args.method], args.seed, faces, validation):
            if record.complete:
                sessions.save(session, checkpoint)
                warn_if_collapsed(session, majority)
            for output in outputs:
                output(record)


def destinations(
    session: Session, params: Params, args: argparse.Namespace, faces: int, identity: str
) -> list[AbstractContextManager[Sink]]:
    """Progress bar, DVCLive and a W&B run, which stands in a group with the others of its experiment or profile."""
    name, per_epoch = args.out.name, faces // params.train.batch
    method = asdict(params.methods[args.method])
    config = params.model_dump(mode="json", exclude={"methods"}) | {"method": method, "seed": args.seed}
    group = os.environ.get("DVC_EXP_NAME") or params.profile
    return [
        sinks.progress_bar(name, params.train.epochs * per_epoch, session.state.epoch * per_epoch),
        sinks.dvclive(args.out / "live", session.history),
        sinks.wandb(args.project, group, name, identity, config, session.history, Path.cwd()),
    ]


def collapsed(session: Session, majority: float) -> bool:
    """True where the last PATIENCE epochs all stand at the majority share of the validation faces."""
    last = [row["val/accuracy"] for row in session.history[-PATIENCE:]]
    return len(last) == PATIENCE and all(abs(accuracy - majority) < 0.002 for accuracy in last)


def warn_if_collapsed(session: Session, majority: float) -> None:
    """Say on standard error that the network predicts one class."""
    if collapsed(session, majority):
        print(
            f"warning: validation accuracy has stood at the majority share {majority:.4f} for {PATIENCE} epochs: "
            "the network predicts one class",
            file=sys.stderr,
        )


def write(session: Session, params: Params, args: argparse.Namespace, majority: float, device: torch.device) -> None:
    """Write the weights of the best epoch, the history, metrics without times, and the times."""
    network = {"model": asdict(params.model), "method": asdict(params.methods[args.method])}
    about = {"network": json.dumps(network)}  # one key alone: the format keeps several in random order
    sessions.write(session.best, about, args.out / "model.safetensors")
    with atomic(args.out / "history.csv") as path, path.open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in session.history for name in row))
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(session.history)
    best = session.history[session.best_epoch - 1]
    metrics = {
        "best_epoch": session.best_epoch,
        "epochs": len(session.history),
        "steps": session.history[-1]["step"],
        "parameters": training.parameters(session.state),
        "train": {"loss": best["train/loss"], "accuracy": best["train/accuracy"]},
        "val": {"loss": best["val/loss"], "accuracy": best["val/accuracy"]},
        "majority_accuracy": majority,
        "collapsed": collapsed(session, majority),
    }
    with atomic(args.out / "metrics.json") as path:
        sinks.dump(path, metrics)
    with atomic(args.out / "timing.json") as path:
        timing = {"seconds_per_epoch": session.seconds, "threads": params.compute.threads, "device": device.type}
        sinks.dump(path, timing)


if __name__ == "__main__":
    run(main)
