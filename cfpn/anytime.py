"""Anytime prediction: units answer one after the other, and a face leaves when the vote so far is sure enough.

A face that leaves early spares the multiply-adds of the units that it does not reach (Teerapittayanon et al.,
BranchyNet, ICPR 2016; there without a vote).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cfpn.graph import IMAGE, run
from cfpn.network import Network

EXITS = tuple(number / 100 for number in range(40, 100, 5))  # probabilities at which faces leave, where many are tried


def _added(total: torch.Size, a: torch.Size, b: torch.Size, **_: object) -> int:
    return 2 * a[0] * a[1] * b[1]


IN_PLACE = {torch.ops.aten.addmm_: _added}  # operations of a product in place, which torch's counter leaves out


class Opinions(NamedTuple):
    """What units say of faces.

    units: their names, in order. asked: how many of them were asked, (n,) int64.
    logs: log probabilities (n, units, classes) float32, NaN where a unit was not asked.
    """

    units: tuple[str, ...]
    logs: Tensor
    asked: Tensor

    def vote(self) -> Tensor:
        """Probabilities (n, classes), in proportion to the geometric mean of the units that were asked."""
        return self.logs.nanmean(1).softmax(1)


def check(network: Network, sure: float) -> None:
    """Raise ValueError where faces cannot leave early: the units do not vote, or `sure` is not in (0, 1]."""
    if not 0 < sure <= 1:
        raise ValueError(f"exit: expected a probability in (0, 1], found {sure}")
    if not network.vote:
        raise ValueError("exit: the units of this network do not vote, so that no face can leave early")


def opinions(network: Network, images: Tensor, sure: float) -> Opinions:
    """Opinions on images (n, c, h, w); a face leaves once the vote so far gives a class the probability `sure`.

    The batch shrinks as faces leave. The caller has the network in evaluation mode and gradients off.
    """
    count, names = len(images), tuple(unit.name for unit in network.units)
    logs = images.new_full((count, len(names), network.classes), torch.nan, dtype=torch.float32)
    asked = torch.zeros(count, dtype=torch.int64, device=images.device)
    here, total = torch.arange(count, device=images.device), torch.zeros_like(logs[:, 0])
    features = {IMAGE: images}
    for place, unit in enumerate(network.units):
        outputs = run(unit.nodes, {name: features[name] for name in unit.inputs}, unit.outputs)
        own = network.logits(unit, outputs).float().log_softmax(1)
        total = total + own
        logs[here, place], asked[here] = own, place + 1
        stay = (total / (place + 1)).softmax(1).amax(1) < sure
        if not stay.any():
            break
        live = {name: feature for name, feature in (features | outputs).items() if name not in unit.dropped}
        features = live if stay.all() else {name: _kept(feature, stay) for name, feature in live.items()}
        here, total = here[stay], total[stay]
    return Opinions(names, logs, asked)


def leave(units: dict[str, Tensor], sure: float) -> tuple[Tensor, Tensor]:
    """What `opinions` finds, from log probabilities (n, classes) of all units, where all have answered anyway.

    Returns the votes (n, classes) with which faces leave, and how many units were asked (n,).
    """
    logs = torch.stack([*units.values()], 1)
    counts = torch.arange(1, logs.shape[1] + 1, device=logs.device)[:, None]
    votes = (logs.cumsum(1) / counts).softmax(2)
    enough = votes.amax(2) >= sure
    enough[:, -1] = True
    last = enough.int().argmax(1)
    return votes[torch.arange(len(votes), device=logs.device), last], last + 1


def _kept(feature: Tensor, stay: Tensor) -> Tensor:
    """The chosen images of a feature, in the layout in which the next convolution wants them."""
    chosen = feature[stay]
    return chosen.contiguous(memory_format=torch.channels_last) if chosen.ndim == 4 else chosen


def multiply_adds(network: Network) -> list[int]:
    """Multiply-adds of one face up to the end of each unit, with its classifier and those of the units before.

    Those of convolutions and full connections alone. A classifier that has no vote does not count.
    """
    device = next(network.parameters()).device
    features = {IMAGE: torch.zeros(1, network.channels, network.input_size, network.input_size, device=device)}
    costs, last = [], network.units[-1]
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        for unit in network.units:
            features |= run(unit.nodes, {name: features[name] for name in unit.inputs}, unit.outputs)
            if network.vote and unit is not last:
                network.logits(unit, {name: features[name] for name in unit.outputs})
            costs.append(counter.get_total_flops() // 2)  # it counts a multiplication and an addition as two
    return costs
