"""The paper's comparison networks (Table II) and ResNet-18, from pytorchcv, as tables of nodes.

A ResNet is a stem, a node per residual block (`stage2/1`) and a classifier, so that a method's `units` can cut it.
The others are networks of one node, which back-propagation alone can train.
"""

from collections import OrderedDict
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import nn

from cfpn import network
from cfpn.graph import IMAGE, Node
from cfpn.network import CFPN

MODULES = {
    "alexnet": ("alexnet", "alexnet"),
    "inception_v2": ("bninception", "bninception"),
    "resnet18": ("resnet", "resnet18"),
    "resnet50": ("resnet", "resnet50"),
    "densenet121": ("densenet", "densenet121"),
}  # name -> module of pytorchcv.models and function; the zoo's own provider would import torchvision
SMALLEST = 64  # side of an image that all of them take


@dataclass(frozen=True)
class Baseline:
    """A network of the literature; input_size, 64 or more, is the side of its images. ValueError for less."""

    name: Literal["alexnet", "inception_v2", "resnet18", "resnet50", "densenet121"]
    input_size: int = 224
    classes: int = 7
    channels: int = 1

    def __post_init__(self) -> None:
        if self.input_size < SMALLEST:
            raise ValueError(f"model.input_size: expected {SMALLEST} or more for {self.name}, found {self.input_size}")


Model = CFPN | Baseline  # the networks of the workflow; `name` tells which


def build(model: Model, seed: int) -> list[Node]:
    """Nodes of the network that `model` describes, weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match model:
            case CFPN():
                return network.build(model, seed)
            case Baseline():
                return _from_the_zoo(model)


def described(model: dict[str, Any]) -> list[Node]:
    """Nodes of the network that a weights file describes, for `cfpn.checkpoint.load`; ValueError for an unknown one."""
    for kind in get_args(Model):
        if model.get("name") in get_args(get_type_hints(kind)["name"]):
            return build(kind(**model), 0)
    raise ValueError(f"model.name: no network of this version, found {model.get('name')!r}")


def _from_the_zoo(model: Baseline) -> list[Node]:
    module, function = MODULES[model.name]
    construct = getattr(import_module(f"pytorchcv.models.{module}"), function)
    whole = construct(in_channels=model.channels, num_classes=model.classes)
    _take_any_size(whole, model.name)
    whole.to(memory_format=torch.channels_last)
    return _residual_blocks(whole) if module == "resnet" else [Node(model.name, whole, (IMAGE,))]


def _take_any_size(whole: nn.Module, name: str) -> None:
    """Average the last maps to the size that the classifier expects: pytorchcv's networks take 224x224 alone."""
    pool: nn.Module = nn.AdaptiveAvgPool2d(1)
    if name == "alexnet":  # its view() would refuse maps that lie channels last
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())
    whole.get_submodule("features").add_module("final_pool", pool)


def _residual_blocks(whole: nn.Module) -> list[Node]:
    """A ResNet of pytorchcv cut between its residual blocks; the nodes share its weights."""
    parts = dict(whole.get_submodule("features").named_children())
    named = [("stem", parts["init_block"])]
    for stage in (name for name in parts if name.startswith("stage")):
        named += [(f"{stage}/{place}", block) for place, block in enumerate(parts[stage].children(), 1)]
    ends = [("pool", parts["final_pool"]), ("flatten", nn.Flatten()), ("output", whole.get_submodule("output"))]
    named.append(("classifier", nn.Sequential(OrderedDict(ends))))
    inputs = [IMAGE, *(name for name, _ in named)]
    return [Node(name, module, (before,)) for (name, module), before in zip(named, inputs, strict=False)]
