"""What a hidden unit minimises: HSIC(Z,X) - beta HSIC(Z,Y) (eq 4) in five forms, and cross-entropy of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn import hsic
from cfpn.hsic import Cosine, Gaussian, Kernel, label_kernel

CLASSES = 7
IGNORED = -100  # label of a face that does not count


class References(NamedTuple):
    """What units are compared with, made once per batch of n faces.

    x, y: kernel matrices (n, n) of images and labels as the dependence wants them (empty where it needs none);
    labels: (n,) int64.
    """

    x: Tensor
    y: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Eq4:
    """The paper's objective as printed: HSIC(Z,X) - beta HSIC(Z,Y) with the biased estimator of eqs (5) and (6)."""

    name: Literal["eq4"] = "eq4"
    beta: float = 100.0
    kernel: Kernel = field(default_factory=Gaussian)
    balanced: bool = False

    def prepare(self, k: Tensor) -> Tensor:
        """Centred kernel matrix: tr(KHLH) = tr(K HLH)."""
        return hsic.centred(k)

    def values(self, z: Tensor, to: References) -> tuple[Tensor, Tensor]:
        """HSIC(Z,X) and HSIC(Z,Y) of Z (n, d)."""
        k = self.kernel(z)
        return (k * to.x).sum() / (len(z) - 1), (k * to.y).sum() / (len(z) - 1)

    def __call__(self, z: Tensor, to: References, x: float) -> Tensor:
        """The loss; x multiplies the first term."""
        zx, zy = self.values(z, to)
        return x * zx - self.beta * zy


@dataclass(frozen=True)
class NormalisedHSIC:
    """nHSIC(Z,X) - beta nHSIC(Z,Y) (Ma, Lewis, Kleijn: The HSIC Bottleneck, AAAI 2020)."""

    name: Literal["normalised_hsic"] = "normalised_hsic"
    beta: float = 100.0
    kernel: Kernel = field(default_factory=Gaussian)
    balanced: bool = False

    def prepare(self, k: Tensor) -> Tensor:
        """The resolvent K~ of the kernel matrix."""
        return hsic.resolvent(k)

    def values(self, z: Tensor, to: References) -> tuple[Tensor, Tensor]:
        """nHSIC(Z,X) and nHSIC(Z,Y) of Z (n, d)."""
        k = hsic.resolvent(self.kernel(z))
        return (k * to.x).sum(), (k * to.y).sum()

    def __call__(self, z: Tensor, to: References, x: float) -> Tensor:
        """The loss, divided by beta so that its size does not hang on it; x multiplies the first term."""
        zx, zy = self.values(z, to)
        return x * zx / self.beta - zy


@dataclass(frozen=True)
class CKA:
    """CKA(Z,X) / beta - CKA(Z,Y) with the biased estimator (Kornblith et al., ICML 2019)."""

    name: Literal["cka"] = "cka"
    beta: float = 100.0
    kernel: Kernel = field(default_factory=Cosine)
    balanced: bool = False

    def prepare(self, k: Tensor) -> Tensor:
        """Centred kernel matrix."""
        return hsic.centred(k)

    def values(self, z: Tensor, to: References) -> tuple[Tensor, Tensor]:
        """CKA(Z,X) and CKA(Z,Y) of Z (n, d)."""
        k = hsic.centred(self.kernel(z))
        return hsic.cka_centred(k, to.x), hsic.cka_centred(k, to.y)

    def __call__(self, z: Tensor, to: References, x: float) -> Tensor:
        """The loss; x multiplies the first term."""
        zx, zy = self.values(z, to)
        return x * zx / self.beta - zy


@dataclass(frozen=True)
class DebiasedCKA:
    """dCKA(Z,X) / beta - dCKA(Z,Y) with the unbiased estimator of Song et al. (JMLR 2012)."""

    name: Literal["debiased_cka"] = "debiased_cka"
    beta: float = 100.0
    kernel: Kernel = field(default_factory=Cosine)
    balanced: bool = False

    def prepare(self, k: Tensor) -> Tensor:
        """U-centred kernel matrix."""
        return hsic.centred_unbiased(k)

    def values(self, z: Tensor, to: References) -> tuple[Tensor, Tensor]:
        """dCKA(Z,X) and dCKA(Z,Y) of Z (n, d)."""
        k = hsic.centred_unbiased(self.kernel(z))
        return hsic.debiased_cka_centred(k, to.x), hsic.debiased_cka_centred(k, to.y)

    def __call__(self, z: Tensor, to: References, x: float) -> Tensor:
        """The loss; x multiplies the first term."""
        zx, zy = self.values(z, to)
        return x * zx / self.beta - zy


@dataclass(frozen=True)
class SimilarityMatching:
    """Mean squared difference of the cosine similarities of Z and of the labels (Nokland & Eidnes, ICML 2019)."""

    name: Literal["similarity_matching"] = "similarity_matching"
    kernel: Kernel = field(default_factory=Cosine)
    balanced: bool = False

    def prepare(self, k: Tensor) -> Tensor:
        """The kernel matrix as it is."""
        return k

    def __call__(self, z: Tensor, to: References, x: float) -> Tensor:
        """The loss; there is no first term for x to multiply."""
        return (self.kernel(z) - to.y).square().mean()


@dataclass(frozen=True)
class NoDependence:
    """No HSIC term: the control in which a unit has only its own classifier (Belilovsky et al., ICML 2019)."""

    name: Literal["none"] = "none"


Dependence = Eq4 | NormalisedHSIC | CKA | DebiasedCKA | SimilarityMatching | NoDependence


@dataclass(frozen=True)
class Head:
    """A unit's own auxiliary network: `hidden` convolutions of `width` maps, the first 1x1, the others separable 3x3.

    After them (hidden 0: after a batch norm) the maps are averaged to 2x2: the embedding, which a classifier takes.
    """

    hidden: int = 2
    width: int = 128


@dataclass(frozen=True)
class LinearClassifier:
    """Logits W e + b of an embedding e, trained with the unit's head (Belilovsky et al., ICML 2019)."""

    name: Literal["linear"] = "linear"

    def __call__(self, embedding: Tensor, labels: Tensor, head: "UnitHead") -> Tensor:
        """Mean cross-entropy of the head's classifier on embeddings (n, d) with labels (n,)."""
        return F.cross_entropy(head.classifier(embedding).float(), labels)


@dataclass(frozen=True)
class ClassMeans:
    """Nothing trained: logits are an embedding's mean cosine similarity to each class of its batch, and log priors.

    The means are those that HSIC(Z,Y) adds up; here each face meets them without itself, in a softmax (as the
    prototypes of Snell, Swersky, Zemel: Prototypical Networks, NeurIPS 2017). temperature > 0 divides similarities.
    """

    name: Literal["class_means"] = "class_means"
    temperature: float = 0.2

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"classifier.temperature: expected more than 0, found {self.temperature}")

    def __call__(self, embedding: Tensor, labels: Tensor, head: "UnitHead") -> Tensor:
        """Mean cross-entropy of embeddings (n, d) with labels (n,); a face alone in its class does not count."""
        similarity = Cosine()(embedding)
        classes = F.one_hot(labels, CLASSES).to(similarity.dtype)
        others = classes.sum(0) - classes
        with torch.autocast(embedding.device.type, enabled=False):
            sums = similarity.fill_diagonal_(0.0) @ classes
        logits = sums / others.clamp_min(1.0) / self.temperature + others.log()
        alone = others.gather(1, labels[:, None])[:, 0] == 0
        loss = F.cross_entropy(logits, labels.masked_fill(alone, IGNORED), ignore_index=IGNORED, reduction="sum")
        return loss / (~alone).sum().clamp_min(1)


@dataclass(frozen=True)
class Objective:
    """weight * dependence(Z) + cross_entropy * CE of a classifier of the unit's own.

    pool: a unit's outputs are averaged to pool x pool before anything else (0: left as they are).
    z: Z is these maps, averaged on to grid x grid (0: as they are), or the embedding of the unit's head.
    input_pool: the image is averaged to input_pool x input_pool before its kernel.
    classifier: what takes the embedding where cross_entropy is not 0.
    x_first, x_last: factor of the HSIC(Z,X) term at the first and last hidden unit, linear between; a negative one
    keeps information about X.
    """

    dependence: Dependence = field(default_factory=DebiasedCKA)
    weight: float = 0.1
    cross_entropy: float = 1.0
    z: Literal["features", "embedding"] = "features"
    pool: int = 6
    grid: int = 3
    input_pool: int = 12
    head: Head = field(default_factory=Head)
    classifier: LinearClassifier | ClassMeans = field(default_factory=LinearClassifier)
    x_first: float = 1.0
    x_last: float = 1.0

    def __post_init__(self) -> None:
        if not self.cross_entropy and (not self.weight or isinstance(self.dependence, NoDependence)):
            raise ValueError("objective: without a dependence and without cross_entropy there is nothing to minimise")

    @property
    def classifies(self) -> bool:
        """Whether a unit trains a classifier of its own."""
        return self.cross_entropy > 0 and isinstance(self.classifier, LinearClassifier)

    def references(self, images: Tensor, labels: Tensor) -> References:
        """Kernel matrices of images (n, 1, h, w), pooled to input_pool, and labels (n,)."""
        how = self.dependence
        if isinstance(how, NoDependence):
            nothing = images.new_zeros(())
            return References(nothing, nothing, labels)
        with torch.no_grad():
            x = how.prepare(how.kernel(pooled([images], self.input_pool).flatten(1)))
            return References(x, how.prepare(label_kernel(labels, CLASSES, how.balanced)), labels)

    def __call__(self, outputs: Sequence[Tensor], to: References, head: "UnitHead", depth: float) -> Tensor:
        """Loss of a unit whose outputs are maps (n, c_j, h_j, w_j); depth in [0, 1] is its place among hidden units."""
        maps = pooled(outputs, self.pool)
        embedding = head(maps) if self.cross_entropy or self.z == "embedding" else None
        loss = maps.new_zeros((), dtype=torch.float32)
        if not isinstance(self.dependence, NoDependence):
            z = rows(pooled([maps], self.grid)) if self.z == "features" else embedding
            x = self.x_first + (self.x_last - self.x_first) * depth
            loss = loss + self.weight * self.dependence(z, to, x)
        if self.cross_entropy:
            loss = loss + self.cross_entropy * self.classifier(embedding, to.labels, head)
        return loss


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
        self.to(memory_format=torch.channels_last)

    def forward(self, maps: Tensor) -> Tensor:
        return rows(pooled([self.trunk(maps)], 2))

    def logits(self, outputs: Sequence[Tensor]) -> Tensor:
        """Logits (n, classes) of the unit's own classifier for its outputs (n, c_j, h_j, w_j)."""
        return self.classifier(self(pooled(outputs, self.size)))


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
