"""Peak memory of the largest of several workers that share the units of a network, beside back-propagation on one.

A worker holds a batch, the features that it has received, and what PyTorch allocates while its units learn in turn.
All is counted from the allocator, beyond weights and optimiser: nothing is timed, and a busy machine gives the same.
Blocks may be added to the network, as `bench.depth` adds them, each a unit of its own where block 1 is one.

JSON: rows with units, workers, added, peak_mib by worker, and ratio: of the largest worker to back-propagation through
the same network.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from bench import depth
from bench.step import ENDLESS, MIB, add_parameters, allocated, batch_of, check_batch
from cfpn.graph import Cuts
from cfpn.network import CFPN
from cfpn.training import Method
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import session as sessions
from pipeline.runs.segment import Features, Segment, Task, segments

EXAMPLE = """example:
  python -m bench.memory --set profile=paper --batch 16 --out results/memory.json
"""
UNITS = ("usual", *(f"balanced:{parts}" for parts in (2, 3, 4, 6, 8)))


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.memory", __doc__, EXAMPLE)
    parser.add_argument("--units", nargs="+", choices=UNITS, default=list(UNITS), help="usual: those of the method nbp")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4], help="default: %(default)s")
    parser.add_argument("--added", nargs="+", type=int, default=[0, 1, 5, 9], help="blocks (default: %(default)s)")
    add_parameters(parser)
    parser.add_argument("--batch", type=int, default=16, help="faces in a step (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if min(args.added) < 0 or min(args.workers) < 1:
        raise InputError("--added, --workers: expected numbers from 0 and from 1 on")
    check_batch(args.batch)
    params = parameters.load(args.params, parameters.assignments(args.set))
    if not isinstance(params.model, CFPN):
        raise InputError(f"model: expected a CFPN, which has dense blocks, found {params.model.name}")
    if (every := params.methods["nbp"].schedule.update_every) > 1:
        raise InputError(f"methods.nbp.schedule.update_every: expected 1, at which no unit rests, found {every}")
    torch.set_num_threads(params.compute.threads)
    rows = []
    for row in measured(params, args.batch, args.units, args.workers, args.added):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.out:
        about = {"batch": args.batch, "input_size": params.model.input_size, "width": params.model.width}
        write_json(args.out, about | {"rows": rows})


def measured(
    params: Params, batch: int, units: list[str], workers: list[int], added: list[int]
) -> Iterator[dict[str, Any]]:
    """The rows, back-propagation first for each number of added blocks; none for more workers than units."""
    for blocks in added:
        (whole,) = peaks(params, params.methods["bp"], batch, blocks, 1)
        yield {"units": "network", "workers": 1, "added": blocks, "peak_mib": [whole / MIB], "ratio": 1.0}
        for name in units:
            method = params.methods["nbp"]
            method = method if name == "usual" else replace(method, units=cast(Cuts, name))
            for count in workers:
                found = peaks(params, method, batch, blocks, count)
                if len(found) < count:
                    continue
                by_worker = [one / MIB for one in found]
                ratio = max(found) / whole
                yield {"units": name, "workers": count, "added": blocks, "peak_mib": by_worker, "ratio": ratio}


def peaks(params: Params, method: Method, batch: int, added: int, workers: int) -> list[int]:
    """Bytes of each worker at its peak, once every unit has learnt; as many as units, where these are fewer."""
    model, device = cast(CFPN, params.model), sessions.device(params.compute)
    method = depth.with_units(method, added)
    state = depth.begin(params, method, added)
    images, labels = batch_of(params, batch)
    task = Task(model, method, params.train.recipe, 0, ENDLESS, device.type, params.compute.threads)
    result: list[int] = []
    features: Features = {}
    for places in segments(state, workers):
        own, received = Segment(), sum(array.nbytes for array in features.values())
        own.take(task, state, places)
        _, live = own.learn(0, images, labels, features)
        held = features  # to the end, as Ray holds them
        features = own.handed_on(live)
        del live
        largest = allocated(partial(own.learn, 1, images, labels, held), images.is_cuda)
        result.append(received + images.nbytes + largest)
    return result


if __name__ == "__main__":
    run(main)
