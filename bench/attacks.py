"""Weights of runs against gradient attacks on the test faces -> one small table of raw results.

An attack moves every pixel by at most `eps` grey levels, so that the vote of the units goes wrong. It is projected
gradient descent (Madry et al., ICLR 2018): a random start, then 10 steps of 2.5 eps / 10 along the gradient's sign.
Three checks tell a network that bears attacks from one that hides its gradients (Athalye et al., ICML 2018):

- `margin`: the same steps along the gradient of another loss, which does not vanish where a network is sure;
- `transfer`: the faces that mislead BP of the same seed, with gradients that the attacked network cannot hide;
- `unbounded`: 40 steps of up to 64 grey levels, after which no face should be classified rightly.

The table gains the runs found, one after the other, and keeps those it had.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from bench import robustness
from cfpn import faces
from cfpn.allocator import keep_freed_memory
from cfpn.faces import Faces, generator
from cfpn.network import Network
from pipeline import evaluate
from pipeline.page import measurements
from pipeline.page.tables import markdown
from pipeline.process import InputError, run

EXAMPLE = """example:
  python -m bench.attacks docs/study/attacks.csv --runs runs --splits data/splits --faces 1000
"""
KEYS = ["method", "seed", "attack", "eps"]
BATCH = 128
SURROGATE = "bp"  # the method whose faces are handed to the others of its seed

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logs: Tensor, labels: Tensor) -> Tensor:
    """Negative log probability (n,) of the labels (n,), from log probabilities (n, classes)."""
    return -logs.gather(1, labels[:, None])[:, 0]


def margin(logs: Tensor, labels: Tensor) -> Tensor:
    """Log probability of the best other class less that of the label (n,); positive where the answer is wrong."""
    others = logs.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - logs.gather(1, labels[:, None])[:, 0]


class Attack(NamedTuple):
    """One way to mislead: its loss, how far a pixel may go, in how many steps, and on what share of the faces."""

    name: str
    loss: Loss
    eps: float
    steps: int = 10
    share: float = 1.0


ATTACKS = (
    Attack("pgd", cross_entropy, 1),
    Attack("pgd", cross_entropy, 2),
    Attack("margin", margin, 1),
    Attack("unbounded", cross_entropy, 64, steps=40, share=0.2),
)


def logs(network: Network, pixels: Tensor) -> Tensor:
    """Log probabilities (n, classes) of the network's answer to pixels (n, c, h, w) in 0..255, with gradients."""
    units = [one.log_softmax(1) for one in network(faces.images(pixels, network.input_size)).values()]
    return torch.stack(units).mean(0).log_softmax(1) if network.vote else units[-1]


def attacked(network: Network, pixels: Tensor, labels: Tensor, how: Attack, random: torch.Generator) -> Tensor:
    """Pixels (n, c, h, w) float32 in 0..255 that mislead the network, within `how.eps` of those given."""
    low, high = (pixels - how.eps).clamp_min(0), (pixels + how.eps).clamp_max(255)
    found = low + (high - low) * torch.rand(pixels.shape, generator=random)
    for _ in range(how.steps):
        found.requires_grad_()
        (gradient,) = torch.autograd.grad(how.loss(logs(network, found), labels).sum(), found)
        found = (found.detach() + 2.5 * how.eps / how.steps * gradient.sign()).clamp(low, high)
    return found


def misled(network: Network, test: Faces, how: Attack) -> Tensor:
    """The first faces of a split as an attack leaves them, the same start for every network."""
    count = max(1, round(how.share * len(test)))
    random = generator(int(how.eps))
    chunks = [torch.split(whole[:count], BATCH) for whole in (test.pixels, test.labels)]
    parts = zip(*chunks, strict=True)
    return torch.cat([attacked(network, pixels.float(), labels, how, random) for pixels, labels in parts])


def accuracy(network: Network, pixels: Tensor, labels: Tensor) -> float:
    """Share of pixels (n, c, h, w) in 0..255 that are classified as labels (m,) say, m >= n."""
    with torch.no_grad():
        answers = torch.cat([logs(network, part).argmax(1) for part in torch.split(pixels, BATCH)])
    return (answers == labels[: len(answers)]).double().mean().item()


def measured(
    network: Network, test: Faces, found: Mapping[Attack, Tensor], handed_on: Mapping[float, Tensor]
) -> Iterator[dict[str, Any]]:
    """A row per attack: found are the faces that mislead this network, handed_on by eps those that mislead another."""
    kinds = [("none", 0.0, test.pixels.float())]
    kinds += [(how.name, how.eps, pixels) for how, pixels in found.items()]
    kinds += [("transfer", eps, pixels) for eps, pixels in handed_on.items()]
    for name, eps, pixels in kinds:
        row = {"attack": name, "eps": float(eps), "faces": len(pixels)}
        yield row | {"accuracy": accuracy(network, pixels, test.labels)}


def gathered(table: Path, runs: Path, test: Faces) -> pd.DataFrame:
    """Rows of `table`, if it exists, with those of all runs that have weights; a run found replaces its rows.

    They are written after each run, so that whoever stops it keeps what is done.
    """
    tables: list[pd.DataFrame] = []
    surrogates: dict[int, dict[float, Tensor]] = {}
    weights = robustness.trained(runs)
    check_faces(table, len(test), weights)
    robustness.check_alike(table, KEYS, weights)
    robustness.check_kind(weights.values(), test)
    kept = robustness.others(table, weights, KEYS)
    for method, seed in sorted(weights, key=lambda one: one[0] != SURROGATE):
        print(weights[method, seed].parent, flush=True)
        network = evaluate.load_network(weights[method, seed])
        evaluate.check_classes(network, test, weights[method, seed].parent)
        found = {how: misled(network, test, how) for how in ATTACKS}
        rows = measured(network, test, found, surrogates.get(seed, {}))
        tables.append(robustness.labelled(weights[method, seed], rows))
        robustness.write(table, [*kept, *tables], KEYS)
        if seed not in surrogates and method != SURROGATE:
            print(f"{weights[method, seed].parent}: no transfer, which needs {SURROGATE} with seed {seed}", flush=True)
        if method == SURROGATE:
            surrogates[seed] = {how.eps: pixels for how, pixels in found.items() if how.name == "pgd"}
    return pd.concat([*kept, *tables]).sort_values(KEYS)


def check_faces(table: Path, faces: int, weights: Container[tuple[str, int]]) -> None:
    """Raise InputError where runs that stay in a table, if it exists, were attacked on another number of faces."""
    rows = robustness.read(table, KEYS)
    for row in () if rows is None else rows[rows["attack"] == "none"].itertuples():
        if (row.method, row.seed) not in weights and row.faces != faces:
            raise InputError(f"--faces: expected {row.faces}, as for the runs in {table}, found {faces}")


def main() -> None:
    """Command line."""
    parser = robustness.of_runs("python -m bench.attacks", __doc__, EXAMPLE)
    parser.add_argument("--faces", type=int, default=1000, help="the first of the test split (default: %(default)s)")
    args = parser.parse_args()
    if args.faces < 1:
        raise InputError(f"--faces: expected 1 or more, found {args.faces}")
    torch.set_num_threads(1)  # more of them spin against whatever else runs
    keep_freed_memory()
    table = gathered(args.table, args.runs, evaluate.load_faces(args.splits / "test.parquet").first(args.faces))
    print(markdown(*measurements.attacks(table)))


if __name__ == "__main__":
    run(main)
