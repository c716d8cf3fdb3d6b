"""Command `weights`: a run and its evaluation -> weights that come with the library, in cfpn/weights.

`python -m pipeline.weights NAME RUN_DIR EVALUATION_DIR` adds to the run's weights how they were trained, what they
score, where their card is, and the probability at which a face may leave early. `make weights` makes the three files
from the data on.

The probability is the least of 0.40, 0.45 ... 0.95 with which the validation faces are classified as well as by the
full vote, up to 0.2 points. The test faces have no part in it.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from cfpn import anytime, checkpoint, prediction, weights
from cfpn.faces import Faces
from cfpn.faces import load as load_split
from cfpn.network import Network
from pipeline import networks
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs.about import digest
from pipeline.runs.records import ABOUT, LOOKS, About, read_about, read_json

EXAMPLE = """example:
  python -m pipeline.weights nbp runs/nbp-1 results/evaluate/nbp-1
"""
TOLERANCE = 0.002  # of accuracy
CARD = "docs/model-card.md"  # of the project: what the weights are for and what they must not decide
SCORES = ("accuracy", "accuracy_standard_error", "accuracy_without_copies", "test_faces", "recall")


def add(name: str, run_folder: Path, evaluation: Path, validation: Path, folder: Path = weights.FOLDER) -> Path:
    """Write the weights under a name and return their path; raises InputError where a file is missing or unfit."""
    if not weights.is_name(name):
        raise InputError(f"NAME: expected letters, digits and underscores, found {name!r}")
    path = run_folder / "model.safetensors"
    about, scores = (read_json(path) for path in (run_folder / ABOUT, evaluation / "metrics.json"))
    if read_json(evaluation / ABOUT) != about or scores.get(LOOKS, 1) != 1:
        raise InputError(f"{evaluation}: expected the evaluation of {run_folder}, with one look at each face")
    try:
        network, faces = checkpoint.load(path, networks.described), load_split(validation)
        tensors, metadata = checkpoint.read(path)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from error
    if (network.names, network.channels) != (faces.classes, faces.pixels.shape[1]):
        raise InputError(f"{validation}: faces of {', '.join(faces.classes)} in {faces.pixels.shape[1]} channels; "
                         f"{path} knows {', '.join(network.names)} in {network.channels}")  # fmt: skip
    check_validation(read_about(run_folder / ABOUT), validation)
    training = {key: about.get(key) for key in ("method", "seed", "profile", "parameters", "data", "code")}
    training["test"] = {key: scores.get(key) for key in SCORES}
    own = json.loads(metadata["network"]) | {"training": training, "card": CARD}
    if network.vote:
        own["exit"] = early_enough(network, faces)
    with atomic(folder / f"{name}.safetensors") as temporary:
        save_file(tensors, temporary, {"network": json.dumps(own)})
    return folder / f"{name}.safetensors"


def check_validation(about: About, validation: Path) -> None:
    """Raise InputError where these are not the validation faces of the run, whose train.parquet lies beside them.

    A run that learnt from the augmented file is not compared: that file may lie anywhere.
    """
    if about.parameters["train"].get("faces") == "augmented":
        return
    train = validation.with_name("train.parquet")
    if not train.is_file() or digest([train, validation]) != about.data.fingerprint:
        raise InputError(
            f"{validation}: expected the validation faces that chose the run's epoch, beside its {train.name}"
        )


def early_enough(network: Network, faces: Faces) -> float | None:
    """The least probability of EXITS with which leaving early costs at most TOLERANCE; None where none will do."""
    units = prediction.unit_log_probabilities(network, faces.pixels)
    full = prediction.accuracy(prediction.vote(units, together=True), faces.labels)
    scores = {sure: prediction.accuracy(anytime.leave(units, sure)[0], faces.labels) for sure in anytime.EXITS}
    return next((sure for sure, score in scores.items() if score >= full - TOLERANCE), None)


def main() -> None:
    """Command line."""
    parser = command_line("python -m pipeline.weights", __doc__, EXAMPLE)
    parser.add_argument("name", metavar="NAME", help="under which cfpn.load finds them: nbp, bp, deep_supervision")
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="model.safetensors and run.json are read")
    parser.add_argument("evaluation", type=Path, metavar="EVALUATION_DIR", help="metrics.json is read")
    parser.add_argument("--validation", type=Path, default=Path("data/splits/val.parquet"), help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    path = add(args.name, args.run, args.evaluation, args.validation)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run(main)
