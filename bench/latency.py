"""What an answer of each network costs: parameters, file size, multiply-adds, and time on one core, in one run.

`python -m bench.latency` measures the weights that come with the library, by the full vote and by faces that leave
early, and the comparison networks of Table II, whose time does not depend on their weights. It writes latency.json,
from which `make docs` makes the table and the picture of docs/predict.md. Run it on an idle machine: the answers of all
take turns, so that what disturbs falls on all alike. Every answer includes preprocessing; every round has faces of its
own.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from bench.card import count
from bench.origin import processor
from cfpn import anytime, prediction, weights
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces
from cfpn.network import Network
from cfpn.recipe import Recipe
from cfpn.training import Method
from pipeline import evaluate, export
from pipeline.networks import MODULES, Baseline
from pipeline.pictures.answers import Model, load_model
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs.session import first_state

EXAMPLE = """example:
  taskset -c 0 python -m bench.latency --splits data/splits
"""
TIMED_EXITS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities at which faces leave, beside the one that is stored
INPUT_SIZE = 64  # of the comparison networks: the least that they take
ROUNDS = {1: 300, 128: 8}  # faces at once -> measured answers
PIXELS = 128  # faces on which an export is compared with PyTorch, and that are scored at once
SCORED = ("val", "test")

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """One way to get an answer: the numbers of its row, and calls that take pixels (n, 1, 48, 48), by their engine."""

    row: dict[str, Any]
    calls: Mapping[str, Call]


def measure(
    models: Sequence[Model], splits: Mapping[str, Faces], exits: Sequence[float], rounds: Mapping[int, int]
) -> dict[str, Any]:
    """Rows of all models, by the full vote and with every exit; faces leave early by PyTorch alone.

    splits: "train" gives the ranges of 8-bit features; multiply-adds are means over the "test" faces, and times are of
    them.
    """
    with TemporaryDirectory() as folder:
        subjects = [one for model in models for one in subjects_of(model, splits, exits, Path(folder))]
    timed = {batch: times(subjects, splits["test"].pixels, batch, number) for batch, number in rounds.items()}
    for place, subject in enumerate(subjects):
        subject.row["ms"] = {
            engine: {str(batch): timed[batch][place][engine] for batch in rounds} for engine in subject.calls
        }
    about: dict[str, Any] = {"rounds": {str(batch): number for batch, number in rounds.items()}}
    about |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": processor()}
    return {"rows": [subject.row for subject in subjects]} | about


def subjects_of(model: Model, splits: Mapping[str, Faces], exits: Sequence[float], folder: Path) -> Iterator[Subject]:
    """The full vote, then every exit where units vote."""
    network, stored = model.network, model.network.about.get("exit")
    path, small = folder / "it.onnx", folder / "small.onnx"
    export.export(model, path, splits["test"].pixels[:PIXELS])
    calls: dict[str, Call] = {"torch": partial(prediction.predict, network), "onnx": by_onnx(path)}
    own = {
        "network": model.name,
        "parameters": sum(tensor.numel() for tensor in network.parameters()),
        "bytes": {"safetensors": len(save(contiguous(network))), "onnx": path.stat().st_size},
    }

    full: dict[str, Any] = {"exit": None, "multiply_adds": model.costs[-1]}
    if "training" in network.about:
        export.quantize(path, small, splits["train"].pixels[: export.CALIBRATING])
        calls["int8"] = by_onnx(small)
        full |= {"int8_bytes": small.stat().st_size, "int8_scores": scored(calls["int8"], splits)}
        full["scores"] = scored(calls["torch"], splits)
    yield Subject(own | full, calls)
    for sure in sorted({*exits, *([stored] if stored else [])}) if network.vote else ():
        early: Call = partial(prediction.predict, network, exit=sure)
        asked = prediction.opinions(network, splits["test"].pixels, sure).asked
        spent = torch.tensor(model.costs)[asked - 1].double().mean().item()
        told = {"exit": sure, "stored": sure == stored, "multiply_adds": spent, "scores": scored(early, splits)}
        yield Subject(own | told, {"torch": early})


def by_onnx(path: Path) -> Call:
    """Probabilities by a file in ONNX Runtime."""
    session = export.session(path)
    return lambda pixels: torch.from_numpy(session.run(["probabilities"], {"pixels": pixels[:, 0].numpy()})[0])


def contiguous(network: Network) -> dict[str, Tensor]:
    """What a weights file holds."""
    return {name: tensor.contiguous() for name, tensor in network.predicting().items()}


def scored(call: Call, splits: Mapping[str, Faces]) -> dict[str, dict[str, int]]:
    """Per split of SCORED the faces, and those that were classified as labelled."""
    found = {}
    for name in SCORED:
        answers = [call(chunk).argmax(1) for chunk in torch.split(splits[name].pixels, PIXELS)]
        found[name] = count(torch.cat(answers) == splits[name].labels)
    return found


def times(subjects: Sequence[Subject], pixels: Tensor, batch: int, rounds: int) -> list[dict[str, dict[str, float]]]:
    """Per subject and engine the mean and the quartiles of milliseconds; all take turns with the same faces.

    In its turn each answers twice, and the second answer counts: the first fetches its weights into the caches.
    """
    seconds: dict[tuple[int, str], list[float]] = {}
    for number in range(rounds):
        start = number * batch % (len(pixels) - batch + 1)
        chunk = pixels[start : start + batch]
        for place, subject in enumerate(subjects):
            for engine, call in subject.calls.items():
                call(chunk)
                begin = time.perf_counter()
                call(chunk)
                seconds.setdefault((place, engine), []).append(time.perf_counter() - begin)
    return [
        {engine: milliseconds(seconds[place, engine]) for engine in subject.calls}
        for place, subject in enumerate(subjects)
    ]


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Mean and quartiles in milliseconds."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    values = {"mean": statistics.mean(seconds), "low": low, "median": middle, "high": high}
    return {name: round(1000 * value, 4) for name, value in values.items()}


def compared(name: str) -> Model:
    """A comparison network with weights drawn from a seed."""
    model = Baseline(name, INPUT_SIZE)  # type: ignore[arg-type]  # a key of MODULES
    network = first_state(model, Method(units="network"), Recipe(), 0, torch.device("cpu")).network
    network.names, network.about = (), {}
    return Model(network.eval(), name, "", anytime.multiply_adds(network))


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.latency", __doc__, EXAMPLE)
    add = parser.add_argument
    add("--splits", type=Path, default=Path("data/splits"), help="of FER2013 (default: %(default)s)")
    add("--out", type=Path, default=Path("docs/study"), help="default: %(default)s")
    args = parser.parse_args()
    export.needs()
    splits = {name: evaluate.load_faces(args.splits / f"{name}.parquet") for name in ("train", *SCORED)}
    if any(faces.drawn for faces in splits.values()):
        raise InputError(f"{args.splits}: drawn faces; expected the splits of FER2013, which `pipeline.ingest` writes")
    if (count := len(splits["test"])) < max(ROUNDS):
        raise InputError(f"{args.splits}: expected {max(ROUNDS)} test faces or more, the largest batch, found {count}")
    torch.set_num_threads(1)
    keep_freed_memory()
    models = [*map(load_model, weights.names()), *map(compared, MODULES)]
    found = measure(models, splits, TIMED_EXITS, ROUNDS)
    write_json(args.out / "latency.json", found)
    print(f"{args.out / 'latency.json'}; now `make docs`")


if __name__ == "__main__":
    run(main)
