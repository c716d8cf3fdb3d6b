"""What a training step of each network of Table II costs, all measured side by side in one run.

Run it on an idle machine: steps of the networks alternate, so that what disturbs falls on all alike, but not evenly.
"""

import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench import step
from cfpn import anytime
from cfpn.allocator import keep_freed_memory
from cfpn.training import State
from pipeline.process import InputError, atomic, command_line, run, thread_count
from tune import spaces
from tune.names import MODELS
from tune.spaces import Device, Sweep, Training

EXAMPLE = """example:
  python -m bench.cost models --rounds 20                 writes sweeps/results/models/cost.csv
"""


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.cost", __doc__, EXAMPLE)
    add = parser.add_argument
    add("name", nargs="?", default="models", help="a sweep over networks of sweeps/params.yaml (default: %(default)s)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="dotted parameter, as for the sweep")
    add("--threads", type=thread_count, help="of a step (default: compute.threads of params.yaml)")
    add("--device", choices=("cpu", "cuda"), help="default: cuda where compute.device of params.yaml says so, else cpu")
    add("--batch", type=int, help="faces in a step (default: train.batch)")
    add("--rounds", type=int, default=12, help="measured steps of each network (default: %(default)s)")
    add("--params", type=Path, default=Path("params.yaml"))
    add("--out", type=Path, default=Path("sweeps/results"), help="folder of the sweep's tables (default: %(default)s)")
    args = parser.parse_args()
    if args.rounds < 2:
        raise InputError(f"--rounds: expected 2 or more, found {args.rounds}")
    step.check_batch(args.batch)
    sweep = spaces.read(args.params, args.name, args.set, {}, None, 1)
    if not sweep.models:
        raise InputError(f"{args.name}: expected a sweep over networks, which names {MODELS} in sweeps/params.yaml")
    costs = measure(chosen(sweep, args.threads, args.device), args.batch, args.rounds)
    write(args.out / args.name, costs)


def chosen(sweep: Sweep, threads: int | None, device: Device | None) -> dict[str, Training]:
    """The training of each network, at the first of its learning rates: none of them changes a step's cost."""
    compute = spaces.resolve(sweep, sweep.fixed).compute
    threads = threads or compute.threads
    device = device or ("cuda" if compute.device == "cuda" else "cpu")
    firsts = {config[MODELS]: config for config in reversed(spaces.configs(sweep))}
    return {name: spaces.training(sweep, firsts[name], threads, device) for name in sweep.models}


def measure(trainings: dict[str, Training], batch: int | None, rounds: int) -> pd.DataFrame:
    """One row per network: parameters, multiply-adds of a face, milliseconds and peak memory of a step, and ratios.

    Times are means: where hidden units rest in some steps, steps differ. Ratios are to the first network; their
    quartiles are over pairs of steps that ran one after the other.
    """
    first = next(iter(trainings.values())).params
    torch.set_num_threads(first.compute.threads)
    keep_freed_memory()
    batch = batch or first.train.batch
    images, labels = step.batch_of(first, batch)
    methods = {name: what.how for name, what in trainings.items()}
    states = {name: step.begin(what.params, methods[name]) for name, what in trainings.items()}
    counts = {name: multiply_adds(state) for name, state in states.items()}
    peaks = {name: step.peak(states[name], methods[name], images, labels) for name in trainings}
    rounds = step.whole_cycles(rounds, methods.values())
    seconds = step.times(states, methods, images, labels, rounds)
    where = torch.cuda.get_device_name() if images.is_cuda else "CPU"
    about = {"input_size": first.model.input_size, "batch": batch, "rounds": rounds, "device": where,
             "threads": first.compute.threads, "precision": first.train.precision}  # fmt: skip
    sizes = {name: state.network.count() for name, state in states.items()}
    return pd.DataFrame([_row(name, sizes, counts, seconds, peaks) | about for name in trainings])


def _row(
    name: str, sizes: dict[str, int], counts: dict[str, int], seconds: dict[str, list[float]], peaks: dict[str, int]
) -> dict[str, Any]:
    base = next(iter(seconds))
    low, high = step.quartiles(seconds[name], seconds[base])
    return {
        MODELS: name,
        "parameters": sizes[name],
        "multiply_adds": counts[name],
        "step_ms": 1000 * statistics.mean(seconds[name]),
        "step_ratio": statistics.mean(seconds[name]) / statistics.mean(seconds[base]),
        "step_ratio_low": low,
        "step_ratio_high": high,
        "peak_mib": peaks[name] / step.MIB,
        "peak_ratio": peaks[name] / peaks[base],
    }


def multiply_adds(state: State) -> int:
    """Multiply-adds of an answer to one face, with the classifiers that vote."""
    found = anytime.multiply_adds(state.network)[-1]
    state.network.train()
    return found


def write(folder: Path, costs: pd.DataFrame) -> None:
    """Write cost.csv, which the report joins with the sweep's models.csv."""
    path = folder / "cost.csv"
    with atomic(path) as temporary:
        costs.to_csv(temporary, index=False, lineterminator="\n")
    print(f"{path}\n{costs.to_string(index=False, float_format=lambda value: f'{value:.4g}')}")


if __name__ == "__main__":
    run(main)
