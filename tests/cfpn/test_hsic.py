"""HSIC against sums over index tuples, dcor, closed forms and finite differences."""
# ruff: noqa: E741  (k, l: the two kernel matrices)

import math
from collections.abc import Callable
from importlib import import_module
from itertools import permutations, product
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from cfpn.hsic import (
    Cosine,
    Gaussian,
    Kernel,
    Linear,
    centred,
    centred_unbiased,
    cka,
    cka_centred,
    debiased_cka,
    hsic_biased,
    hsic_normalised,
    hsic_unbiased,
    label_kernel,
    resolvent,
    squared_distances,
)

Estimator = Callable[[Tensor, Tensor], Tensor]
MEDIAN = Gaussian(sigma=1.0, bandwidth="median")
KERNELS: list[Kernel] = [Gaussian(), Gaussian(sigma=2.0, bandwidth="fixed"), MEDIAN, Linear(), Cosine()]
ESTIMATORS: list[Estimator] = [hsic_biased, hsic_unbiased, hsic_normalised, cka, debiased_cka]


def name_of(kernel: Kernel) -> str:
    return "-".join(map(str, vars(kernel).values()))


every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=name_of)
# The median width is a constant to the gradient but not to finite differences; it has a test of its own.
differentiable_kernel = pytest.mark.parametrize("kernel", [k for k in KERNELS if k != MEDIAN], ids=name_of)
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.__name__)


@pytest.fixture(scope="module")
def dcor() -> ModuleType:
    # Importing it (through numba) raises the number of threads of torch, which makes tiny operations very slow.
    threads = torch.get_num_threads()
    # Numba takes half a minute to compile what these tests call on a dozen rows.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_DISABLE_JIT", "1")
        # The variable does not reach this one, which would then compile calls of functions that are not compiled.
        patch.setattr("numba.guvectorize", lambda *_, **__: lambda function: function)
        module = import_module("dcor")
    torch.set_num_threads(threads)
    return module


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def draw_labels(n: int, seed: int = 0) -> Tensor:
    return torch.randint(7, (n,), generator=torch.Generator().manual_seed(seed))


def linear_pair(n: int) -> tuple[Tensor, Tensor]:
    """Two dependent kernel matrices; their diagonals are far from constant, unlike those of a Gaussian kernel."""
    z = draw(n, 4)
    return Linear()(z), Linear()(z[:, :2] ** 2 + draw(n, 2, seed=1))


def mean_of(terms: list[float]) -> float:
    return sum(terms) / len(terms)


# Kernels


def test_squared_distances_are_those_of_pairs_of_rows() -> None:
    z = draw(7, 5)
    expected = (z[:, None] - z[None]).square().sum(2)
    torch.testing.assert_close(squared_distances(z), expected)


def test_squared_distances_of_duplicate_rows_far_from_the_origin_are_exactly_zero() -> None:
    z = draw(40, 1000, dtype=torch.float32).repeat(3, 1) + 100
    distances = squared_distances(z)
    same = torch.eye(40, dtype=torch.bool).repeat(3, 3)
    assert (distances[same] == 0).all() and (distances[~same] > 1000).all()
    expected = torch.cdist(z.double(), z.double()) ** 2
    torch.testing.assert_close(distances.double(), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("kernel", "width"),
    [(Gaussian(), 5 * 3**0.5), (Gaussian(sigma=0.5), 0.5 * 3**0.5), (Gaussian(sigma=2.0, bandwidth="fixed"), 2.0)],
)
def test_gaussian_width_is_sigma_or_sigma_times_root_of_features(kernel: Gaussian, width: float) -> None:
    z = draw(6, 3)
    expected = torch.exp(-(torch.cdist(z, z) ** 2) / (2 * width**2))
    torch.testing.assert_close(kernel(z), expected)


def test_gaussian_median_width_leaves_the_diagonal_out() -> None:
    z = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    # Distances 1, 4, 5; with the zeros of the diagonal the median would be 1.
    expected = torch.exp(-(torch.cdist(z, z) ** 2) / (2 * (3 * 4.0) ** 2))
    torch.testing.assert_close(Gaussian(sigma=3.0, bandwidth="median")(z), expected)


def test_gaussian_median_width_is_1_where_the_median_distance_is_0() -> None:
    z = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    expected = torch.ones(4, 4, dtype=torch.float64)
    expected[3, :3] = expected[:3, 3] = math.exp(-0.5)
    torch.testing.assert_close(Gaussian(sigma=1.0, bandwidth="median")(z), expected)


def test_gaussian_median_width_carries_no_gradient() -> None:
    z = draw(6, 3).requires_grad_()
    median = float(torch.pdist(z.detach()).quantile(0.5, interpolation="lower"))
    weights = draw(6, 6, seed=1)
    (actual,) = torch.autograd.grad((MEDIAN(z) * weights).sum(), z)
    (expected,) = torch.autograd.grad((Gaussian(sigma=median, bandwidth="fixed")(z) * weights).sum(), z)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_gaussian_refuses_a_width_that_is_not_positive(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma > 0"):
        Gaussian(sigma=sigma)


def test_gaussian_refuses_an_unknown_bandwidth() -> None:
    with pytest.raises(ValueError, match="'mean'"):
        Gaussian(bandwidth="mean")  # type: ignore[arg-type]


def test_linear_kernel_is_the_inner_product() -> None:
    z = draw(5, 3)
    torch.testing.assert_close(Linear()(z), torch.einsum("if,jf->ij", z, z))


def test_cosine_kernel_is_the_correlation_of_rows_seen_from_the_batch_mean() -> None:
    z = draw(6, 4) + 10
    rows = z - z.mean(0)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    torch.testing.assert_close(Cosine()(z), expected)


def test_cosine_kernel_of_a_row_at_the_batch_mean_is_zero_with_zero_gradient() -> None:
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0], [-1.0, -2.0], [0.0, 0.0]], requires_grad=True)
    k = Cosine()(z)
    assert (k[0] == 0).all() and (k[:, 3] == 0).all()
    k[0].sum().backward()
    assert (z.grad == 0).all()


def test_cosine_kernel_does_not_blow_up_rounding_errors_of_constant_rows() -> None:
    # Rows equal but for the mean, which is not exact in float32; one float of difference between rows is noise too.
    z = draw(1, 300, dtype=torch.float32).repeat(257, 1) + 33.3
    assert (z - z.mean(0)).abs().max() > 0
    z[0] = torch.nextafter(z[0], z[0] + 1)
    assert (Cosine()(z) == 0).all()


@every_kernel
def test_kernel_matrix_does_not_depend_on_the_order_of_features(kernel: Kernel) -> None:
    z = draw(6, 5)
    torch.testing.assert_close(kernel(z[:, [3, 1, 4, 0, 2]]), kernel(z))


@differentiable_kernel
def test_kernel_gradient_agrees_with_finite_differences(kernel: Kernel) -> None:
    assert torch.autograd.gradcheck(kernel, draw(5, 3).requires_grad_())


def test_label_kernel_is_one_for_equal_labels() -> None:
    expected = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
    torch.testing.assert_close(label_kernel(torch.tensor([2, 0, 2]), 3), expected)


@pytest.mark.parametrize("label", [-1, 7])
def test_label_kernel_refuses_a_label_outside_the_classes(label: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.6"):
        label_kernel(torch.tensor([0, label, 3]), 7)


# Estimators against independent references


def test_biased_hsic_is_eq_2_over_all_index_tuples_scaled_as_eq_3_prints_it() -> None:
    n = 7
    k, l = linear_pair(n)
    pairs = mean_of([float(k[i, j] * l[i, j]) for i, j in product(range(n), repeat=2)])
    quadruples = mean_of([float(k[i, j] * l[q, r]) for i, j, q, r in product(range(n), repeat=4)])
    triples = mean_of([float(k[i, j] * l[i, q]) for i, j, q in product(range(n), repeat=3)])
    expected = (pairs + quadruples - 2 * triples) * n**2 / (n - 1)
    assert float(hsic_biased(k, l)) == pytest.approx(expected, rel=1e-10)


def test_unbiased_hsic_is_eq_2_over_all_tuples_of_different_indices() -> None:
    n = 7
    k, l = linear_pair(n)
    pairs = mean_of([float(k[i, j] * l[i, j]) for i, j in permutations(range(n), 2)])
    quadruples = mean_of([float(k[i, j] * l[q, r]) for i, j, q, r in permutations(range(n), 4)])
    triples = mean_of([float(k[i, j] * l[i, q]) for i, j, q in permutations(range(n), 3)])
    assert float(hsic_unbiased(k, l)) == pytest.approx(pairs + quadruples - 2 * triples, rel=1e-10)


def test_biased_hsic_is_the_trace_of_eq_3() -> None:
    k, l = (matrix.numpy() for matrix in linear_pair(9))
    h = np.eye(9) - 1 / 9
    expected = np.trace(k @ h @ l @ h) / 8
    assert float(hsic_biased(torch.from_numpy(k), torch.from_numpy(l))) == pytest.approx(expected, rel=1e-10)


def test_biased_hsic_agrees_with_dcor(dcor: ModuleType) -> None:
    k, l = linear_pair(11)
    expected = dcor.mean_product(dcor.double_centered(k.numpy()), dcor.double_centered(l.numpy())) * 11**2 / 10
    assert float(hsic_biased(k, l)) == pytest.approx(expected, rel=1e-10)


def test_unbiased_hsic_agrees_with_dcor(dcor: ModuleType) -> None:
    k, l = (matrix.numpy() for matrix in linear_pair(11))
    u, v = (dcor.u_centered(matrix - np.diag(np.diag(matrix))) for matrix in (k, l))
    assert float(hsic_unbiased(torch.from_numpy(k), torch.from_numpy(l))) == pytest.approx(
        dcor.u_product(u, v), rel=1e-10
    )
    torch.testing.assert_close(centred_unbiased(torch.from_numpy(k)), torch.from_numpy(u))


def test_debiased_cka_of_distances_is_dcors_bias_corrected_distance_correlation(dcor: ModuleType) -> None:
    z, x = draw(12, 3), draw(12, 2, seed=1)
    x = x + z[:, :2]
    expected = dcor.u_distance_correlation_sqr(z.numpy(), x.numpy())
    assert float(debiased_cka(torch.cdist(z, z), torch.cdist(x, x))) == pytest.approx(expected, rel=1e-8)


def test_linear_cka_is_that_of_feature_covariances() -> None:
    z, x = draw(10, 4), draw(10, 3, seed=1)
    a, b = z - z.mean(0), x - x.mean(0)
    expected = (a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    torch.testing.assert_close(cka(Linear()(z), Linear()(x)), expected)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_normalised_hsic_is_the_printed_product_with_inverses(epsilon: float) -> None:
    n = 9
    k, l = Gaussian(sigma=0.7)(draw(n, 4)), Gaussian(sigma=0.7)(draw(n, 3, seed=1))
    h = np.eye(n) - 1 / n
    left, right = (m @ h @ np.linalg.inv(m @ h + epsilon * n * np.eye(n)) for m in (k.numpy(), l.numpy()))
    assert float(hsic_normalised(k, l, epsilon)) == pytest.approx(np.trace(left @ right), rel=1e-8)


@every_estimator
@differentiable_kernel
def test_gradient_agrees_with_finite_differences(kernel: Kernel, estimator: Estimator) -> None:
    def of_both(z: Tensor) -> Tensor:
        return estimator(kernel(z[:, :3]), kernel(z[:, 3:]))

    assert torch.autograd.gradcheck(of_both, draw(6, 5).requires_grad_(), atol=1e-5, rtol=1e-3)


# Properties


@every_estimator
@every_kernel
def test_value_does_not_depend_on_the_order_of_samples(kernel: Kernel, estimator: Estimator) -> None:
    z, labels = draw(12, 5), draw_labels(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    expected = estimator(kernel(z), label_kernel(labels, 7).double())
    actual = estimator(kernel(z[order]), label_kernel(labels[order], 7).double())
    torch.testing.assert_close(actual, expected)


@every_estimator
def test_value_is_symmetric_in_its_arguments(estimator: Estimator) -> None:
    k, l = linear_pair(8)
    torch.testing.assert_close(estimator(k, l), estimator(l, k))


@pytest.mark.parametrize("alignment", [cka, debiased_cka])
@every_kernel
def test_alignment_of_a_matrix_with_itself_is_one(alignment: Estimator, kernel: Kernel) -> None:
    k = kernel(draw(9, 5))
    assert float(alignment(k, k)) == pytest.approx(1.0)


@pytest.mark.parametrize("alignment", [cka, debiased_cka])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_alignment_and_relative_gradient_do_not_depend_on_the_scale_of_a_kernel(
    alignment: Estimator, scale: float
) -> None:
    k, l = (matrix.float() for matrix in linear_pair(8))
    small, large = k.clone().requires_grad_(), (k * scale).requires_grad_()
    expected, actual = alignment(small, l), alignment(large, l)
    torch.testing.assert_close(actual, expected)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(large.grad * scale, small.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", [hsic_unbiased, debiased_cka])
def test_unbiased_value_ignores_the_diagonal_and_an_added_constant(estimator: Estimator) -> None:
    k, l = linear_pair(8)
    torch.testing.assert_close(estimator(k + torch.diag(draw(8, seed=5)) * 100 + 3, l - 7), estimator(k, l))


@pytest.mark.parametrize("kernel", [Gaussian(), Linear(), Cosine()], ids=lambda kernel: kernel.name)
def test_unbiased_values_are_zero_on_average_for_independent_samples(kernel: Kernel) -> None:
    draws, n = 200, 16
    batches, labels = draw(draws, n, 6), draw_labels(draws * n).view(draws, n)
    pairs = [(kernel(z), label_kernel(y, 7)) for z, y in zip(batches, labels, strict=True)]
    for estimator in (hsic_unbiased, debiased_cka):
        values = torch.stack([estimator(k, l) for k, l in pairs])
        assert abs(float(values.mean())) < 4 * float(values.std()) / draws**0.5


def test_biased_alignment_of_independent_samples_is_far_above_zero() -> None:
    k, l = Cosine()(draw(64, 256)), label_kernel(draw_labels(64), 7)
    assert float(cka(k, l)) > 0.2
    assert abs(float(debiased_cka(k, l))) < 0.05


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_normalised_hsic_lies_between_zero_and_the_batch_size(scale: float) -> None:
    z = draw(64, 16, dtype=torch.float32) * scale
    for kernel in KERNELS:
        k = kernel(z)
        assert 0 < float(hsic_normalised(k, k)) < 64


def test_parts_of_one_matrix_computed_once_give_the_same_values() -> None:
    k, l = linear_pair(8)
    torch.testing.assert_close((resolvent(k) * resolvent(l)).sum(), hsic_normalised(k, l))
    torch.testing.assert_close(cka_centred(centred(k), centred(l)), cka(k, l))
    torch.testing.assert_close(cka_centred(centred_unbiased(k), centred_unbiased(l)), debiased_cka(k, l))


def test_rows_of_centred_matrices_sum_to_zero() -> None:
    k, _ = linear_pair(8)
    for c in (centred(k), centred_unbiased(k)):
        torch.testing.assert_close(c.sum(0), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", [hsic_unbiased, debiased_cka, lambda k, _: centred_unbiased(k)])
def test_unbiased_estimators_refuse_fewer_than_four_samples(estimator: Estimator) -> None:
    k, l = linear_pair(3)
    with pytest.raises(ValueError, match="at least 4, not 3"):
        estimator(k, l)


def test_biased_hsic_refuses_a_single_sample() -> None:
    with pytest.raises(ValueError, match="at least 2, not 1"):
        hsic_biased(torch.ones(1, 1), torch.ones(1, 1))


# Degenerate batches


def value_and_gradient(kernel: Kernel, estimator: Estimator, z: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    value = estimator(kernel(z), l)
    value.backward()
    return value.detach(), z.grad


DEGENERATE = {
    "duplicate rows": draw(4, 64, dtype=torch.float32)[[0, 0, 0, 1, 2, 3, 3, 3]],
    "nearly all rows equal": draw(2, 64, dtype=torch.float32)[[0, 0, 0, 0, 0, 0, 0, 1]],
    "batch of 4": draw(4, 64, dtype=torch.float32),
    "one feature": draw(8, 1, dtype=torch.float32),
    "some zero rows": draw(8, 64, dtype=torch.float32) * torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])[:, None],
    "far from the origin": draw(8, 64, dtype=torch.float32) + 1000,
    "tiny": draw(8, 64, dtype=torch.float32) * 1e-18,
    "huge": draw(8, 64, dtype=torch.float32) * 1e8,
}


@pytest.mark.parametrize("z", DEGENERATE.values(), ids=DEGENERATE.keys())
@every_estimator
@every_kernel
def test_value_and_gradient_are_finite(kernel: Kernel, estimator: Estimator, z: Tensor) -> None:
    value, gradient = value_and_gradient(kernel, estimator, z, label_kernel(torch.arange(len(z)) % 3, 7))
    assert value.isfinite() and gradient.isfinite().all()


CONSTANT = {
    "zero": torch.zeros(8, 64),
    "one": torch.ones(8, 64),
    # Numbers whose mean over the batch is not exact in float32.
    "inexact": draw(1, 64, dtype=torch.float32).expand(11, 64) * 5.3,
    "large batch": draw(1, 300, dtype=torch.float32).expand(257, 300) + 33.3,
}


@pytest.mark.parametrize("z", CONSTANT.values(), ids=CONSTANT.keys())
@every_estimator
@every_kernel
def test_constant_features_depend_on_nothing_and_carry_no_gradient(
    kernel: Kernel, estimator: Estimator, z: Tensor
) -> None:
    value, gradient = value_and_gradient(kernel, estimator, z, label_kernel(torch.arange(len(z)) % 3, 7))
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("n", [4, 7, 128])
@every_estimator
@every_kernel
def test_a_batch_of_one_class_gives_zero_and_no_gradient(kernel: Kernel, estimator: Estimator, n: int) -> None:
    l = label_kernel(torch.full((n,), 3), 7)
    value, gradient = value_and_gradient(kernel, estimator, draw(n, 16, dtype=torch.float32), l)
    assert value == 0 and (gradient == 0).all()


@pytest.mark.parametrize("estimator", [hsic_biased, hsic_unbiased, cka, debiased_cka])
@every_kernel
def test_a_nan_among_the_features_is_not_hidden(kernel: Kernel, estimator: Estimator) -> None:
    z = draw(8, 4, dtype=torch.float32)
    z[2, 1] = float("nan")
    assert estimator(kernel(z), label_kernel(torch.arange(8) % 3, 7)).isnan()


# Precision


@every_estimator
@every_kernel
def test_float32_agrees_with_float64_at_the_sizes_of_training(kernel: Kernel, estimator: Estimator) -> None:
    z = draw(128, 1024).relu()
    l = label_kernel(draw_labels(128), 7)
    torch.testing.assert_close(estimator(kernel(z.float()), l).double(), estimator(kernel(z), l), rtol=2e-3, atol=2e-4)


@every_estimator
@every_kernel
def test_autocast_changes_neither_value_nor_gradient(kernel: Kernel, estimator: Estimator) -> None:
    z, l = draw(16, 40, dtype=torch.float32).requires_grad_(), label_kernel(draw_labels(16), 7)
    with torch.autocast("cpu", torch.bfloat16):
        value = estimator(kernel(z), l)
    (gradient,) = torch.autograd.grad(value, z)
    assert value.dtype == torch.float32
    expected = value_and_gradient(kernel, estimator, z.detach(), l)
    torch.testing.assert_close((value.detach(), gradient), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_kernel
def test_half_precision_features_are_computed_in_float32(kernel: Kernel, dtype: torch.dtype) -> None:
    z = draw(8, 20).to(dtype)
    k = kernel(z)
    assert k.dtype == torch.float32
    torch.testing.assert_close(k, kernel(z.float()), rtol=0, atol=0)


@every_kernel
def test_kernel_keeps_float64(kernel: Kernel) -> None:
    assert kernel(draw(5, 3)).dtype == torch.float64
