"""The layers of the CFPN: paper equations (7) to (15)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn.separable import separable

Activation = Literal["relu", "tanh", "elu"]


def activation(name: Activation) -> nn.Module:
    """The paper's three activation functions (Fig 9)."""
    return {"relu": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "elu": nn.ELU(inplace=True)}[name]


class Stem(nn.Sequential):
    """The first layer: an ordinary 3x3 convolution of stride 2, because a separable one on 1 channel has one filter."""

    def __init__(self, inputs: int, channels: int, act: Activation) -> None:
        super().__init__(
            nn.Conv2d(inputs, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), activation(act)
        )


class SeparableConvolution(nn.Module):
    """T W([o_0 .. o_(i-1)]): connection weights, separable 3x3 convolution, batch norm, activation; eqs (7), (9), (10).

    Takes any number of feature maps of shape (n, c_j, h, w) with sum c_j = inputs and returns (n, outputs, h', w'):
    h' = h / stride, or `size` where that is given (the upsampling of eq (13)). W, one learned weight per incoming
    feature map, scales the depthwise kernel of its channel, which equals scaling the map and costs nothing.
    """

    def __init__(self, inputs: int, outputs: int, act: Activation, stride: int = 1, size: int | None = None) -> None:
        super().__init__()
        self.stride, self.size = stride, size
        self.connection = nn.Parameter(torch.ones(inputs))  # W of eq (7)
        self.depthwise = nn.Parameter(torch.empty(inputs, 1, 3, 3))
        nn.init.kaiming_uniform_(self.depthwise, nonlinearity="linear")
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.act = activation(act)

    def forward(self, *inputs: Tensor) -> Tensor:
        kernel = self.connection.view(-1, 1, 1, 1) * self.depthwise
        x = separable(inputs, kernel, self.pointwise.weight, self.stride)
        x = self.act(self.norm(x))
        return x if self.size is None else F.interpolate(x, size=(self.size, self.size))


class Fusion3(nn.Module):
    """X F2{F1[GAP(X)]} with X the concatenated pyramid maps, eq (15); F is batch norm, ReLU, full connection.

    F2 starts at weight 0 and bias 1, so that the attention begins as the identity.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.f1 = nn.Sequential(nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, hidden))
        last = nn.Linear(hidden, channels)
        self.f2 = nn.Sequential(nn.BatchNorm1d(hidden), nn.ReLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)

    def forward(self, *pyramids: Tensor) -> Tensor:
        x = torch.cat(pyramids, 1)
        attention: Tensor = self.f2(self.f1(x.mean((2, 3))))
        return x * attention[:, :, None, None]


class Classifier(nn.Module):
    """Global average pooling and one full connection to the classes: (n, channels, h, w) -> (n, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.full = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.full(x.mean((2, 3)))
        return logits
