"""Multiply-adds and memory traffic of the layers of a training step, counted from shapes.

Every operator reads its inputs and writes its results once; what caches save or cost is not counted.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from cfpn.graph import Node
from cfpn.heads import UnitHead, pooled
from cfpn.layers import Classifier, Fusion3, SeparableConvolution
from cfpn.separable import form


class Work(NamedTuple):
    """Multiply-adds of products and convolutions, and numbers that are read or written."""

    macs: float = 0
    numbers: float = 0

    def plus(self, other: "Work") -> "Work":
        return Work(self.macs + other.macs, self.numbers + other.numbers)


def total(works: Iterable[Work]) -> Work:
    """The sum."""
    result = Work()
    for work in works:
        result = result.plus(work)
    return result


def additions(nodes: Sequence[Node], features: dict[str, Tensor]) -> Work:
    """Gradients of a feature that several nodes take are added up: each after the first reads two, writes one."""
    uses = [name for node in nodes for name in node.inputs if features[name].requires_grad]
    return Work(0, sum(3 * features[name].numel() * (uses.count(name) - 1) for name in dict.fromkeys(uses)))


def node_work(node: Node, inputs: Sequence[Tensor], output: Tensor) -> tuple[Work, Work]:
    """Forward and backward work of a layer of the CFPN."""
    module, wanted = node.module, [x.requires_grad for x in inputs]
    if isinstance(module, SeparableConvolution):
        return separable_work(module, inputs, output)
    if isinstance(module, Fusion3):  # concatenated, averaged, weighted; the full connections do not count
        return Work(0, 5 * output.numel()), Work(0, 7 * output.numel())
    if isinstance(module, Classifier):
        pooled = inputs[0].shape[0] * inputs[0].shape[1]
        macs = pooled * output.shape[1]
        return Work(macs, inputs[0].numel() + pooled), Work(2 * macs, inputs[0].numel() + pooled)
    kernel = next(m for m in module.modules() if isinstance(m, nn.Conv2d))
    return convolution_work(kernel, inputs[0], output, any(wanted))


def convolution_work(kernel: nn.Conv2d, x: Tensor, output: Tensor, wanted: bool) -> tuple[Work, Work]:
    """A convolution with the batch norm and activation behind it."""
    forward, backward = product_work(kernel, x, output, wanted)
    norm, back = norm_work(output.numel())
    return forward.plus(norm), backward.plus(back)


def product_work(kernel: nn.Conv2d, x: Tensor, output: Tensor, wanted: bool) -> tuple[Work, Work]:
    """A convolution alone."""
    macs, moved = output[:, 0].numel() * kernel.weight.numel(), x.numel() + output.numel()
    return Work(macs, moved), Work(macs * (1 + wanted), moved * (1 + wanted))


def norm_work(numbers: int) -> tuple[Work, Work]:
    """Batch norm and activation: each reads and writes one tensor, backward each reads two and writes one."""
    return Work(0, 4 * numbers), Work(0, 6 * numbers)


def separable_work(module: SeparableConvolution, maps: Sequence[Tensor], output: Tensor) -> tuple[Work, Work]:
    """A separable convolution in the form it has here; depthwise outputs are made again unless autograd keeps them."""
    n, _, height, width = maps[0].shape
    channels, outputs = len(module.depthwise), module.pointwise.out_channels
    pixels = n * -(-height // module.stride) * -(-width // module.stride)
    how = form(output.device.type, pixels)
    x, spatial, mixed = channels * n * height * width, channels * pixels, outputs * pixels
    depthwise, pointwise = Work(9 * spatial, x + spatial), Work(spatial * outputs, spatial + mixed)
    joining = Work(0, 0 if how == "map_by_map" else 2 * x)
    needed = sum(tensor.shape[1] for tensor in maps if tensor.requires_grad) / channels
    of_input = Work(9 * spatial * needed, (x + spatial) * needed)
    norm, back = norm_work(mixed)
    larger = Work(0, 0 if module.size is None else output.numel() + mixed)
    again = [depthwise] if how in ("map_by_map", "joined") else []
    backward = [joining, *again, pointwise, pointwise, depthwise, of_input, back, larger]
    return total([joining, depthwise, pointwise, norm, larger]), total(backward)


def head_work(head: UnitHead, maps: Sequence[Tensor]) -> Work:
    """Forward and backward pass of a hidden unit's head on the unit's outputs; maps of its size are not averaged."""
    x = pooled(maps, head.size)
    averaged = sum(m.numel() + m[:, :, : head.size, : head.size].numel() for m in maps if m.shape[-1] > head.size)
    works = [Work(0, 2 * averaged)]
    for layer in head.trunk:
        y = layer(x)
        if isinstance(layer, nn.Conv2d):
            works += product_work(layer, x, y, wanted=True)
        elif isinstance(layer, nn.BatchNorm2d):
            works += norm_work(y.numel())
        x = y
    embedding, classes = len(x) * head.classifier.in_features, head.classifier.out_features
    return total([*works, Work(3 * embedding * classes, 2 * (x.numel() + embedding) + 2 * embedding)])
