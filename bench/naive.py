"""A training step of the profile beside that of a naive eager CFPN, both by back-propagation, in one run.

Naive is what one writes first: batch norm before the convolution, feature maps (not kernels) scaled by the connection
weights, the contiguous layout and glibc's allocator as it comes. Each variant has a process of its own, since the
allocator is a process's; they take turns, a step at a time.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import IO

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.step import add_parameters, quartiles
from cfpn import network as networks
from cfpn.allocator import keep_freed_memory
from cfpn.graph import Node
from cfpn.layers import Activation, SeparableConvolution, activation
from cfpn.network import CFPN
from cfpn.recipe import Recipe
from cfpn.separable import concatenate
from cfpn.training import Method, start, train_step
from pipeline import params as parameters
from pipeline.process import InputError, command_line, run

EXAMPLE = """example:
  python -m bench.naive --set profile=fer2013-cpu --rounds 10
"""
WARM_UP = 2
DIED = (
    "a measured process has ended before its time; what it wrote above says why, and nothing does where memory lacked"
)


class NaiveSeparableConvolution(nn.Module):
    """T W([...]) in the order of the paper's text: weigh the maps, batch norm, activation, separable convolution."""

    def __init__(self, like: SeparableConvolution, act: Activation) -> None:
        super().__init__()
        inputs, outputs = len(like.depthwise), like.pointwise.out_channels
        self.size = like.size
        self.connection = nn.Parameter(torch.ones(inputs))
        self.norm = nn.BatchNorm2d(inputs)
        self.act = activation(act)
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride=like.stride, padding=1, groups=inputs, bias=False)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = concatenate(inputs) * self.connection.view(1, -1, 1, 1)
        x = self.pointwise(self.depthwise(self.act(self.norm(x))))
        return x if self.size is None else F.interpolate(x, size=(self.size, self.size))


def naive(nodes: list[Node], act: Activation) -> list[Node]:
    """The same graph with every separable convolution replaced by the naive one, in the contiguous layout."""
    result = []
    for node in nodes:
        module = node.module
        if isinstance(module, SeparableConvolution):
            module = NaiveSeparableConvolution(module, act)
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks this form
        result.append(Node(node.name, module, node.inputs))
    return result


def step_when_asked(model: CFPN, recipe: Recipe, threads: int, variant: str) -> None:
    """Take a training step for every line on standard input and print its seconds."""
    torch.set_num_threads(threads)
    nodes = networks.build(model, 0)
    images = torch.randn(recipe.batch, model.channels, model.input_size, model.input_size)
    if variant == "naive":
        nodes = naive(nodes, model.activation)
    else:
        keep_freed_memory()
        images = images.contiguous(memory_format=torch.channels_last)
    method = Method(units="network")
    state = start(nodes, method, recipe, model.input_size, 0, torch.device("cpu"), model.channels, model.classes)
    state.network.train()
    for _ in sys.stdin:
        begin = time.perf_counter()
        train_step(state, method, images, torch.arange(recipe.batch) % model.classes, [1e-4])
        print(time.perf_counter() - begin, flush=True)


def measure(command: list[str], rounds: int) -> dict[str, object]:
    """Mean milliseconds of a step of both variants, the ratio, and the quartiles of its paired values."""
    seconds: dict[str, list[float]] = {"cfpn": [], "naive": []}
    processes = {name: _start([*command, "--variant", name]) for name in seconds}
    try:
        for _ in range(WARM_UP + rounds):
            for name, process in processes.items():
                seconds[name].append(_ask(process.stdin, process.stdout))
    finally:
        for process in processes.values():
            process.communicate()  # the end of its input ends it
    kept = {name: values[WARM_UP:] for name, values in seconds.items()}
    means = {f"{name}_ms": 1000 * statistics.mean(values) for name, values in kept.items()}
    ratio = means["cfpn_ms"] / means["naive_ms"]
    return means | {"ratio": ratio, "quartiles": quartiles(kept["cfpn"], kept["naive"])}


def _start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(to: IO[str] | None, answer: IO[str] | None) -> float:
    if to is None or answer is None:
        raise ValueError("expected a process whose input and output are pipes")
    try:
        to.write("\n")
        to.flush()
    except BrokenPipeError as error:
        raise InputError(DIED) from error
    if not (line := answer.readline()):
        raise InputError(DIED)
    return float(line)


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.naive", __doc__, EXAMPLE)
    add_parameters(parser)
    parser.add_argument("--rounds", type=int, default=10, help="measured steps of each (default: %(default)s)")
    parser.add_argument("--variant", choices=("cfpn", "naive"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rounds < 2:
        raise InputError(f"--rounds: expected 2 or more, found {args.rounds}")
    params = parameters.load(args.params, parameters.assignments(args.set))
    if not isinstance(params.model, CFPN):
        raise InputError(f"model: expected a CFPN, the only network that has a naive form, found {params.model.name}")
    if args.variant:
        step_when_asked(params.model, params.train.recipe, params.compute.threads, args.variant)
        return
    arguments = ["--params", str(args.params), *(["--set", *args.set] if args.set else [])]
    result = measure([sys.executable, "-m", "bench.naive", *arguments], args.rounds)
    print(json.dumps(result | {"batch": params.train.batch, "threads": params.compute.threads}, indent=2))


if __name__ == "__main__":
    run(main)
