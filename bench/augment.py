"""Speed and memory of the augment stage: `python -m bench.augment TRAIN.parquet`.

The stage runs as a whole process, its start, imports, reading and writing included; the bar is 2,000 source faces a
second on 2 cores.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from bench.measured import measured
from pipeline.process import InputError, command_line, run

BAR = 2000  # source faces a second


def measure(source: Path) -> tuple[float, float, float]:
    """Run the stage once: seconds, processor seconds and peak resident memory in MiB; InputError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "augmented.parquet"
        done = measured([sys.executable, "-m", "pipeline.augment", str(source), str(target)])
        if done.status or pq.read_metadata(target).num_rows != 7 * pq.read_metadata(source).num_rows:
            raise InputError(f"{source}: the augment stage did not write seven rows for each face")
    return done.seconds, done.processor, done.memory


def main() -> None:
    """Command line: measure, print, and exit with 1 where the bar is missed."""
    parser = command_line(
        "python -m bench.augment",
        "Measure the augment stage in source faces a second.",
        "example: python -m bench.augment data/splits/train.parquet",
    )
    parser.add_argument("train", type=Path, metavar="TRAIN.parquet")
    parser.add_argument("--rounds", type=int, default=3, help="runs of the stage (default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise InputError(f"--rounds: expected 1 or more, found {arguments.rounds}")
    try:
        faces = pq.read_metadata(arguments.train).num_rows
    except pa.ArrowInvalid as error:
        raise InputError(f"{arguments.train}: no Parquet file: {error}") from error
    seconds, processor, memory = map(
        median, zip(*(measure(arguments.train) for _ in range(arguments.rounds)), strict=True)
    )
    print(f"{faces} faces: {seconds:.2f} s, {processor:.2f} s of processor, {memory:.0f} MiB at the peak")
    print(f"{'met   ' if faces / seconds >= BAR else 'MISSED'} {faces / seconds:.0f} faces/s, {BAR} wanted")
    sys.exit(faces / seconds < BAR)


if __name__ == "__main__":
    run(main)
