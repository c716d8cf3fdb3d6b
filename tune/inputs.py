"""The faces of a sweep, and every fault of its input that can be known before Ray starts."""

from pathlib import Path
from typing import Any

import torch

from cfpn.faces import Faces
from cfpn.network import Network
from pipeline import evaluate, networks
from pipeline.params import refuse_drawn
from pipeline.process import InputError, file_hash
from pipeline.runs import about as run_json
from pipeline.runs import session as sessions
from tune import names, spaces, trial
from tune.spaces import Sweep
from tune.trial import Arrays, Data

FILES = {"original": "train.parquet", "val": "val.parquet", "test": "test.parquet"}
PIPELINE, TUNE = Path(evaluate.__file__).parent, Path(__file__).parent
# With cfpn and the session they decide what a trial computes; scores of kept trials are never computed anew.
OWN_CODE = (
    *(PIPELINE / name for name in ("evaluate.py", "metrics.py", "runs/chance.py")),
    *(TUNE / name for name in ("spaces.py", "trial.py")),
)


def needed(sweep: Sweep, splits: Path, augmented: Path) -> dict[str, Path]:
    """Files of faces that the trials use, by name: those of train.faces, "val", and "test" where it is scored."""
    points = spaces.configs(sweep)
    learnt = sorted({spaces.training(sweep, config, 1, "cpu").params.train.faces for config in points})
    chosen = [*learnt, "val", "test"] if sweep.test else [*learnt, "val"]
    return {name: augmented if name == "augmented" else splits / FILES[name] for name in chosen}


def digests(files: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of each file; InputError for one that is missing."""
    result = {}
    for name, path in files.items():
        if not path.exists():
            raise InputError(f"{path}: no such file; `dvc repro ingest augment` makes the faces")
        result[name] = file_hash(path)
    return result


def code() -> str:
    """Hash of the code that decides what a trial computes: its weights and its scores."""
    return run_json.digest([*run_json.code_files(), *OWN_CODE])


def load(sweep: Sweep, files: dict[str, Path], splits: Path, device: str = "cpu") -> Data:
    """All faces, with what run.json says of them; InputError where a point of the grid cannot be trained on them.

    device: "cpu" or "cuda", where trials train.
    """
    faces = {name: trial.arrays(evaluate.load_faces(path)) for name, path in files.items()}
    for name in faces.keys() - {"val", "test"}:
        sessions.check_kinds(trial.faces(faces[name]), trial.faces(faces["val"]))
    if sweep.test:
        check_test(files["test"], trial.faces(faces["test"]), trial.faces(faces["val"]))
    check(sweep, faces, device)
    copied = None
    if sweep.test:
        copied = evaluate.copies(trial.faces(faces["test"]), splits / FILES["original"]).numpy()
    learnt = [name for name in files if name not in ("val", "test")]
    fingerprints = {name: run_json.digest([files[name], files["val"]]) for name in learnt}
    return Data(faces, copied, fingerprints, run_json.code_now())


def check_test(path: Path, test: Faces, validation: Faces) -> None:
    """Raise InputError where the test split is of other faces or classes: no trial could be scored at its end."""
    for name in ("side", "channels", "classes"):
        ours, theirs = getattr(test, name), getattr(validation, name)
        if ours != theirs:
            raise InputError(f"{path}: expected the {name} of the validation faces, {theirs}, found {ours}")


def check(sweep: Sweep, faces: dict[str, Arrays], device: str = "cpu") -> None:
    """Raise InputError for faces that the profile refuses, splits too small, and units that a network does not have.

    Also where workers on devices of this kind, "cpu" or "cuda", cannot hand on features as compute.transport says.
    """
    seen: set[Any] = set()
    for config in spaces.configs(sweep):
        what = spaces.training(sweep, config, 1, "cpu")
        train, own = what.params.train, faces[what.params.train.faces]
        refuse_drawn(what.params, own.drawn, "name others by --splits, or let them pass by --set photographs=false")
        count = min(train.limit or len(own.labels), len(own.labels))
        sessions.check_counts(train.batch, count, len(faces["val"].labels))
        if sessions.workers_of(what.params, what.how) > 1:
            sessions.check_transport(what.params.compute.transport, device)
        key = repr((what.params.model, what.how.units))
        if key not in seen:
            check_units(what, own, names.label(config))
            seen.add(key)


def check_units(what: spaces.Training, own: Arrays, where: str) -> None:
    """Raise InputError where the network cannot be cut as the method says; no weight is made for that."""
    model, loss = sessions.model_for(what.params, trial.faces(own)), what.how.local_loss
    try:
        with torch.device("meta"):
            Network(
                networks.build(model, 0), what.how.units, input_size=model.input_size, channels=model.channels,
                classes=model.classes, head=loss.head, pool=loss.pool,
            )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{where}: methods.{what.method}.{error}") from error
