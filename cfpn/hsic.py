"""Hilbert-Schmidt independence criterion (HSIC) of a batch: kernels, estimators and their normalised forms.

A kernel maps a batch z (l, d) to its matrix (l, l). An estimator takes two such symmetric matrices of the same batch
and returns a scalar. What depends on one matrix only is offered apart, so that it is made once per batch.
All arithmetic is float32 (float64 for float64 input), also under autocast: matrices made in bfloat16 lose all that
centring leaves. `backward` belongs outside autocast. Differences within rounding error count as zero and carry no
gradient, so that a constant feature map or a batch of one class gives 0, not noise. NaN input stays NaN.
"""
# ruff: noqa: E741  (k, l: the two kernel matrices, as in Song et al.)

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ROUNDING = 16.0  # machine epsilons: more than sums of a few thousand terms lose, less than features differ by
SHORTEST = 1e-12  # row that Cosine normalises; the third power of its inverse, in the gradient, is finite in float32


def squared_distances(z: Tensor) -> Tensor:
    """Squared Euclidean distances (l, l), >= 0, of rows of z (l, d); exactly 0, without gradient, within rounding."""
    z = _full(z)
    z = z - z.detach().mean(0)  # distances do not depend on the origin, but what cancels in the products does
    lengths = z.square().sum(1)
    sums = lengths[:, None] + lengths[None, :]
    distances = sums - 2 * _gram(z)
    noise = ROUNDING / 4 * torch.finfo(z.dtype).eps * sums.detach()
    return distances.masked_fill((distances <= noise) | _diagonal(distances), 0.0)


@dataclass(frozen=True)
class Gaussian:
    """exp(-||a - b||^2 / (2 w^2)) of rows a, b.

    w is sigma ("fixed"), sigma sqrt(d) for rows of d features ("scaled"; Ma et al., "The HSIC Bottleneck", AAAI 2020),
    or sigma times the median distance of two rows, without gradient, 1 in place of 0 ("median"). ValueError otherwise.
    """

    name: Literal["gaussian"] = "gaussian"
    sigma: float = 5.0
    bandwidth: Literal["scaled", "median", "fixed"] = "scaled"

    def __post_init__(self) -> None:
        if not self.sigma > 0 or self.bandwidth not in ("scaled", "median", "fixed"):
            raise ValueError(f"expected sigma > 0 and bandwidth scaled, median or fixed, not {self}")

    def __call__(self, z: Tensor) -> Tensor:
        """Kernel matrix (l, l) of z (l, d), values in [0, 1], float32 or z's float64."""
        distances = squared_distances(z)
        unit: Tensor | float = 1.0
        if self.bandwidth == "scaled":
            unit = z.shape[1]
        elif self.bandwidth == "median":
            median = distances.detach()[~_diagonal(distances)].median()
            unit = median.masked_fill(median <= 0, 1.0)
        return torch.exp(-distances / (2 * self.sigma**2 * unit))


@dataclass(frozen=True)
class Linear:
    """Inner product of rows."""

    name: Literal["linear"] = "linear"

    def __call__(self, z: Tensor) -> Tensor:
        """Kernel matrix (l, l) of z (l, d), float32 or z's float64."""
        return _gram(_full(z))


@dataclass(frozen=True)
class Cosine:
    """Cosine of the angle between rows, seen from the batch mean; 0 for a row equal to the mean."""

    name: Literal["cosine"] = "cosine"

    def __call__(self, z: Tensor) -> Tensor:
        """Kernel matrix (l, l) of z (l, d), values in [-1, 1], float32 or z's float64."""
        z = _full(z)
        rows = z - z.mean(0)
        square = rows.square().sum(1, keepdim=True)
        noise = (ROUNDING * torch.finfo(z.dtype).eps) ** 2 * z.detach().square().sum(1, keepdim=True)
        at_mean = square <= noise + SHORTEST**2
        return _gram(rows.masked_fill(at_mean, 0.0) * square.masked_fill(at_mean, 1.0).rsqrt())


Kernel = Gaussian | Linear | Cosine


def label_kernel(labels: Tensor, classes: int) -> Tensor:
    """Kernel matrix (l, l), float32, of class numbers (l,) in [0, classes): 1 where equal, else 0.

    Raises ValueError for other labels, but not on a GPU: no step waits.
    """
    if not labels.is_cuda and bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError(f"labels must lie in 0..{classes - 1}, not {int(labels.min())}..{int(labels.max())}")
    return (labels[:, None] == labels[None, :]).float()


def _full(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def _gram(z: Tensor) -> Tensor:
    with torch.autocast(z.device.type, enabled=False):
        return z @ z.T


def _diagonal(k: Tensor) -> Tensor:
    return torch.eye(len(k), dtype=torch.bool, device=k.device)


def _without_rounding(difference: Tensor, k: Tensor) -> Tensor:
    noise = ROUNDING * torch.finfo(k.dtype).eps * k.detach().abs().amax()
    return difference.masked_fill(difference.detach().abs().amax() <= noise, 0.0)


def centred(k: Tensor) -> Tensor:
    """H K H of a kernel matrix K (l, l), with H = I - 1/l (eq 3)."""
    return _without_rounding(k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean(), k)


def centred_unbiased(k: Tensor) -> Tensor:
    """U-centred kernel matrix (l, l): rows sum to 0, the diagonal is ignored and 0.

    Szekely & Rizzo, "Partial distance correlation", Annals of Statistics 2014. Raises ValueError if l < 4.
    """
    n = len(k)
    if n < 4:
        raise ValueError(f"the unbiased estimator needs a batch of at least 4, not {n}")
    diagonal = _diagonal(k)
    k = k.masked_fill(diagonal, 0.0)
    means = (k.sum(0, keepdim=True) + k.sum(1, keepdim=True)) / (n - 2)
    u = (k - means + k.sum() / ((n - 1) * (n - 2))).masked_fill(diagonal, 0.0)
    return _without_rounding(u, k)


def hsic_biased(k: Tensor, l: Tensor) -> Tensor:
    """(n - 1)^-1 tr(K H L H), >= 0, as eqs (3), (5), (6) print it, for kernel matrices (n, n).

    The usual estimate of eq (2) divides by (n - 1)^2; this one grows with the batch. ValueError if n < 2.
    """
    if len(k) < 2:
        raise ValueError(f"HSIC needs a batch of at least 2, not {len(k)}")
    return hsic_biased_centred(centred(k), centred(l))


def hsic_biased_centred(k: Tensor, lc: Tensor) -> Tensor:
    """(n - 1)^-1 tr(K Lc) of a kernel matrix K and a centred one Lc (n, n); K may be centred or not: tr(KHLH)."""
    return trace(k, lc) / (len(k) - 1)


def trace(k: Tensor, l: Tensor) -> Tensor:
    """tr(K L) of symmetric matrices (n, n)."""
    return (k * l).sum()


def hsic_unbiased(k: Tensor, l: Tensor) -> Tensor:
    """Unbiased estimate of eq (2), of either sign, from kernel matrices (n, n) whose diagonal it ignores.

    Song et al., "Feature Selection via Dependence Maximization", JMLR 2012. Raises ValueError if n < 4.
    """
    return trace(centred_unbiased(k), centred_unbiased(l)) / (len(k) * (len(k) - 3))


def hsic_normalised(k: Tensor, l: Tensor, epsilon: float = 1e-5) -> Tensor:
    """tr(K~ L~) in [0, n), K~ = KH (KH + epsilon n I)^-1, of kernel matrices (n, n) (Ma et al., AAAI 2020)."""
    return trace(resolvent(k, epsilon), resolvent(l, epsilon))


def resolvent(k: Tensor, epsilon: float = 1e-5) -> Tensor:
    """K~ = HKH (HKH + epsilon n I)^-1 of a kernel matrix K (n, n), the part of `hsic_normalised` due to one side."""
    kc = centred(k)
    # H K H in place of K H leaves the trace as it is and allows Cholesky; jitter outweighs rounding's negative values.
    jitter = ROUNDING * torch.finfo(kc.dtype).eps * kc.detach().trace()
    shift = (epsilon * len(kc) + jitter) * torch.eye(len(kc), dtype=kc.dtype, device=kc.device)
    return torch.cholesky_solve(kc, torch.linalg.cholesky(kc + shift))


def cka_centred(kc: Tensor, lc: Tensor) -> Tensor:
    """Cosine, in [-1, 1], of two centred or U-centred matrices (n, n); 0 with gradient 0 where one of them is 0.

    Of U-centred ones it is the debiased CKA: the factor of the unbiased estimator cancels.
    """
    # The cosine does not depend on scales, but squares of very large or small kernels leave float32.
    kc, lc = (c / c.detach().abs().amax().clamp_min(torch.finfo(c.dtype).tiny) for c in (kc, lc))
    square = kc.square().sum() * lc.square().sum()
    constant = square <= 0
    return ((kc * lc).sum() * square.masked_fill(constant, 1.0).rsqrt()).masked_fill(constant, 0.0)


def cka(k: Tensor, l: Tensor) -> Tensor:
    """Centred kernel alignment in [0, 1] (Kornblith et al., ICML 2019); far above 0 for independent wide features."""
    return cka_centred(centred(k), centred(l))


def debiased_cka(k: Tensor, l: Tensor) -> Tensor:
    """CKA in [-1, 1] from unbiased HSIC: 0 on average for independent samples. Raises ValueError if n < 4."""
    return cka_centred(centred_unbiased(k), centred_unbiased(l))
