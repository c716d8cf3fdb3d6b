"""Time and peak memory of a training step, method beside method in one run, as ratios to the first.

Steps of the methods alternate, so that whatever else the machine does falls on all of them alike.
"""

import json
import math
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from cfpn import training
from cfpn.allocator import keep_freed_memory
from cfpn.diagnostics import FEWEST_FACES
from cfpn.schedule import Schedule
from cfpn.training import Method, State
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import session as sessions

EXAMPLE = """example:
  python -m bench.step --methods bp nbp --rounds 20 --out results/bench.json
"""
WARM_UP = 2
GENTLE, ENDLESS = 1e-4, 10**6  # rate at which no measured step diverges; steps of a training without end
MIB = 2**20


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.step", __doc__, EXAMPLE)
    parser.add_argument("--methods", nargs="+", default=["bp", "nbp"], help="the first is the measure of the others")
    parser.add_argument("--leave-out", action="store_true", help="methods that do not fit the network, and name them")
    add_parameters(parser)
    parser.add_argument("--batch", type=int, help="faces in a step (default: train.batch)")
    parser.add_argument("--rounds", type=int, default=12,
                        help="measured steps of each method, a multiple of update_every")  # fmt: skip
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    params = parameters.load(args.params, parameters.assignments(args.set))
    if args.rounds < 2:
        raise InputError(f"--rounds: expected 2 or more, found {args.rounds}")
    check_batch(args.batch)
    check_methods(params, args.methods)
    result = measure(params, args.methods, args.batch or params.train.batch, args.rounds, args.leave_out)
    print(json.dumps(result, indent=2))
    if args.out:
        write_json(args.out, result)


def add_parameters(parser: ArgumentParser) -> None:
    """The options of a bench that reads the parameter files; --set may stand several times."""
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", nargs="*", action="extend", default=[], metavar="NAME=VALUE",
                        help="dotted parameters to change")  # fmt: skip


def check_batch(faces: int | None) -> None:
    """Raise InputError for a --batch with too few faces for a step; None where the command line has none."""
    if faces is not None and faces < FEWEST_FACES:
        raise InputError(f"--batch: expected {FEWEST_FACES} or more, found {faces}")


def check_methods(params: Params, names: list[str]) -> None:
    """Raise InputError for a name that is none of a method."""
    unknown = [name for name in names if name not in params.methods]
    if unknown:
        raise InputError(f"--methods: expected names of {', '.join(params.methods)}, found {unknown[0]!r}")


def begun(params: Params, names: list[str], leave_out: bool) -> dict[str, State]:
    """The first state of each method. leave_out: not of those that do not fit the network, of which stderr tells why.

    Raises InputError for a method that does not fit, or where none does.
    """
    states: dict[str, State] = {}
    for name in names:
        try:
            states[name] = begin(params, params.methods[name])
        except InputError as error:
            if not leave_out or (name == names[-1] and not states):
                raise
            print(f"{name}: left out: {error}", file=sys.stderr)
    return states


def measure(params: Params, names: list[str], batch: int, rounds: int, leave_out: bool = False) -> dict[str, object]:
    """Mean step and peak memory of every method, and their ratios to those of the first; leave_out as in `begun`."""
    torch.set_num_threads(params.compute.threads)
    keep_freed_memory()
    states = begun(params, names, leave_out)
    names = list(states)
    methods = {name: params.methods[name] for name in names}
    images, labels = batch_of(params, batch)
    peaks = {name: peak(states[name], methods[name], images, labels) for name in names}
    rounds = whole_cycles(rounds, methods.values())
    seconds = times(states, methods, images, labels, rounds)
    where = torch.cuda.get_device_name() if images.is_cuda else f"CPU, {params.compute.threads} threads"
    about = {"batch": batch, "input_size": params.model.input_size, "width": getattr(params.model, "width", None)}
    return {"rows": [_row(name, names[0], seconds, peaks) for name in names], "rounds": rounds, "device": where} | about


def whole_cycles(rounds: int, methods: Iterable[Method]) -> int:
    """The least number of rounds, `rounds` or more, in which units that learn in one step of n do so in their share."""
    cycle = math.lcm(*(method.schedule.update_every for method in methods))
    return math.ceil(rounds / cycle) * cycle


def _row(name: str, first: str, seconds: dict[str, list[float]], peaks: dict[str, int]) -> dict[str, object]:
    return {
        "method": name,
        "step_ms": 1000 * statistics.mean(seconds[name]),
        "step_ratio": statistics.mean(seconds[name]) / statistics.mean(seconds[first]),
        "step_ratio_quartiles": quartiles(seconds[name], seconds[first]),
        "peak_mib": peaks[name] / MIB,
        "peak_ratio": peaks[name] / peaks[first],
    }


def begin(params: Params, method: Method) -> State:
    """The network of params before its first step by `method`, in training mode."""
    try:
        state = sessions.first_state(params.model, method, params.train.recipe, 0, sessions.device(params.compute))
    except ValueError as error:
        raise InputError(str(error)) from error
    state.network.train()
    return state


def batch_of(params: Params, batch: int) -> tuple[Tensor, Tensor]:
    """Random images (batch, c, size, size), channels last, and labels (batch,), on the device of params.compute."""
    device, model = sessions.device(params.compute), params.model
    images = torch.randn(batch, model.channels, model.input_size, model.input_size, device=device)
    return images.contiguous(memory_format=torch.channels_last), torch.arange(batch, device=device) % model.classes


def gentle_rates(method: Method, step: int, steps: int, units: int) -> list[float]:
    """Rates at which no measured step diverges, equal for all methods; 0 where a unit rests."""
    own = method.schedule
    gentle = Schedule(GENTLE, update_every=own.update_every, first_unit_stops_at=own.first_unit_stops_at)
    return gentle.rates(step, steps, units)


def times(
    states: dict[str, State], methods: dict[str, Method], images: Tensor, labels: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each measured step, methods in turn; they stand for a whole training, in which units rest or end."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for i in range(-WARM_UP, rounds):
        for name, method in methods.items():
            rates = gentle_rates(method, max(i, 0), rounds, len(states[name].learners))
            start = time.perf_counter()
            training.train_step(states[name], method, images, labels, rates)
            seconds[name].append(time.perf_counter() - start)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def quartiles(own: list[float], others: list[float]) -> list[float]:
    """First and third quartile of the ratios of steps that ran side by side."""
    first, _, third = statistics.quantiles([a / b for a, b in zip(own, others, strict=True)], n=4)
    return [first, third]


def peak(state: State, method: Method, images: Tensor, labels: Tensor) -> int:
    """Bytes that a step allocates at its peak beyond what was there before it, once every unit has learnt."""
    every = method.schedule.update_every
    found = []
    for step in range(2 * every):
        rates = gentle_rates(method, step, ENDLESS, len(state.learners))
        act = partial(training.train_step, state, method, images, labels, rates)
        found.append(allocated(act, images.is_cuda))
    return max(found[every:])  # a unit's first step makes the optimiser's state, which stays


def allocated(act: Callable[[], object], cuda: bool) -> int:
    """Bytes that a call allocates at its peak beyond what was there before it."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        act()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        act()
    return _peak(profiler)


def _peak(profiler: profile) -> int:
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if results is None:
        raise RuntimeError("expected the profiler to have recorded a step, found nothing")
    events = [e for e in results.events() if e.name() == "[memory]"]
    live = largest = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()  # type: ignore[attr-defined]  # torch's stub lacks it
        largest = max(largest, live)
    return largest


if __name__ == "__main__":
    run(main)
