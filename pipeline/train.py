"""Train one network by one method from one seed; a killed training continues from its last complete epoch."""

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces
from cfpn.faces import load as load_split
from pipeline import inputs, process
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, command_line, only_one, probe, run, there, workspace
from pipeline.runs import chance, records
from pipeline.runs import session as sessions
from pipeline.runs.about import describe, identity
from pipeline.runs.session import Session
from pipeline.sinks import Sink
from pipeline.sinks.dvclive import dvclive
from pipeline.sinks.progress import progress_bar
from pipeline.sinks.wandb import dvc, wandb

EXAMPLE = """example:
  python -m pipeline.train runs/nbp-0 --method nbp --seed 0
"""


def main() -> None:
    """Command line of the stage."""
    parser = command_line("python -m pipeline.train", __doc__, EXAMPLE)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the weights, history.csv and three .json")
    parser.add_argument("--method", required=True, help="a name of methods.yaml")
    parser.add_argument("--seed", type=int, required=True, help="of weights, data order and augmentation")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    parser.add_argument("--augmented", type=Path, default=Path("data/augmented.parquet"))
    parser.add_argument("--checkpoints", type=Path, default=Path(".checkpoints"))
    parser.add_argument("--live", type=Path, default=Path(".live"), help="folder of DVCLive (default: %(default)s)")
    parser.add_argument("--project", help="of Weights & Biases (default: tracking.project of the parameters)")
    args = parser.parse_args()
    params = parameters.load(args.params)
    if not 0 <= args.seed < 2**32:
        raise InputError(f"--seed: expected 0 or more and less than 2^32, found {args.seed}")
    if args.out.name in ("", ".."):
        raise InputError(f"OUT: expected a folder with a name of its own, found {str(args.out)!r}")
    if args.method not in params.methods:
        raise InputError(f"--method: expected one of {', '.join(params.methods)}, found {args.method!r}")
    with only_one(args.checkpoints / args.out.name):
        probe(there(args.out))
        train(params, args)


def train(params: Params, args: argparse.Namespace) -> None:
    """Train as the command line says and write the outputs."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    files = list(inputs.files(params.train.faces, args.splits, args.augmented))
    device = sessions.device(params.compute)
    faces, validation = (load(path).to(device) for path in files)
    advice = f"name others by --splits, or set photographs: false in profiles/{params.profile}.yaml"
    parameters.refuse_drawn(params, faces.drawn, advice)
    sessions.check_kinds(faces, validation)
    faces = sessions.learnt(params, faces, args.seed)
    sessions.check_counts(params.train.batch, len(faces), len(validation))
    about = describe(params, args.method, args.seed, faces, files)
    session = sessions.begin(params, params.methods[args.method], args.seed, faces)
    checkpoint = kept(args, identity(about))
    resume(session, checkpoint)
    print(f"{args.out.name}: {len(faces)} faces, majority share of validation {chance.majority(validation.labels):.4f}")
    if about["workers"] < params.compute.workers:
        print(f"{args.out.name}: {fewer_workers(args.method, about['workers'])}")
    epochs(session, params, args, about, files, faces, validation, checkpoint)
    forget(checkpoint)


def fewer_workers(method: str, count: int) -> str:
    """Why a training has fewer workers than it was asked to."""
    if count == 1:
        return f"one worker, because gradients cross the units of {method}"
    return f"{count} workers, because {method} has {count} units"


def kept(args: argparse.Namespace, identity: str) -> Path:
    """The checkpoint's file. In a copy of the workspace, which DVC deletes, it goes to the workspace itself."""
    if workspace() == Path.cwd():
        return Path(args.checkpoints, args.out.name, f"{identity}.safetensors")
    return Path(workspace(), args.checkpoints, f"{args.out.name}-{identity}", f"{identity}.safetensors")


def resume(session: Session, checkpoint: Path) -> None:
    """Continue from the checkpoint where there is one, and say so."""
    if checkpoint.exists():
        sessions.restore(session, checkpoint)
        print(f"continue after epoch {session.state.epoch}: {checkpoint}")
    elif any(checkpoint.parent.glob("*.safetensors")):
        print(f"begin anew: the checkpoint in {checkpoint.parent} is of other parameters, data or code, and stays")


def forget(checkpoint: Path) -> None:
    """Remove a checkpoint, and its folder if nothing else is there: a training with other parameters may go on yet."""
    checkpoint.unlink(missing_ok=True)
    process.sweep([str(checkpoint.parent)])
    with suppress(OSError):  # another process writes there, or has removed it
        checkpoint.parent.rmdir()


def load(path: Path) -> Faces:
    """Faces of a split, with a bad file as an input error."""
    try:
        return load_split(path)
    except ValueError as error:
        raise InputError(str(error)) from error


def epochs(
    session: Session,
    params: Params,
    args: argparse.Namespace,
    about: dict[str, Any],
    files: list[Path],
    faces: Faces,
    validation: Faces,
    checkpoint: Path,
) -> None:
    """Train to the end, a checkpoint after every epoch and every record to every sink; then write the outputs."""
    method = params.methods[args.method]
    with ExitStack() as stack:
        outputs = [stack.enter_context(sink) for sink in destinations(session, params, args, about, files)]
        for record in sessions.advance(session, params, method, args.seed, faces, validation):
            if record.complete:
                sessions.save(session, checkpoint)
                warn_if_collapsed(session, validation)
            for output in outputs:
                output(record)
        write(session, params, args, about, faces, validation)


def destinations(
    session: Session, params: Params, args: argparse.Namespace, about: dict[str, Any], files: list[Path]
) -> list[AbstractContextManager[Sink]]:
    """Progress bar, DVCLive and a W&B run, which stands in a group with the others of its experiment or profile."""
    name, per_epoch = args.out.name, about["data"]["faces"] // params.train.batch
    group = os.environ.get("DVC_EXP_NAME") or params.profile
    return [
        progress_bar(name, params.train.epochs * per_epoch, session.state.epoch * per_epoch),
        dvclive(args.live / name, session.history),
        wandb(
            args.project or params.tracking.project,
            group,
            name,
            identity(about),
            about | {"dvc": dvc(files)},
            session.history,
            workspace(),
            args.out / "model.safetensors",
        ),
    ]


def collapsed(session: Session, validation: Faces) -> bool:
    """Whether validation accuracy says that the network has learnt nothing, see `pipeline.runs.chance.stuck`."""
    return chance.stuck([row["val/accuracy"] for row in session.history], validation.labels)


def warn_if_collapsed(session: Session, validation: Faces) -> None:
    """Say on standard error that the network has learnt nothing."""
    if collapsed(session, validation):
        print(
            f"warning: for {chance.PATIENCE} epochs validation accuracy has not been a standard error above the share "
            f"of the largest class, {chance.majority(validation.labels):.4f}: the network tells no faces apart",
            file=sys.stderr,
        )


def write(
    session: Session, params: Params, args: argparse.Namespace, about: dict[str, Any], faces: Faces, validation: Faces
) -> None:
    """Write the weights of the best epoch, the history, run.json, metrics without times, and the times.

    Where a former training left these, new weights never stand beside what tells of the old ones.
    """
    for name in (records.ABOUT, "metrics.json"):
        (args.out / name).unlink(missing_ok=True)
    sessions.write(session.best, sessions.about_weights(session, params, faces), args.out / "model.safetensors")
    network = session.state.network
    found = records.training_metrics(
        session.history, session.best_epoch, network.count(), collapsed(session, validation)
    )
    found["majority_accuracy"] = chance.majority(validation.labels)
    records.write(args.out, about, session.history, found, session.seconds, **by_worker(session))


def by_worker(session: Session) -> dict[str, Any]:
    """Who worked when, where units learnt on several workers in this process."""
    if not session.log:
        return {}
    from pipeline.runs import workers  # Ray takes a second to import

    return {"workers": workers.timetable(session.state, session.log)}


if __name__ == "__main__":
    run(main)
