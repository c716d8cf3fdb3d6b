"""What a unit minimises, against cfpn.hsic and formulas written out."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import hsic
from cfpn.hsic import Cosine, Gaussian, Linear
from cfpn.objectives import (
    CKA,
    CLASSES,
    ClassMeans,
    DebiasedCKA,
    Dependence,
    Eq4,
    Head,
    LinearClassifier,
    NoDependence,
    NormalisedHSIC,
    Objective,
    References,
    SimilarityMatching,
    UnitHead,
    pooled,
    rows,
)

N = 12
HSIC = {Eq4: hsic.hsic_biased, NormalisedHSIC: hsic.hsic_normalised, CKA: hsic.cka, DebiasedCKA: hsic.debiased_cka}
MEASURES: list[Dependence] = [kind(kernel=k) for kind in HSIC for k in (Gaussian(sigma=1.0), Cosine(), Linear())]
EVERY: list[Dependence] = [*MEASURES, SimilarityMatching()]
every_dependence = pytest.mark.parametrize("dependence", EVERY, ids=lambda d: f"{d.name}-{d.kernel.name}")
every_measure = pytest.mark.parametrize("dependence", MEASURES, ids=lambda d: f"{d.name}-{d.kernel.name}")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images() -> Tensor:
    return draw(N, 1, 16, 16, seed=1)


def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 6, 0, 1, 2, 0, 0, 1])


def outputs() -> list[Tensor]:
    """Maps of two sizes, as an unfused unit hands them on, with some of the labels in them."""
    large, small = draw(N, 6, 8, 8, seed=2), draw(N, 4, 4, 4, seed=3)
    return [(large + labels()[:, None, None, None] * draw(6, 8, 8, seed=4)).requires_grad_(), small.requires_grad_()]


def head(how: Head, seed: int = 0) -> UnitHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = UnitHead(how, 10, 4, CLASSES)
        torch.nn.init.normal_(result.classifier.weight)
    return result


def small(**fields: object) -> Objective:
    return Objective(**{"head": Head(hidden=1, width=5)} | fields)


def loss(objective: Objective, maps: list[Tensor], of: UnitHead | None = None, depth: float = 0.0) -> Tensor:
    return objective(maps, objective.references(images(), labels()), of or head(objective.head), depth)


def averaged(maps: list[Tensor], size: int) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(x, size) for x in maps], 1)


def z_of(maps: list[Tensor], size: int) -> Tensor:
    return averaged(maps, size).permute(0, 2, 3, 1).flatten(1)


def label_matrix(balanced: bool = False) -> Tensor:
    one_hot = F.one_hot(labels(), CLASSES).float()
    weight = 1 / one_hot.sum(0).clamp_min(1) if balanced else torch.ones(CLASSES)
    return one_hot @ torch.diag(weight) @ one_hot.T


@pytest.mark.parametrize("balanced", [False, True])
def test_eq4_is_the_papers_formula_with_explicit_centring_matrices(balanced: bool) -> None:
    z, x = draw(N, 9).double(), images().flatten(1).double()

    def gaussian(rows: Tensor) -> Tensor:
        return torch.exp(-(rows[:, None] - rows[None]).square().sum(2) / (2 * 25 * rows.shape[1]))

    h = torch.eye(N, dtype=torch.float64) - 1 / N
    kz, kx, ky = gaussian(z), gaussian(x), label_matrix(balanced).double()
    expected = torch.trace(kz @ h @ kx @ h) / (N - 1) - 100 * torch.trace(kz @ h @ ky @ h) / (N - 1)
    how = Eq4(balanced=balanced)
    references = Objective(dependence=how, input_pool=0).references(images().double(), labels())
    torch.testing.assert_close(how(z, references, 1.0), expected, rtol=1e-5, atol=1e-6)


@every_measure
@pytest.mark.parametrize("balanced", [False, True])
def test_values_are_those_of_cfpn_hsic(dependence: Dependence, balanced: bool) -> None:
    dependence = replace(dependence, balanced=balanced)
    z, measure = draw(N, 9), HSIC[type(dependence)]
    references = Objective(dependence=dependence, input_pool=4).references(images(), labels())
    kx = dependence.kernel(F.adaptive_avg_pool2d(images(), 4).flatten(1))
    expected = measure(dependence.kernel(z), kx), measure(dependence.kernel(z), label_matrix(balanced))
    torch.testing.assert_close(dependence.values(z, references), expected, rtol=1e-4, atol=1e-5)


@every_measure
@pytest.mark.parametrize("x", [1.0, 0.25, -2.0])
def test_the_loss_weighs_the_two_values_as_stated(dependence: Dependence, x: float) -> None:
    dependence = replace(dependence, beta=10.0)
    references = Objective(dependence=dependence).references(images(), labels())
    zx, zy = dependence.values(draw(N, 9), references)
    expected = x * zx - 10 * zy if isinstance(dependence, Eq4) else x * zx / 10 - zy
    torch.testing.assert_close(dependence(draw(N, 9), references, x), expected)


def test_similarity_matching_is_the_mean_squared_difference_of_similarities() -> None:
    z = draw(N, 9)
    references = Objective(dependence=SimilarityMatching()).references(images(), labels())
    rows = z - z.mean(0)
    similar = F.cosine_similarity(rows[:, None], rows[None], dim=2)
    expected = (similar - label_matrix()).square().mean()
    torch.testing.assert_close(SimilarityMatching()(z, references, 1.0), expected)


@every_dependence
def test_an_objective_is_the_weighted_dependence_of_pooled_features_and_cross_entropy(dependence: Dependence) -> None:
    objective, maps = small(dependence=dependence, weight=0.3, cross_entropy=0.7, grid=2), outputs()
    references, of = objective.references(images(), labels()), head(objective.head)
    ce = F.cross_entropy(of.classifier(of(averaged(maps, 4))), labels())
    expected = 0.3 * dependence(z_of(maps, 2), references, 1.0) + 0.7 * ce
    torch.testing.assert_close(loss(objective, maps), expected)


@every_dependence
def test_its_gradient_reaches_every_map_of_the_unit(dependence: Dependence) -> None:
    maps = outputs()
    loss(small(dependence=dependence, cross_entropy=0.0), maps).backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in maps)


@every_dependence
def test_without_cross_entropy_a_head_has_no_gradient(dependence: Dependence) -> None:
    of = head(Head(1, 5))
    loss(small(dependence=dependence, cross_entropy=0.0), outputs(), of).backward()
    assert all(p.grad is None for p in of.parameters())


def test_on_the_embedding_without_cross_entropy_only_the_classifier_has_no_gradient() -> None:
    of = head(Head(1, 5))
    loss(small(cross_entropy=0.0, z="embedding"), outputs(), of).backward()
    assert all(p.grad is None for p in of.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in of.trunk.parameters())


def test_on_the_embedding_z_is_what_the_head_makes_of_the_features() -> None:
    objective, maps = small(cross_entropy=0.0, weight=1.0, z="embedding"), outputs()
    references = objective.references(images(), labels())
    expected = objective.dependence(head(objective.head)(averaged(maps, 4)), references, 1.0)
    torch.testing.assert_close(loss(objective, maps), expected)


def test_without_a_dependence_only_cross_entropy_is_left() -> None:
    objective, maps = small(dependence=NoDependence(), cross_entropy=0.5), outputs()
    of = head(objective.head)
    torch.testing.assert_close(
        loss(objective, maps), 0.5 * F.cross_entropy(of.classifier(of(averaged(maps, 4))), labels())
    )


@pytest.mark.parametrize("nothing", [{"dependence": NoDependence()}, {"weight": 0.0}], ids=str)
def test_an_objective_of_nothing_is_refused(nothing: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="nothing to minimise"):
        Objective(**nothing, cross_entropy=0.0)


@pytest.mark.parametrize(("depth", "x"), [(0.0, -0.5), (0.5, 0.25), (1.0, 1.0)])
def test_the_x_term_goes_linearly_from_first_to_last_unit(depth: float, x: float) -> None:
    dependence, maps = DebiasedCKA(beta=2.0), outputs()
    objective = small(dependence=dependence, weight=1.0, cross_entropy=0.0, grid=4, x_first=-0.5, x_last=1.0)
    expected = dependence(z_of(maps, 4), objective.references(images(), labels()), x)
    torch.testing.assert_close(loss(objective, maps, depth=depth), expected)


def test_a_balanced_label_kernel_has_rows_of_one_sum_whatever_the_class() -> None:
    for balanced, sums in ((True, [1, 1, 1, 1, 1, 1]), (False, [4, 3, 2, 1, 1, 1])):
        references = Objective(dependence=SimilarityMatching(balanced=balanced)).references(images(), labels())
        assert references.y.sum(1)[[0, 1, 2, 3, 4, 5]].tolist() == pytest.approx(sums)


def naive_class_means(z: Tensor, of: list[int], temperature: float) -> float:
    """The loss face by face, in float64; a face without another of its class does not count."""
    z = z.double() - z.double().mean(0)
    found = []
    for i, own in enumerate(of):
        others = {c: [j for j in range(len(of)) if j != i and of[j] == c] for c in range(CLASSES)}
        logits = {
            c: math.log(len(js)) + F.cosine_similarity(z[i], z[js], dim=1).mean().item() / temperature
            for c, js in others.items()
            if js
        }
        if own in logits:
            found.append(math.log(sum(math.exp(v) for v in logits.values())) - logits[own])
    return sum(found) / len(found)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("of", [labels().tolist(), [0, 0, 1, 2], [5] * 6], ids=str)
def test_class_means_are_a_softmax_over_mean_similarities_to_other_faces(of: list[int], temperature: float) -> None:
    z = draw(len(of), 9)
    found = ClassMeans(temperature=temperature)(z, torch.tensor(of), head(Head(1, 5)))
    assert found.item() == pytest.approx(naive_class_means(z, of, temperature), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("of", [labels().tolist(), [0, 1, 2, 3]], ids=["with company", "all alone"])
def test_class_means_have_finite_gradients_and_none_where_every_face_is_alone(of: list[int]) -> None:
    z = draw(len(of), 9).requires_grad_()
    ClassMeans()(z, torch.tensor(of), head(Head(1, 5))).backward()
    assert z.grad.isfinite().all()
    assert bool(z.grad.abs().sum() > 0) == (len(set(of)) < len(of))


def test_the_gradient_of_class_means_is_that_of_finite_differences() -> None:
    z = draw(8, 3).double().requires_grad_()
    of = torch.tensor([0, 0, 1, 1, 1, 2, 2, 6])
    assert torch.autograd.gradcheck(lambda z: ClassMeans()(z, of, head(Head(1, 5))), z)


def test_class_means_train_all_of_a_head_but_its_classifier() -> None:
    of = head(Head(1, 5))
    loss(small(cross_entropy=1.0, classifier=ClassMeans()), outputs(), of).backward()
    assert all(p.grad is None for p in of.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in of.trunk.parameters())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected more than 0"):
        ClassMeans(temperature=temperature)


def test_references_carry_no_gradient_and_keep_the_labels() -> None:
    references = Objective().references(images().requires_grad_(), labels())
    assert not references.x.requires_grad
    assert torch.equal(references.labels, labels())


@every_dependence
def test_bfloat16_autocast_stays_close_to_float32(dependence: Dependence) -> None:
    """Kernels and estimators run in float32 whatever the features' precision, in the backward pass too."""
    objective = small(dependence=dependence, cross_entropy=0.0, weight=1.0)
    maps = [x.detach().bfloat16() for x in outputs()]
    exact, low = ([x.to(kind, copy=True).requires_grad_() for x in maps] for kind in (torch.float32, torch.bfloat16))
    expected = loss(objective, exact)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(objective, low)
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    for a, b in zip(low, exact, strict=True):
        assert (a.grad.float() - b.grad).norm() <= 0.03 * b.grad.norm() + 1e-5


@pytest.mark.parametrize("classifier", [LinearClassifier(), ClassMeans()], ids=lambda c: c.name)
def test_bfloat16_cross_entropy_stays_close_to_float32(classifier: LinearClassifier | ClassMeans) -> None:
    objective = small(dependence=NoDependence(), cross_entropy=1.0, classifier=classifier)
    maps = outputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(objective, maps)
    torch.testing.assert_close(found, loss(objective, maps), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("hidden", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_head_takes_maps_of_any_size_and_starts_undecided(hidden: int, size: int) -> None:
    of = UnitHead(Head(hidden, 5), 10, size, CLASSES)
    embedding = of(draw(N, 10, size, size))
    assert embedding.shape == (N, (5 if hidden else 10) * min(2, size) ** 2)
    assert torch.equal(of.classifier(embedding), torch.zeros(N, CLASSES))
    pointwise = [layer for layer in of.trunk if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)]
    assert len(pointwise) == hidden


def test_a_linear_head_is_linear_in_normalised_pooled_features() -> None:
    x = draw(N, 10, 4, 4)
    found = head(Head(hidden=0))(x)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1))


@pytest.mark.parametrize("pool", [0, 2, 4, 6])
@pytest.mark.parametrize("grid", [0, 1, 2, 4])
def test_features_are_averaged_to_pool_and_then_to_grid_as_far_as_they_are_larger(pool: int, grid: int) -> None:
    objective, maps = small(cross_entropy=0.0, weight=1.0, pool=pool, grid=grid), outputs()
    side = min(pool or 4, 4)
    z = z_of([averaged(maps, side)], min(grid or side, side))
    expected = objective.dependence(z, objective.references(images(), labels()), 1.0)
    torch.testing.assert_close(loss(objective, maps), expected)


@pytest.mark.parametrize(("side", "size"), [(8, 2), (8, 3), (7, 3), (7, 7), (6, 4), (5, 1)])
def test_pooling_is_adaptive_average_pooling(side: int, size: int) -> None:
    x = draw(2, 3, side, side)
    torch.testing.assert_close(pooled([x], size), F.adaptive_avg_pool2d(x, size))


def test_pooling_averages_to_the_size_asked_for_or_to_the_smallest_map() -> None:
    maps = [draw(2, 3, 8, 8), draw(2, 2, 4, 4)]
    halves = maps[0].view(2, 3, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(pooled(maps, 0), torch.cat([halves, maps[1]], 1))
    torch.testing.assert_close(pooled(maps, 6), pooled(maps, 4))
    torch.testing.assert_close(pooled(maps, 1), torch.cat([x.mean((2, 3), keepdim=True) for x in maps], 1))
    assert torch.equal(pooled(maps[:1], 0), maps[0])


def test_no_dependence_costs_no_kernel() -> None:
    references = Objective(dependence=NoDependence()).references(images(), labels())
    assert isinstance(references, References)
    assert references.x.numel() == references.y.numel() == 1


def test_rows_of_channels_last_maps_and_their_gradients_are_never_copied() -> None:
    maps = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = rows(maps)
    assert found.data_ptr() == maps.data_ptr()
    (gradient,) = torch.autograd.grad(found.square().sum(), maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.stack([maps[:, :, i, j] for i in range(3) for j in range(3)], 1).flatten(1))
