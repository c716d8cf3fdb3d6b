"""Weights of runs on damaged test faces -> one small table of raw results, and from it the methods side by side.

Every run meets the same damaged faces. The table gains the runs found, one after the other, and keeps those it had.
"""

from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cfpn import prediction
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces, generator
from cfpn.network import Network
from pipeline import evaluate
from pipeline.page import measurements
from pipeline.page.tables import markdown
from pipeline.process import InputError, atomic, command_line, json_hash, run
from pipeline.runs import records
from pipeline.runs.records import About
from pipeline.runs.study import CONDITIONS

EXAMPLE = """example:
  python -m bench.robustness docs/study/robustness.csv --runs runs --splits data/splits
"""
KEYS = ["method", "seed", "damage", "level"]
RUN = ("method", "seed")  # what a run is


def main() -> None:
    """Command line."""
    args = of_runs("python -m bench.robustness", __doc__, EXAMPLE).parse_args()
    torch.set_num_threads(1)  # more of them spin against whatever else runs
    keep_freed_memory()
    table = gathered(args.table, args.runs, evaluate.load_faces(args.splits / "test.parquet"))
    print(markdown(*measurements.robustness(table)))


def of_runs(name: str, about: str, example: str) -> ArgumentParser:
    """The command line of a bench that adds runs to its table."""
    parser = command_line(name, about, example)
    parser.add_argument("table", type=Path, help="CSV of raw results of every run")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    return parser


def noise(pixels: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w) in 0..255 with Gaussian noise of `level` grey levels."""
    return pixels + level * torch.randn(pixels.shape, generator=random)


def occlusion(pixels: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w) with a mid-grey square, `level` pixels wide, at a random place in every face."""
    side = pixels.shape[-1]
    if level > side:
        raise InputError(f"occlusion: expected faces of {level:.0f} pixels or more a side, found {side}")
    corner = torch.randint(side - int(level) + 1, (2, len(pixels), 1), generator=random)
    rows, columns = (((line := torch.arange(side)) >= start) & (line < start + level) for start in corner)
    return pixels.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 128.0)


def contrast(pixels: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w), their distance from mid-grey multiplied by `level`."""
    return 128 + level * (pixels - 128)


Damage = Callable[[Tensor, float, torch.Generator], Tensor]
DAMAGES: dict[str, tuple[Damage, tuple[float, ...]]] = {
    "none": (contrast, (1.0,)),
    "noise": (noise, (8.0, 16.0, 32.0)),
    "occlusion": (occlusion, (8.0, 16.0, 24.0)),
    "contrast": (contrast, (0.5, 0.25)),
}


def damaged(faces: Faces) -> Iterator[tuple[str, float, Faces]]:
    """Name, level and faces of every kind of damage, the same ones every time."""
    for place, (name, (damage, levels)) in enumerate(DAMAGES.items()):
        for level in levels:
            pixels = damage(faces.pixels.float(), level, generator(place, int(level)))
            yield name, level, replace(faces, pixels=pixels.round().clamp(0, 255).to(torch.uint8))


def gathered(table: Path, runs: Path, faces: Faces) -> pd.DataFrame:
    """Rows of `table`, if it exists, with those of all runs that have weights; a run found replaces its rows.

    They are written after each run, so that whoever stops it keeps what is done.
    """
    kinds, found, known = list(damaged(faces)), [], trained(runs)
    check_alike(table, KEYS, known)
    check_kind(known.values(), faces)
    kept = others(table, known, KEYS)
    for weights in known.values():
        print(weights.parent, flush=True)
        network = evaluate.load_network(weights)
        evaluate.check_classes(network, faces, weights.parent)
        found.append(labelled(weights, measured(network, kinds)))
        write(table, [*kept, *found], KEYS)
    return pd.concat([*kept, *found]).sort_values(KEYS)


def trained(runs: Path) -> dict[tuple[str, int], Path]:
    """Weights by method and seed of all runs that have any; raises InputError for two of the same."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(runs.glob("*/model.safetensors")):
        about = records.read_about(path.parent / records.ABOUT)
        if other := found.get((about.method, about.seed)):
            raise InputError(f"{other.parent} and {path.parent}: both are {about.method} with seed {about.seed}")
        found[about.method, about.seed] = path
    return found


def shared(about: About, by: Sequence[str] = RUN) -> str:
    """A hash of a run's data and of the parameters that all runs of a table share; by: what a run is there."""
    free = "train.wrong_labels" if "wrong_labels" in by else ""
    # 0, as nearly all runs have it, is left out: older tables do not know the parameter.
    known = {name: one for name, one in records.conditions(about).items() if one or name != "train.wrong_labels"}
    return json_hash({name: one for name, one in known.items() if name != free})


def check_kind(weights: Iterable[Path], faces: Faces) -> None:
    """Raise InputError for a run that learnt from drawn faces where these are photographs, or the other way round."""
    for path in weights:
        if records.read_about(path.parent / records.ABOUT).data.drawn != faces.drawn:
            kinds = ("photographs", "drawn faces") if faces.drawn else ("drawn faces", "photographs")
            raise InputError(f"{path.parent}: learnt from {kinds[0]}, and --splits holds {kinds[1]}")


def read(table: Path, keys: Sequence[str]) -> pd.DataFrame | None:
    """An earlier table whose rows are told apart by `keys`; None where there is none, InputError for another table."""
    if not table.exists():
        return None
    try:
        rows = pd.read_csv(table, dtype={CONDITIONS: object})
    except ValueError as error:  # nothing in it, or no table
        raise InputError(f"{table}: {error}") from error
    if not {*keys, "accuracy"} <= set(rows):
        raise InputError(f"{table}: expected the columns {', '.join(keys)}, found {', '.join(rows)}")
    return rows


def check_alike(
    table: Path, keys: Sequence[str], weights: Mapping[tuple[Any, ...], Path], by: Sequence[str] = RUN
) -> None:
    """Raise InputError where runs were trained from other data or parameters than others or than those of the table.

    weights: by what a run is, in the columns `by`. Rows that the runs replace do not count, and of older rows it is
    not known.
    """
    known = {shared(records.read_about(path.parent / records.ABOUT), by): str(path.parent) for path in weights.values()}
    rows = read(table, keys)
    if rows is not None and CONDITIONS in rows:
        stay = [key not in weights for key in zip(*(rows[name] for name in by), strict=True)]
        known |= dict.fromkeys(rows.loc[stay, CONDITIONS].dropna(), str(table))
    if len(known) > 1:
        first, second, *_ = known.values()
        raise InputError(f"{first} and {second}: data or parameters differ; they cannot stand in one table")


def labelled(weights: Path, rows: Iterable[dict[str, Any]], by: Sequence[str] = RUN) -> pd.DataFrame:
    """Rows of a run as the table holds them: with its method, its seed and the hash of `shared`."""
    about = records.read_about(weights.parent / records.ABOUT)
    run = {"method": about.method, "seed": about.seed, CONDITIONS: shared(about, by)}
    return pd.DataFrame(run | row for row in rows)


def others(
    table: Path, runs: Mapping[tuple[Any, ...], Path], keys: Sequence[str], by: Sequence[str] = RUN
) -> list[pd.DataFrame]:
    """The rows of each run in `table`, if it exists, that is none of `runs`; by: what a run is.

    Raises InputError where there is neither a table nor a run.
    """
    rows = read(table, keys)
    if rows is None and not runs:
        raise InputError(f"{table}: no such table, and no run with weights to fill it")
    return [] if rows is None else [own for one, own in rows.groupby([*by]) if one not in runs]


def write(table: Path, rows: Sequence[pd.DataFrame], keys: list[str]) -> None:
    """Write the rows of all runs, sorted by `keys`."""
    with atomic(table) as path:
        pd.concat(rows).sort_values(keys).to_csv(path, index=False, lineterminator="\n")


def measured(network: Network, kinds: list[tuple[str, float, Faces]]) -> Iterator[dict[str, Any]]:
    """A row per kind of damage: test accuracy of a network."""
    for name, level, faces in kinds:
        accuracy = prediction.accuracy(prediction.predict(network, faces.pixels), faces.labels)
        yield {"damage": name, "level": level, "accuracy": accuracy}


if __name__ == "__main__":
    run(main)
