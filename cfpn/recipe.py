"""What is equal for all methods: length, batch, augmentation, optimiser and arithmetic of a training."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from cfpn.faces import Augmentation
from cfpn.learner import ClassWeights, Precision

MOMENTUM = 0.9


@dataclass(frozen=True)
class Optimizer:
    """How every unit takes its steps; the learning rate is its schedule's.

    name: "adam" (Kingma & Ba, ICLR 2015), the paper's, or "sgd" with Nesterov momentum of 0.9 in torch's form
    (Sutskever et al., ICML 2013). weight_decay: this times each parameter is added to its gradient, also for "adam".
    Raises ValueError for other values.
    """

    name: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("adam", "sgd"):
            raise ValueError(f"optimizer.name: expected adam or sgd, found {self.name!r}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay: expected 0 or more, found {self.weight_decay}")

    def build(self, parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
        """torch's optimiser of these parameters, in its fused form."""
        if self.name == "adam":
            return torch.optim.Adam(parameters, lr=learning_rate, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            parameters, lr=learning_rate, momentum=MOMENTUM, nesterov=True, weight_decay=self.weight_decay, fused=True
        )


@dataclass(frozen=True)
class Recipe:
    """What is equal for all methods.

    precision: "bfloat16" is autocast. average, in [0, 1): decay per step of the moving average of the weights, which
    is what validation sees and a run keeps; 0: the weights themselves. class_weights: "balanced" lets all classes of
    the training faces count the same in every cross-entropy of training, "none" all faces.
    label_smoothing, in [0, 1): the part of a label that is spread over all classes (Szegedy et al., CVPR 2016), in
    every cross-entropy of a classifier that is trained; validation and class means have none.
    Raises ValueError for values outside these ranges.
    """

    epochs: int = 10
    batch: int = 128
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimizer: Optimizer = field(default_factory=Optimizer)
    precision: Precision = "float32"
    average: float = 0.0
    class_weights: ClassWeights = "none"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 4:
            raise ValueError(f"train: expected epochs >= 1 and batch >= 4, found {self.epochs} and {self.batch}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"train.precision: expected float32 or bfloat16, found {self.precision!r}")
        if self.class_weights not in get_args(ClassWeights):
            raise ValueError(f"train.class_weights: expected none or balanced, found {self.class_weights!r}")
        for name in ("average", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"train.{name}: expected 0 or more and less than 1, found {getattr(self, name)}")
