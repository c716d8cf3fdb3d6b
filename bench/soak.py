"""`make soak`: what a long training and a long sweep hold after their first ten epochs or trials, and at their end.

200 epochs of a tiny network, then 200 trials of one epoch each. Measured are resident memory and open files of the
process that trains, of the one that drives the sweep and of Ray's servers, and the files of the project. All stand
still meanwhile. Fails where memory or open files of a process grew by more than 5 %.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.faults import change, command, environment, project
from bench.origin import origin
from pipeline.process import InputError, command_line, run, write_json

FIRST = 10  # epochs or trials that may fill caches
MOST = 1.05  # times what there was after those
FILES = "files of the project"
SERVERS = ("gcs_server", "raylet")  # of Ray
DATA = ("pipeline.sample data/sample.csv --rows 200 --seed 0", "pipeline.ingest data/sample.csv data/splits")
TRAIN = "-m pipeline.train runs/nbp-0 --method nbp --seed 0"
SWEEP = "tune/sweep.py soak --method bp --epochs 1 --cpus 1"


def training(folder: Path, epochs: int) -> list[dict[str, Any]]:
    """The rows of a training of so many epochs."""
    change(folder / "profiles/sample.yaml", train={"epochs": epochs})
    moments = followed(folder, TRAIN.split(), r"epoch (\d+):", epochs)
    return rows(f"{epochs} epochs", moments)


def sweep(folder: Path, trials: int) -> list[dict[str, Any]]:
    """The rows of a sweep of so many trials; at its last report all but one have ended."""
    rates = ",".join(f"{0.001 + number / 1e5:.5f}" for number in range(trials))
    words = [*SWEEP.split(), "--set", f"train.schedule.learning_rate={rates}"]
    return rows(f"{trials} trials", followed(folder, words, rf" (\d+)/{trials} ", trials - 1))


def followed(folder: Path, words: Sequence[str], pattern: str, last: int) -> list[dict[str, float]]:
    """Run a command and measure it when the number in a line is FIRST, and when it is `last`."""
    found: dict[int, dict[str, float]] = {}
    lines = []
    with subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment(folder, {"WANDB_MODE": "offline"}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            lines.append(line)
            number = re.search(pattern, line)
            if number and int(number[1]) in {FIRST, last} - set(found):
                found[int(number[1])] = measured(psutil.Process(process.pid), folder)
    if process.returncode or set(found) != {FIRST, last}:
        raise InputError(f"{words[1]}: exit code {process.returncode}\n{''.join(lines[-20:])}")
    return [found[FIRST], found[last]]


def measured(process: psutil.Process, folder: Path) -> dict[str, float]:
    """Memory in MiB and open files by process, and the number of the project's files, while the process is halted."""
    process.suspend()
    try:
        parts = list(processes(process))
        held = {f"{name}: memory, MiB": one.memory_info().rss / 2**20 for name, one in parts}
        held |= {f"{name}: open files": one.num_fds() for name, one in parts}
        return held | {FILES: sum(path.is_file() for path in folder.rglob("*"))}
    finally:
        process.resume()


def processes(process: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """The process itself and the servers of its Ray, by name."""
    yield "process", process
    yield from ((one.name(), one) for one in process.children(recursive=True) if one.name() in SERVERS)


def rows(title: str, moments: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """A row per quantity: what it was first and last, and whether it grew by no more than it may."""
    first, last = moments
    return [
        {"run": title, "what": name, "first": first[name], "last": last[name],
         "right": name == FILES or last[name] <= MOST * first[name]}
        for name in first
    ]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.soak", __doc__, "example: python -m bench.soak --epochs 50 --trials 20")
    parser.add_argument("--epochs", type=int, default=200, help="of the training (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=200, help="of the sweep (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file for the rows")
    args, made = parser.parse_args(), origin()
    for flag, count in (("--epochs", args.epochs), ("--trials", args.trials)):
        if count <= FIRST + 1:
            raise InputError(f"{flag}: expected more than {FIRST + 1}, found {count}")
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        folder = Path(place) / "project"
        project(folder)
        for words in DATA:
            if (seen := command(folder, [sys.executable, "-m", *words.split()], {})).code:
                raise InputError(f"{words}: exit code {seen.code}\n{seen.text}")
        found = [*training(folder, args.epochs), *sweep(folder, args.trials)]
    for row in found:
        print(*row.values(), sep=" | ")
    if args.out:
        write_json(args.out, made | {"rows": found})
    wrong = [f"{row['run']}, {row['what']}" for row in found if not row["right"]]
    if wrong:
        raise InputError(f"grew by more than {MOST - 1:.0%}: {'; '.join(wrong)}")


if __name__ == "__main__":
    run(main)
