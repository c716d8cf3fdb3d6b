"""What a network with a name says of faces, in words and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cfpn import anytime, checkpoint, prediction, weights
from cfpn.network import Network
from pipeline import networks
from pipeline.pictures import explain
from pipeline.process import InputError, file_hash


@dataclass(frozen=True)
class Model:
    """A network with the name of its weights, their hash, and the multiply-adds up to the end of each unit."""

    network: Network
    name: str
    sha256: str
    costs: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """What a network says of one face.

    probabilities: by class, the largest first. units: the same of each unit that was asked, by its name.
    importance: (side, side), where it was asked for.
    """

    probabilities: dict[str, float]
    units: dict[str, dict[str, float]]
    multiply_adds: int
    importance: Tensor | None = None

    @property
    def expression(self) -> str:
        """The most likely class."""
        return next(iter(self.probabilities))


def load_model(name: str) -> Model:
    """The network of a weights file or of weights that come with the library; raises InputError where there is none.

    PermissionError, with its name, where the file is not to be read: safetensors would call it missing.
    """
    try:
        if not weights.is_name(name):
            Path(name).open("rb").close()
        network = checkpoint.load(name, networks.described)
        path = weights.named(name) if weights.is_name(name) else Path(name)
        digest = file_hash(path)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(str(error)) from error
    return Model(network, path.stem if weights.is_name(name) else name, digest, anytime.multiply_adds(network))


def answers(model: Model, pixels: Tensor, exit: float | None = None, explained: bool = False) -> list[Answer]:
    """What the network says of pixels (n, channels, side, side) uint8.

    exit: the probability at which a face leaves early. explained: whether to say where the network looked.
    """
    network = model.network
    if exit is None:
        units = prediction.unit_log_probabilities(network, pixels)
        names, logs = tuple(units), torch.stack([*units.values()], 1)
        found = anytime.Opinions(names, logs, torch.full((len(pixels),), len(names)))
        votes = prediction.vote(units, network.vote)
    else:
        found = prediction.opinions(network, pixels, exit)
        votes = found.vote()
    asked = None if exit is None else found.asked
    maps = explain.importance(network, pixels, votes.argmax(1), asked) if explained else None
    return [
        Answer(
            ranked(vote, network.names),
            {name: ranked(own, network.names) for name, own in zip(found.units[:count], logs.exp(), strict=False)},
            model.costs[count - 1] if exit is not None else model.costs[-1],
            None if maps is None else maps[place],
        )
        for place, (vote, logs, count) in enumerate(zip(votes, found.logs, found.asked.tolist(), strict=True))
    ]


def ranked(probabilities: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Probabilities (classes,) by class, the largest first."""
    pairs = zip(names, probabilities.tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))
