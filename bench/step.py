"""Time and peak memory of a training step, method beside method in one run, as ratios to the first.

Steps of the methods alternate, so that whatever else the machine does falls on all of them alike.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cfpn import training
from cfpn.allocator import keep_freed_memory
from cfpn.training import Learner, Method, Recipe
from pipeline import params as parameters
from pipeline import session as sessions
from pipeline.params import Params
from pipeline.process import InputError, atomic, run

EXAMPLE = """example:
  python -m bench.step --methods bp nbp --rounds 20 --out results/bench.json
"""
WARM_UP = 2
GENTLE, ENDLESS = Recipe(learning_rate=1e-4), 10**6  # no measured step may diverge; steps of a training without end
MIB = 2**20


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.step",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", nargs="+", default=["bp", "nbp"], help="the first is the measure of the others")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="dotted parameters to change")
    parser.add_argument("--batch", type=int, help="faces in a step (default: train.batch)")
    parser.add_argument("--rounds", type=int, default=12, help="measured steps of each method")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    params = parameters.load(args.params, parameters.assignments(args.set))
    if args.rounds < 2:
        raise InputError(f"--rounds: expected 2 or more, found {args.rounds}")
    unknown = [name for name in args.methods if name not in params.methods]
    if unknown:
        raise InputError(f"--methods: expected names of {', '.join(params.methods)}, found {unknown[0]!r}")
    result = measure(params, args.methods, args.batch or params.train.batch, args.rounds)
    print(json.dumps(result, indent=2))
    if args.out:
        with atomic(args.out) as path:
            path.write_text(json.dumps(result, indent=2) + "\n")


def measure(params: Params, names: list[str], batch: int, rounds: int) -> dict[str, object]:
    """Mean step and peak memory of every method, and their ratios to those of the first."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    device = sessions.device(params.compute)
    methods = {name: replace(params.methods[name], learning_rate=None) for name in names}  # GENTLE is for all
    learners = {name: sessions.begin(params, method, 0).state.learners for name, method in methods.items()}
    size = params.model.input_size
    images = torch.randn(batch, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % 7
    precision = params.train.precision
    peaks = {name: peak(learners[name], methods[name], images, labels, precision) for name in names}
    seconds = times(learners, methods, images, labels, rounds, precision)
    first = names[0]
    rows = [
        {
            "method": name,
            "step_ms": 1000 * statistics.mean(seconds[name]),
            "step_ratio": statistics.mean(seconds[name]) / statistics.mean(seconds[first]),
            "step_ratio_quartiles": quartiles(seconds[name], seconds[first]),
            "peak_mib": peaks[name] / MIB,
            "peak_ratio": peaks[name] / peaks[first],
        }
        for name in names
    ]
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {params.compute.threads} threads"
    return {"rows": rows, "batch": batch, "input_size": size, "width": getattr(params.model, "width", None),
            "rounds": rounds, "device": where}  # fmt: skip


def times(
    learners: dict[str, list[Learner]],
    methods: dict[str, Method],
    images: Tensor,
    labels: Tensor,
    rounds: int,
    precision: str = "float32",
) -> dict[str, list[float]]:
    """Seconds of each measured step, methods in turn; they stand for a whole training, in which units rest or end."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for i in range(-WARM_UP, rounds):
        for name, method in methods.items():
            rates = training.rates(method, GENTLE, len(learners[name]), max(i, 0), rounds)
            begin = time.perf_counter()
            training.train_step(learners[name], method, images, labels, i, rates, precision)
            seconds[name].append(time.perf_counter() - begin)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def quartiles(own: list[float], others: list[float]) -> list[float]:
    """First and third quartile of the ratios of steps that ran side by side."""
    first, _, third = statistics.quantiles([a / b for a, b in zip(own, others, strict=True)], n=4)
    return [first, third]


def peak(learners: list[Learner], method: Method, images: Tensor, labels: Tensor, precision: str = "float32") -> int:
    """Bytes that a step allocates at its peak beyond what was there before it, once every unit has learnt."""
    largest = 0
    for step in range(math.ceil(1 / method.share) + 1):
        rates = training.rates(method, GENTLE, len(learners), step, ENDLESS)
        if images.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            training.train_step(learners, method, images, labels, step, rates, precision)
            largest = max(largest, torch.cuda.max_memory_allocated() - before)
        else:
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                training.train_step(learners, method, images, labels, step, rates, precision)
            largest = max(largest, _peak(profiler))
    return largest


def _peak(profiler: profile) -> int:
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = largest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        largest = max(largest, live)
    return largest


if __name__ == "__main__":
    run(main)
