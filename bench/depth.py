"""Peak memory of a training step as blocks of the first block's resolution are added: flat where no gradient crosses.

Dense blocks are added between blocks 1 and 2, each a unit of its own where block 1 is one. The first added one is
heavier than block 1, because it takes a block's maps where block 1 takes the image, so growth with depth is that from
one on.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch

from bench.step import MIB, add_parameters, batch_of, check_batch, check_methods, peak
from cfpn import network, training
from cfpn.graph import Node, prefix
from cfpn.layers import SeparableConvolution
from cfpn.network import CFPN
from cfpn.training import Method, State
from pipeline import params as parameters
from pipeline.params import Params
from pipeline.process import InputError, command_line, run, write_json
from pipeline.runs import session as sessions

EXAMPLE = """example:
  python -m bench.depth --methods bp nbp --batch 4 --set profile=paper model.width=64 --out depth.json
"""


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.depth", __doc__, EXAMPLE)
    parser.add_argument("--methods", nargs="+", default=["bp", "nbp"])
    add_parameters(parser)
    parser.add_argument("--batch", type=int, default=4, help="faces in a step")
    parser.add_argument("--added", type=int, nargs="+", default=[0, 1, 5], help="numbers of blocks to add")
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    if len(args.added) < 2 or min(args.added) < 0:
        raise InputError(f"--added: expected two or more numbers from 0 on, found {args.added}")
    check_batch(args.batch)
    params = parameters.load(args.params, parameters.assignments(args.set))
    check_methods(params, args.methods)
    found = [growth(params, name, args.batch, args.added) for name in args.methods]
    print(json.dumps(found, indent=2))
    if args.out:
        write_json(args.out, {"rows": found})


def growth(params: Params, name: str, batch: int, added: list[int]) -> dict[str, object]:
    """Peaks of a step of one method for each number of added blocks, in MiB, and the ratio of the last two."""
    peaks = [peak_of(params, params.methods[name], batch, blocks) for blocks in added]
    by_blocks = {str(blocks): found / MIB for blocks, found in zip(added, peaks, strict=True)}
    return {"method": name, "peak_mib": by_blocks, "ratio_of_the_last_two": peaks[-1] / peaks[-2]}


def peak_of(params: Params, method: Method, batch: int, added: int) -> int:
    """Bytes of a step of the network with `added` more blocks."""
    torch.set_num_threads(params.compute.threads)
    method = with_units(method, added)
    return peak(begin(params, method, added), method, *batch_of(params, batch))


def begin(params: Params, method: Method, added: int) -> State:
    """The network with `added` more blocks before its first step, in training mode.

    Raises InputError for another network than a CFPN, and for a method that does not fit it.
    """
    if not isinstance(params.model, CFPN):
        raise InputError(f"model: expected a CFPN, which has dense blocks, found {params.model.name}")
    model, device = params.model, sessions.device(params.compute)
    try:
        state = training.start(
            deepened(model, added), method, params.train.recipe, model.input_size, 0, device, model.channels,
            model.classes,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(str(error)) from error
    state.network.train()
    return state


def with_units(method: Method, added: int) -> Method:
    """The method with a unit for each added block where block 1 is a unit."""
    if not isinstance(method.units, list) or "block1" not in method.units:
        return method
    return replace(method, units=method.units + [f"added{i}" for i in range(1, added + 1)])


def deepened(architecture: CFPN, added: int) -> list[Node]:
    """The CFPN with `added` dense blocks of the first one's size and resolution between blocks 1 and 2."""
    nodes, growth = network.build(architecture, 0), architecture.width // 8
    first = architecture.width - architecture.layers * growth
    end = architecture.layers + 1
    before, block = nodes[:end], [node.name for node in nodes[:end]]
    for i in range(1, added + 1):
        names = [f"added{i}/{layer}" for layer in range(end)]
        before.append(_node(names[0], architecture.width, first, block, architecture))
        for layer in range(1, end):
            inputs = first + (layer - 1) * growth
            before.append(_node(names[layer], inputs, growth, names[:layer], architecture))
        block = names
    down = nodes[end]._replace(inputs=tuple(block))
    if prefix(down.name) != "block2":
        raise AssertionError(f"expected the first node of block2, found {down.name}")
    return [*before, down, *nodes[end + 1 :]]


def _node(name: str, inputs: int, outputs: int, names: list[str], architecture: CFPN) -> Node:
    module = SeparableConvolution(inputs, outputs, architecture.activation)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
    return Node(name, module, tuple(names))


if __name__ == "__main__":
    run(main)
