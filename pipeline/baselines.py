"""The paper's four comparison networks (Table II), from pytorchcv, as networks of one node trained by BP."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cfpn.graph import IMAGE, Node


@dataclass(frozen=True)
class Baseline:
    """A network of the literature with 1 input channel; input_size is the side of the image it is given, 64 or more."""

    name: Literal["alexnet", "inception_v2", "resnet50", "densenet121"]
    input_size: int = 224
    classes: int = 7


def build(model: Baseline, seed: int) -> list[Node]:
    """The network as one node, weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _constructor(model.name)(in_channels=1, num_classes=model.classes)
    _take_any_size(network, model.name)
    return [Node(model.name, network.to(memory_format=torch.channels_last), (IMAGE,))]


def _take_any_size(network: nn.Module, name: str) -> None:
    """Average the last maps to the size that the classifier expects: pytorchcv's networks take 224x224 alone."""
    if name == "alexnet":  # its view() would refuse maps that lie channels last
        network.features.add_module("final_pool", nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten()))
    else:
        network.features.final_pool = nn.AdaptiveAvgPool2d(1)


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name == "alexnet":
        from pytorchcv.models.alexnet import alexnet

        return alexnet
    if name == "inception_v2":
        from pytorchcv.models.bninception import bninception

        return bninception
    if name == "resnet50":
        from pytorchcv.models.resnet import resnet50

        return resnet50
    from pytorchcv.models.densenet import densenet121

    return densenet121
