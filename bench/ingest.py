"""Speed and memory of the ingest stage beside the usual loaders: `python -m bench.ingest FILE.csv`.

Three programs take turns on the same file, each in a fresh process: the whole stage (validation, audit and Parquet
included), `pandas.read_csv` with `numpy.fromstring` per row, and `pandas.read_csv` with `str.split` per row. The two
loaders only fill an array of uint8, and each does so in the quickest way that its idiom has. Ratios are taken within
a round, and their median is printed.
"""

import importlib
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.measured import measured
from cfpn.allocator import keep_freed_memory
from pipeline.ingest import ingest
from pipeline.process import InputError, command_line, run

MEMORY_BAR = 400  # MiB
RATIO_BARS = {"fromstring": 1.0, "split": 3.0}


class Measurement(NamedTuple):
    """Of one process: seconds without and with its start and imports, processor seconds, peak memory in MiB."""

    work: float
    whole: float
    processor: float
    memory: float


def run_ingest(path: Path) -> None:
    """The stage as it is, into a folder that is thrown away."""
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        ingest(path, Path(folder))


def run_fromstring(path: Path) -> None:
    """`read_csv`, then `numpy.fromstring` for each row."""
    import numpy as np
    import pandas as pd

    np.stack([np.fromstring(text, dtype=np.uint8, sep=" ") for text in pd.read_csv(path)["pixels"]])


def run_split(path: Path) -> None:
    """`read_csv`, then `str.split` for each row; numpy turns the words into numbers quicker than a list of int()."""
    import numpy as np
    import pandas as pd

    np.stack([np.array(text.split(), dtype=np.uint8) for text in pd.read_csv(path)["pixels"]])


VARIANTS: dict[str, Callable[[Path], None]] = {"ingest": run_ingest, "fromstring": run_fromstring, "split": run_split}


def measure(variant: str, path: Path) -> Measurement:
    """Run a variant in a process of its own; raises InputError when it fails."""
    done = measured([sys.executable, "-m", "bench.ingest", str(path), "--only", variant])
    if done.status:
        raise InputError(f"{path}: the variant {variant} failed")
    return Measurement(float(done.out), done.seconds, done.processor, done.memory)


def report(rounds: Sequence[Mapping[str, Measurement]]) -> bool:
    """Print the table and the verdicts; whether every bar is met."""
    for variant in VARIANTS:
        work, whole, cpu, memory = (median(one[variant][k] for one in rounds) for k in range(4))
        print(f"{variant:<11} {work:6.2f} s of work {whole:6.2f} s in all {cpu:6.2f} s of processor {memory:4.0f} MiB")
    memory = max(one["ingest"].memory for one in rounds)
    verdicts = {f"peak memory {memory:.0f} MiB, at most {MEMORY_BAR} wanted": memory < MEMORY_BAR}
    for variant, bar in RATIO_BARS.items():
        ratios = [median(one[variant][k] / one["ingest"][k] for one in rounds) for k in range(2)]
        text = f"{ratios[0]:.2f} times (whole processes: {ratios[1]:.2f} times) as fast as {variant}, {bar:g} wanted"
        verdicts[text] = min(ratios) >= bar
    for text, met in verdicts.items():
        print(f"{'met   ' if met else 'MISSED'} {text}")
    return all(verdicts.values())


def main() -> None:
    """Command line: measure, print, and exit with 1 where a bar is missed."""
    parser = command_line(
        "python -m bench.ingest",
        "Measure the ingest stage against read_csv with fromstring and read_csv with str.split.",
        "example: python -m bench.ingest data/fer2013.csv",
    )
    parser.add_argument("csv", type=Path, metavar="FILE.csv")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program (default: %(default)s)")
    parser.add_argument("--only", choices=VARIANTS, help="run one program here and print its seconds of work")
    arguments = parser.parse_args()
    if arguments.only:
        if arguments.only != "ingest":
            importlib.import_module("pandas")
        start = time.perf_counter()
        VARIANTS[arguments.only](arguments.csv)
        print(time.perf_counter() - start)
        return
    if arguments.rounds < 1:
        raise InputError(f"--rounds: expected 1 or more, found {arguments.rounds}")
    rounds = [{variant: measure(variant, arguments.csv) for variant in VARIANTS} for _ in range(arguments.rounds)]
    sys.exit(not report(rounds))


if __name__ == "__main__":
    run(main)
