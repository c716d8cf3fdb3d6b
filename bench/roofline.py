"""How near each part of a training step comes to what the machine can do.

Bytes and multiply-adds of a part are counted from shapes: every operator reads its inputs and writes its results once.
The machine's limits are measured in the same run: bytes a second of a large copy, multiply-adds a second of a matrix
product. A part needs at least the larger of bytes / bandwidth and multiply-adds / rate; a time below it means caches.
"""

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from bench.counts import Work, additions, head_work, node_work, total
from cfpn import heads, hsic
from cfpn.allocator import keep_freed_memory
from cfpn.graph import IMAGE, Node, prefix
from cfpn.heads import Head, UnitHead, pooled
from cfpn.network import CFPN, build
from pipeline.process import InputError, atomic, command_line, run, thread_count

EXAMPLE = """example:
  python -m bench.roofline --input-size 48 --width 96 --batch 128 --out roofline.csv --figure roofline.svg
"""
MIB, FLOAT = 2**20, 4
HEAD = Head(hidden=3)  # of the method nbp
HEAD_SIDE, KERNEL_SIDE, IMAGE_SIDE = 6, 3, 12  # sides of the maps that a head and the kernels take


class Machine(NamedTuple):
    """Bytes a second of a copy (read and written), multiply-adds a second of a matrix product; float32."""

    bandwidth: float
    rate: float


class Part(NamedTuple):
    """One part of a step and the least of its measured seconds."""

    name: str
    work: Work
    seconds: float


class Row(TypedDict):
    """What table, CSV and picture show of a part."""

    part: str
    million_multiply_adds: float
    mib: float
    limit: str
    limit_ms: float
    measured_ms: float
    times_limit: float


def main() -> None:
    """Command line."""
    parser = command_line("python -m bench.roofline", __doc__, EXAMPLE)
    parser.add_argument("--input-size", type=int, default=224, help="pixels of a side of the image (default: 224)")
    parser.add_argument("--width", type=int, default=128, help="maps of a block's output (default: 128)")
    parser.add_argument("--batch", type=int, default=4, help="faces in a step (default: 4)")
    parser.add_argument("--rounds", type=int, default=10, help="measured passes, of which the fastest counts")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=thread_count, default=1)
    parser.add_argument("--out", type=Path, help="CSV to write")
    parser.add_argument("--figure", type=Path, help="SVG to write")
    args = parser.parse_args()
    if args.rounds < 1 or args.batch < 4:
        raise InputError(
            f"expected --rounds of 1 or more and --batch of 4 or more, found {args.rounds} and {args.batch}"
        )
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has none")
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    try:
        model = CFPN(input_size=args.input_size, width=args.width)
    except ValueError as error:
        raise InputError(str(error)) from error
    device = torch.device(args.device)
    limits = machine(device)
    found = measure(build(model, 0), args.input_size, args.batch, args.rounds, device)
    print(table(found, limits))
    if args.out:
        with atomic(args.out) as path:
            write(path, found, limits)
    if args.figure:
        with atomic(args.figure) as path:
            draw(path, found, limits)


def machine(device: torch.device, side: int = 1024, mib: int = 256) -> Machine:
    """The two limits: the best of several copies of `mib` MiB and of several products of `side` x `side` matrices."""
    source = torch.ones(mib * MIB // FLOAT, device=device)
    target, a = torch.empty_like(source), torch.ones(side, side, device=device)
    copy = fastest(lambda: target.copy_(source), device, 8)
    product = fastest(lambda: torch.mm(a, a), device, 8)
    return Machine(2 * mib * MIB / copy, side**3 / product)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call; on one thread of a CPU those of the processor, so that other work there does not count."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def fastest(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The least seconds of `rounds` calls after two that do not count."""
    return min([timed(call, device) for _ in range(rounds + 2)][2:])


def measure(nodes: Sequence[Node], size: int, batch: int, rounds: int, device: torch.device) -> list[Part]:
    """All parts of a step: each block forward and backward, the head and kernel of hidden units, the optimiser."""
    for node in nodes:
        node.module.to(device)
    image = torch.randn(batch, 1, size, size, device=device).contiguous(memory_format=torch.channels_last)
    features: dict[str, Tensor] = {IMAGE: image}
    found = []
    for block in dict.fromkeys(prefix(node.name) for node in nodes):
        own = [node for node in nodes if prefix(node.name) == block]
        later = {name for node in nodes if prefix(node.name) != block for name in node.inputs}
        kept = [node.name for node in own if node.name in later] or [own[-1].name]
        inputs = {name: features[name].detach() for node in own for name in node.inputs if name in features}
        found += passes(block, own, inputs, kept, rounds, device)
        with torch.no_grad():
            features |= {name: value for name, value in forward(own, inputs).items() if name in kept}
        if block.startswith("block"):
            outputs = [features[name] for name in kept]
            found += [head(block, outputs, rounds, device), dependence(block, outputs, image, rounds, device)]
    return found + updates([node.module for node in nodes], rounds, device)


def forward(nodes: Sequence[Node], features: dict[str, Tensor]) -> dict[str, Tensor]:
    """All features after the nodes have run."""
    live = dict(features)
    for node in nodes:
        live[node.name] = node.module(*(live[name] for name in node.inputs))
    return live


def passes(
    name: str, nodes: Sequence[Node], inputs: dict[str, Tensor], kept: list[str], rounds: int, device: torch.device
) -> list[Part]:
    """Forward and backward pass of some nodes as in back-propagation: all inputs but the image want gradients."""
    for key, value in inputs.items():
        value.requires_grad_(key != IMAGE)
    features = forward(nodes, inputs)
    learning = reaching(nodes, kept)
    ways = [node_work(node, [features[key] for key in node.inputs], features[node.name]) for node in nodes]
    backward = [way for node, (_, way) in zip(nodes, ways, strict=True) if node in learning]
    works = total(way for way, _ in ways), total([*backward, additions(learning, features)])
    gradients = [torch.randn_like(features[key]) for key in kept]
    times = [both(nodes, inputs, kept, gradients, device) for _ in range(rounds + 1)]
    best = [min(seconds) for seconds in zip(*times[1:], strict=True)]
    return [Part(f"{name} {label}", works[i], best[i]) for i, label in enumerate(("forward", "backward"))]


def both(
    nodes: Sequence[Node], inputs: dict[str, Tensor], kept: list[str], gradients: list[Tensor], device: torch.device
) -> tuple[float, float]:
    """Seconds of a forward and a backward pass, after which all gradients are forgotten."""
    outputs: dict[str, Tensor] = {}
    there = timed(lambda: outputs.update(forward(nodes, inputs)), device)
    ends = [outputs[key] for key in kept]
    back = timed(lambda: torch.autograd.backward(ends, gradients), device)
    clear([node.module for node in nodes], inputs.values())
    return there, back


def reaching(nodes: Sequence[Node], kept: Iterable[str]) -> list[Node]:
    """The nodes from which a path leads to one of those named in `kept`; the others have no backward pass."""
    found: list[Node] = []
    wanted = set(kept)
    for node in reversed(nodes):
        if node.name in wanted:
            found.insert(0, node)
            wanted.update(node.inputs)
    return found


def clear(modules: Iterable[nn.Module], tensors: Iterable[Tensor]) -> None:
    """Forget all gradients."""
    for tensor in [*tensors, *(p for module in modules for p in module.parameters())]:
        tensor.grad = None


def head(block: str, outputs: Sequence[Tensor], rounds: int, device: torch.device) -> Part:
    """Head and cross-entropy of a hidden unit with these outputs, forward and backward."""
    maps = [x.detach().requires_grad_() for x in outputs]
    module = UnitHead(HEAD, sum(x.shape[1] for x in maps), min(HEAD_SIDE, *(x.shape[-1] for x in maps)), 7).to(device)
    labels = torch.arange(len(maps[0]), device=device) % 7

    def step() -> None:
        torch.autograd.backward(F.cross_entropy(module.logits(maps), labels))
        clear([module], maps)

    return Part(f"{block} head", head_work(module, maps), fastest(step, device, rounds))


def dependence(block: str, outputs: Sequence[Tensor], image: Tensor, rounds: int, device: torch.device) -> Part:
    """Debiased CKA of a hidden unit's maps, pooled for its head, with image and labels; forward and backward."""
    maps, n, kernel = pooled(outputs, HEAD_SIDE).requires_grad_(), len(image), hsic.Cosine()
    labels = torch.arange(n, device=device) % 7
    with torch.no_grad():
        of_image = hsic.centred_unbiased(kernel(pooled([image], IMAGE_SIDE).flatten(1)))
        of_labels = hsic.centred_unbiased(hsic.label_kernel(labels, 7))
    d = pooled([maps], KERNEL_SIDE)[0].numel()

    def step() -> None:
        k = hsic.centred_unbiased(kernel(heads.rows(pooled([maps], KERNEL_SIDE))))
        torch.autograd.backward(hsic.cka_centred(k, of_image) - hsic.cka_centred(k, of_labels))
        clear([], [maps])

    # The rows are pooled, centred, normalised and multiplied; the matrix is made, centred and compared with two others:
    # two numbers for each of these, and as many backward.
    work = Work(3 * n * n * d, 2 * maps.numel() + 14 * n * d + 16 * n * n)
    return Part(f"{block} HSIC", work, fastest(step, device, rounds))


def updates(modules: Sequence[nn.Module], rounds: int, device: torch.device) -> list[Part]:
    """Adam and the moving average of the weights."""
    parameters = [p for module in modules for p in module.parameters()]
    for p in parameters:
        p.grad = torch.zeros_like(p)
    adam = torch.optim.Adam(parameters, lr=0.0, fused=True)
    values = [t.detach() for m in modules for t in m.state_dict().values() if t.is_floating_point()]
    means = [t.clone() for t in values]
    average = get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    learnt, all_values = sum(p.numel() for p in parameters), sum(t.numel() for t in values)
    steps, averages = (fastest(call, device, rounds) for call in (adam.step, lambda: average(means, values, None)))
    # Of parameter, gradient and two moments three are written; of mean and value one is.
    return [
        Part("optimiser", Work(0, 7 * learnt), steps),
        Part("averaging", Work(0, 3 * all_values), averages),
    ]


def rows(parts: Sequence[Part], limits: Machine) -> list[Row]:
    """A row for each part and one for the whole."""
    whole = Part("step", total(p.work for p in parts), sum(p.seconds for p in parts))
    result: list[Row] = []
    for part in [*parts, whole]:
        memory, arithmetic = FLOAT * part.work.numbers / limits.bandwidth, part.work.macs / limits.rate
        limit = max(memory, arithmetic)
        result.append({
            "part": part.name,
            "million_multiply_adds": part.work.macs / 1e6,
            "mib": FLOAT * part.work.numbers / MIB,
            "limit": "memory" if memory >= arithmetic else "arithmetic",
            "limit_ms": 1e3 * limit,
            "measured_ms": 1e3 * part.seconds,
            "times_limit": part.seconds / limit,
        })  # fmt: skip
    # The limit of the whole is the sum of those of its parts, which run one after another.
    result[-1] |= {"limit": "sum", "limit_ms": sum(row["limit_ms"] for row in result[:-1])}
    result[-1]["times_limit"] = result[-1]["measured_ms"] / result[-1]["limit_ms"]
    return result


def table(parts: Sequence[Part], limits: Machine) -> str:
    """The table as text."""
    head = f"copy {limits.bandwidth / 2**30:.1f} GiB/s, matrix product {limits.rate / 1e9:.1f} billion multiply-adds/s"
    lines = [head, "", f"{'part':20}{'M mult-adds':>12}{'MiB':>9}{'limit ms':>10}{'':>12}{'measured':>10}{'times':>7}"]
    for row in rows(parts, limits):
        lines.append(
            f"{row['part']:20}{row['million_multiply_adds']:12.1f}{row['mib']:9.1f}{row['limit_ms']:10.3f}"
            f"  {row['limit']:10}{row['measured_ms']:10.3f}{row['times_limit']:7.2f}"
        )
    return "\n".join(lines)


def write(path: Path, parts: Sequence[Part], limits: Machine) -> None:
    """The table as CSV, with the limits in every row."""
    with path.open("w", newline="") as file:
        found = [row | limits._asdict() for row in rows(parts, limits)]
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)


def draw(path: Path, parts: Sequence[Part], limits: Machine) -> None:
    """The table as bars: the time of each part over its limit."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    found = rows(parts, limits)[:-1]
    places = range(len(found))
    figure, axes = pyplot.subplots(figsize=(8, 0.28 * len(found) + 1), layout="constrained")
    axes.barh(places, [row["measured_ms"] for row in found], 0.8, color="#b9c8dc", label="measured")
    for bound, colour in (("memory", "#1f4e8c"), ("arithmetic", "#b4441c")):
        limited = [row["limit_ms"] if row["limit"] == bound else 0.0 for row in found]
        if any(limited):
            axes.barh(places, limited, 0.4, color=colour, label=f"limit: {bound}")
    axes.set_yticks(places, [row["part"] for row in found])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend(loc="lower right")
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    run(main)
