"""Plain loops that other tests hold the library against: nothing here calls `walk`, `unit_loss`, `update`, `unit_step`.

A network is run node by node; a loss is written from its definition; the parts are those that a reader can check.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn import hsic
from cfpn.faces import Faces
from cfpn.graph import Node

POOL, GRID, INPUT_POOL = (
    4,
    2,
    4,
)  # sides to which a unit's outputs, its features in the kernel, and the image are pooled
BETA, HSIC_WEIGHT = 100.0, 0.1


def faces(number: int, seed: int, side: int = 48) -> Faces:
    """Noise, brighter for higher labels, drawn by numpy so that no file is needed."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, number)
    pixels = random.integers(0, 100, (number, 1, side, side)) + 20 * labels[:, None, None, None]
    return Faces(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), torch.arange(number))


def run(nodes: Sequence[Node], features: dict[str, Tensor]) -> None:
    """Add the features of the nodes, in order, to those given."""
    for node in nodes:
        features[node.name] = node.module(*[features[name] for name in node.inputs])


def split(nodes: Sequence[Node], lasts: Sequence[str]) -> list[list[Node]]:
    """The nodes, cut after those named in `lasts`."""
    parts: list[list[Node]] = [[]]
    for node in nodes:
        parts[-1].append(node)
        if node.name in lasts:
            parts.append([])
    return parts


def outputs(parts: Sequence[Sequence[Node]], i: int) -> list[str]:
    """Names of the features of part i that later parts take, or of its last node where they take none."""
    taken = {name for part in parts[i + 1 :] for node in part for name in node.inputs}
    return [node.name for node in parts[i] if node.name in taken] or [parts[i][-1].name]


def pooled(maps: list[Tensor], side: int) -> Tensor:
    """Maps of sides that are powers of two, averaged to `side` or to the smallest of them, along channels."""
    side = min([side] + [x.shape[-1] for x in maps])
    return torch.cat([x if x.shape[-1] == side else F.avg_pool2d(x, x.shape[-1] // side) for x in maps], 1)


def local_loss(maps: list[Tensor], images: Tensor, labels: Tensor, head: nn.Module) -> Tensor:
    """0.1 (dCKA(Z,X) / 100 - dCKA(Z,Y)) + cross-entropy of the head's classifier, with cosine kernels."""
    maps = pooled(maps, POOL)
    kernel, centre, cka = hsic.Cosine(), hsic.centred_unbiased, hsic.cka_centred
    x = centre(kernel(pooled([images], INPUT_POOL).flatten(1)))
    y = centre((labels[:, None] == labels[None, :]).float())
    z = centre(kernel(pooled([maps], GRID).permute(0, 2, 3, 1).flatten(1)))
    embedding = pooled([head.trunk(maps)], 2).permute(0, 2, 3, 1).flatten(1)
    return HSIC_WEIGHT * (cka(z, x) / BETA - cka(z, y)) + F.cross_entropy(head.classifier(embedding), labels)
