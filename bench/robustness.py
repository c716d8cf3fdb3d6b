"""Weights of runs on damaged test faces -> one small table of raw results, and from it the methods side by side.

Every run meets the same damaged faces. The table gains the runs found and keeps those it had.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from cfpn import prediction
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces, generator
from pipeline import evaluate
from pipeline.page import measurements
from pipeline.page.tables import markdown
from pipeline.process import InputError, atomic, command_line, run
from pipeline.runs import records

EXAMPLE = """example:
  python -m bench.robustness docs/study/robustness.csv --runs runs --splits data/splits
"""
KEYS = ["method", "seed", "damage", "level"]


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.robustness", __doc__, EXAMPLE)
    parser.add_argument("table", type=Path, help="CSV of raw results, one row per run and kind of damage")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--splits", type=Path, default=Path("data/splits"))
    args = parser.parse_args()
    torch.set_num_threads(1)  # more of them spin against whatever else runs
    keep_freed_memory()
    table = gathered(args.table, args.runs, evaluate.load_faces(args.splits / "test.parquet"))
    with atomic(args.table) as path:
        table.to_csv(path, index=False, lineterminator="\n")
    print(markdown(*measurements.robustness(table)))


def noise(pixels: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w) in 0..255 with Gaussian noise of `level` grey levels."""
    return pixels + level * torch.randn(pixels.shape, generator=random)


def occlusion(pixels: Tensor, level: float, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w) with a mid-grey square, `level` pixels wide, at a random place in every face."""
    side = pixels.shape[-1]
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
    """Rows of `table`, if it exists, with those of all runs that have weights; a run found replaces its rows."""
    kinds, parts = list(damaged(faces)), [pd.read_csv(table)] if table.exists() else []
    for weights in sorted(runs.glob("*/model.safetensors")):
        print(weights.parent, flush=True)
        parts.append(pd.DataFrame(measured(weights, kinds)))
    if not parts:
        raise InputError(f"{runs}: no run with weights, and no table {table}")
    return pd.concat(parts).drop_duplicates(KEYS, keep="last").sort_values(KEYS)


def measured(weights: Path, kinds: list[tuple[str, float, Faces]]) -> Iterator[dict[str, Any]]:
    """A row per kind of damage: test accuracy of the weights of one run."""
    network = evaluate.load_network(weights)
    about = records.read_about(weights.parent / records.ABOUT)
    for name, level, faces in kinds:
        predicted = prediction.predict(network, faces.pixels).argmax(1)
        accuracy = (predicted == faces.labels).double().mean().item()
        yield {"method": about.method, "seed": about.seed, "damage": name, "level": level, "accuracy": accuracy}


if __name__ == "__main__":
    run(main)
