"""The auxiliary network of a hidden unit, and what turns its embedding into the loss of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn.hsic import Cosine

IGNORED = -100  # label of a face that does not count


@dataclass(frozen=True)
class Head:
    """The auxiliary network of a hidden unit: `hidden` convolutions of `width` maps, the first 1x1, the others 3x3.

    The 3x3 ones are separable. After them (hidden 0: after a batch norm) the maps are averaged to 2x2: the embedding.
    A classifier takes the embedding. Raises ValueError for other numbers.
    """

    hidden: int = 2
    width: int = 128

    def __post_init__(self) -> None:
        for name, least in (("hidden", 0), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"head.{name}: expected {least} or more, found {getattr(self, name)}")


@dataclass(frozen=True)
class LinearClassifier:
    """Logits W e + b of an embedding e, trained with the unit's head (Belilovsky et al., ICML 2019)."""

    name: Literal["linear"] = "linear"

    def __call__(
        self, embedding: Tensor, labels: Tensor, head: "UnitHead",
        class_weights: Tensor | None = None, label_smoothing: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Mean cross-entropy of the head's classifier on embeddings (n, d) with labels (n,); see `cross_entropy`."""
        return cross_entropy(head.classifier(embedding), labels, class_weights, label_smoothing)


@dataclass(frozen=True)
class ClassMeans:
    """Nothing trained: logits are an embedding's mean cosine similarity to each class of its batch, and log priors.

    The means are those that HSIC(Z,Y) adds up. Here each face meets them without itself, in a softmax (as the
    prototypes of Snell, Swersky, Zemel: Prototypical Networks, NeurIPS 2017). temperature > 0 divides similarities.
    """

    name: Literal["class_means"] = "class_means"
    temperature: float = 0.2

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"classifier.temperature: expected more than 0, found {self.temperature}")

    def __call__(
        self, embedding: Tensor, labels: Tensor, head: "UnitHead",
        class_weights: Tensor | None = None, label_smoothing: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Mean cross-entropy of embeddings (n, d) with labels (n,); a face alone in its class does not count.

        class_weights: (classes,), by which the terms of the faces are multiplied. label_smoothing: without
        effect, since a class that is absent from the batch has no logit.
        """
        similarity = Cosine()(embedding)
        classes = F.one_hot(labels, head.classifier.out_features).to(similarity.dtype)
        others = classes.sum(0) - classes
        with torch.autocast(embedding.device.type, enabled=False):
            sums = similarity.fill_diagonal_(0.0) @ classes
        logits = sums / others.clamp_min(1.0) / self.temperature + others.log()
        alone = others.gather(1, labels[:, None])[:, 0] == 0
        counted = labels.masked_fill(alone, IGNORED)
        weights = None if class_weights is None else class_weights.to(logits.dtype)
        loss = F.cross_entropy(logits, counted, weights, ignore_index=IGNORED, reduction="sum")
        return loss / (~alone).sum().clamp_min(1)


def cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy of logits (n, classes) with labels (n,), in float32 at least.

    class_weights: (classes,), by which the terms of the faces are multiplied, each by that of its label. The sum is
    divided by n, not by the sum of the weights in the batch as in torch: so every batch counts each class as much as
    the whole data say. label_smoothing, in [0, 1): the part of a label that is spread over all classes (Szegedy et
    al., CVPR 2016).
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    weights = class_weights.to(logits.dtype)
    if not label_smoothing:
        return F.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)
    # torch would weigh the part of each class, not the face: most of a frequent class's label would go to rare ones.
    terms = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return (weights[labels] * terms).mean()


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (classes,) float32 that let all classes of labels (n,) count the same; their mean over the faces is 1."""
    counts = labels.bincount(minlength=classes)
    return len(labels) / (counts.count_nonzero() * counts.clamp_min(1)).float()


class UnitHead(nn.Module):
    """The auxiliary network of `Head`: maps (n, channels, h, w), h = w = size, to an embedding (n, d)."""

    def __init__(self, how: Head, channels: int, size: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [] if how.hidden else [nn.BatchNorm2d(channels)]
        for i in range(how.hidden):
            if i:
                layers.append(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False))
            layers += [nn.Conv2d(channels, how.width, 1, bias=False), nn.BatchNorm2d(how.width), nn.ReLU(inplace=True)]
            channels = how.width
        self.size = size
        self.trunk = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * min(2, size) ** 2, classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form

    def forward(self, maps: Tensor) -> Tensor:
        return rows(pooled([self.trunk(maps)], 2))

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """Logits (n, classes) of the unit's own classifier for its outputs (n, c_j, h_j, w_j)."""
        logits: Tensor = self.classifier(self(pooled(outputs, self.size)))
        return logits


def pooled(maps: Sequence[Tensor], size: int) -> Tensor:
    """Maps (n, c_j, h_j, w_j), averaged to size x size (or to the smallest of them; 0: no averaging), as one tensor."""
    size = min([size or maps[0].shape[-1]] + [x.shape[-1] for x in maps])
    return torch.cat([_averaged(x, size) for x in maps], 1)


def rows(maps: Tensor) -> Tensor:
    """Maps (n, c, h, w) as rows (n, h w c): in this order neither they nor their gradients leave channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def _averaged(x: Tensor, size: int) -> Tensor:
    side = x.shape[-1]
    if side == size:
        return x
    # Where windows are equal, the plain operator's backward takes half the adaptive one's time.
    return F.avg_pool2d(x, side // size) if side % size == 0 else F.adaptive_avg_pool2d(x, size)
