"""What a hidden unit minimises: HSIC(Z,X) - beta HSIC(Z,Y) (eq 4) by one of four estimators, and a classifier's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cfpn import hsic
from cfpn.heads import ClassMeans, Head, LinearClassifier, UnitHead, pooled, rows
from cfpn.hsic import Cosine, Kernel, label_kernel


class Targets(NamedTuple):
    """What units are compared with, made once per batch of n faces.

    x, y: prepared kernel matrices (n, n) of images and labels, empty where no unit needs them; labels: (n,) int64.
    class_weights: (classes,), in a classifier's cross-entropy; None: all classes count the same. label_smoothing: the
    part of a label that is spread over all classes there.
    """

    x: Tensor
    y: Tensor
    labels: Tensor
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0


class Estimator(NamedTuple):
    """How HSIC is estimated from two kernel matrices (n, n).

    z: what is made of the matrix of a unit's features; target: of that of images or labels, once per batch;
    dependence: the estimate from the two. scaled: the loss is divided by beta, so that its size does not hang on it.
    """

    z: Callable[[Tensor], Tensor]
    target: Callable[[Tensor], Tensor]
    dependence: Callable[[Tensor, Tensor], Tensor]
    scaled: bool


def _as_it_is(k: Tensor) -> Tensor:
    return k


ESTIMATORS = {
    "eq4": Estimator(_as_it_is, hsic.centred, hsic.hsic_biased_centred, scaled=False),  # eqs (5), (6)
    "normalised_hsic": Estimator(hsic.resolvent, hsic.resolvent, hsic.trace, scaled=True),
    "cka": Estimator(hsic.centred, hsic.centred, hsic.cka_centred, scaled=True),
    "debiased_cka": Estimator(hsic.centred_unbiased, hsic.centred_unbiased, hsic.cka_centred, scaled=True),
}


@dataclass(frozen=True)
class Bottleneck:
    """The HSIC bottleneck, HSIC(Z,X) - beta HSIC(Z,Y) (eq 4); lower is better.

    estimator: "eq4" is the biased HSIC that the paper prints. "normalised_hsic" is that of Ma et al., AAAI 2020.
    "cka" is that of Kornblith et al., ICML 2019. "debiased_cka" is the same from the unbiased HSIC of Song et al.,
    JMLR 2012. All but "eq4" minimise HSIC(Z,X) / beta - HSIC(Z,Y). Raises ValueError for another one.
    """

    estimator: Literal["eq4", "normalised_hsic", "cka", "debiased_cka"] = "debiased_cka"
    beta: float = 100.0
    kernel: Kernel = field(default_factory=Cosine)

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"hsic.estimator: expected one of {', '.join(ESTIMATORS)}, found {self.estimator!r}")
        if not 0 < self.beta < math.inf:
            raise ValueError(f"hsic.beta: expected more than 0, found {self.beta}")

    def prepare(self, k: Tensor) -> Tensor:
        """What `values` wants of the kernel matrix (n, n) of images or labels."""
        return ESTIMATORS[self.estimator].target(k)

    def values(self, z: Tensor, to: Targets) -> tuple[Tensor, Tensor]:
        """HSIC(Z,X) and HSIC(Z,Y) of features Z (n, d)."""
        how = ESTIMATORS[self.estimator]
        k = how.z(self.kernel(z))
        return how.dependence(k, to.x), how.dependence(k, to.y)

    def __call__(self, z: Tensor, to: Targets) -> Tensor:
        """The loss of features Z (n, d), a scalar."""
        zx, zy = self.values(z, to)
        return zx / self.beta - zy if ESTIMATORS[self.estimator].scaled else zx - self.beta * zy


@dataclass(frozen=True)
class SimilarityMatching:
    """Mean squared difference of the cosine similarities of Z and of the labels, after Nokland & Eidnes, ICML 2019.

    They centre each face over its own features, and one-hot labels as well. Here Z is centred over the batch, and two
    faces of a class have similarity 1, of two classes 0.
    """

    estimator: Literal["similarity_matching"] = "similarity_matching"
    kernel: Kernel = field(default_factory=Cosine)

    def prepare(self, k: Tensor) -> Tensor:
        """The kernel matrix as it is."""
        return k

    def __call__(self, z: Tensor, to: Targets) -> Tensor:
        """The loss of features Z (n, d), a scalar."""
        return (self.kernel(z) - to.y).square().mean()


@dataclass(frozen=True)
class LocalLoss:
    """hsic_weight * HSIC term(Z) + classifier_weight * cross-entropy of the unit's own classifier.

    pool: a unit's outputs are averaged to pool x pool before anything else (0: left as they are).
    z: Z is these maps, averaged on to grid x grid (0: as they are), or the embedding of the unit's head.
    input_pool: the image is averaged to input_pool x input_pool before its kernel.
    classifier: what takes the embedding where classifier_weight is not 0.
    Raises ValueError where both weights are 0, for a number below 0, and for an unknown z.
    """

    hsic: Bottleneck | SimilarityMatching = field(default_factory=Bottleneck)
    hsic_weight: float = 0.1
    classifier_weight: float = 1.0
    z: Literal["features", "embedding"] = "features"
    pool: int = 6
    grid: int = 3
    input_pool: int = 12
    head: Head = field(default_factory=Head)
    classifier: LinearClassifier | ClassMeans = field(default_factory=LinearClassifier)

    def __post_init__(self) -> None:
        if not self.hsic_weight and not self.classifier_weight:
            raise ValueError("local_loss: hsic_weight and classifier_weight are both 0: there is nothing to minimise")
        if self.z not in ("features", "embedding"):
            raise ValueError(f"local_loss.z: expected features or embedding, found {self.z!r}")
        for name in ("hsic_weight", "classifier_weight", "pool", "grid", "input_pool"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"local_loss.{name}: expected 0 or more, found {getattr(self, name)}")

    @property
    def classifies(self) -> bool:
        """Whether a unit trains a classifier of its own."""
        return self.classifier_weight > 0 and isinstance(self.classifier, LinearClassifier)

    @property
    def trains_head(self) -> bool:
        """Whether a unit's head takes part in its loss."""
        return self.classifier_weight > 0 or self.z == "embedding"

    @torch.no_grad()
    def targets(self, images: Tensor, labels: Tensor, classes: int) -> Targets:
        """Kernel matrices of images (n, c, h, w), averaged to input_pool, and labels (n,) in [0, classes)."""
        if not self.hsic_weight:
            nothing = images.new_zeros(())
            return Targets(nothing, nothing, labels)
        x = self.hsic.kernel(pooled([images], self.input_pool).flatten(1))
        return Targets(self.hsic.prepare(x), self.hsic.prepare(label_kernel(labels, classes)), labels)

    def __call__(self, outputs: Sequence[Tensor], to: Targets, head: UnitHead) -> Tensor:
        """The loss of a unit whose outputs are maps (n, c_j, h_j, w_j), a scalar float32 or float64."""
        maps = pooled(outputs, self.pool)
        embedding = head(maps) if self.trains_head else maps  # which nothing takes
        loss = maps.new_zeros((), dtype=torch.float32)
        if self.hsic_weight:
            z = rows(pooled([maps], self.grid)) if self.z == "features" else embedding
            loss = loss + self.hsic_weight * self.hsic(z, to)
        if self.classifier_weight:
            counting = (to.class_weights, to.label_smoothing)
            loss = loss + self.classifier_weight * self.classifier(embedding, to.labels, head, *counting)
        return loss
