"""What a unit minimises, against formulas written out."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn.heads import ClassMeans, Head, LinearClassifier, UnitHead
from cfpn.hsic import Cosine, Gaussian, Kernel, Linear
from cfpn.objectives import Bottleneck, LocalLoss, SimilarityMatching, Targets

N, CLASSES = 12, 7
ESTIMATORS = ["eq4", "normalised_hsic", "cka", "debiased_cka"]
Term = Bottleneck | SimilarityMatching
MEASURES = [Bottleneck(name, kernel=k) for name in ESTIMATORS for k in (Gaussian(sigma=1.0), Cosine(), Linear())]
EVERY: list[Term] = [*MEASURES, SimilarityMatching()]
every_term = pytest.mark.parametrize("term", EVERY, ids=lambda t: f"{t.estimator}-{t.kernel.name}")
every_measure = pytest.mark.parametrize("term", MEASURES, ids=lambda t: f"{t.estimator}-{t.kernel.name}")


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


def small(**fields: object) -> LocalLoss:
    return LocalLoss(**{"head": Head(hidden=1, width=5)} | fields)


def targets(how: LocalLoss) -> Targets:
    return how.targets(images(), labels(), CLASSES)


def loss(how: LocalLoss, maps: list[Tensor], of: UnitHead | None = None) -> Tensor:
    return how(maps, targets(how), of or head(how.head))


def averaged(maps: list[Tensor], size: int) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(x, size) for x in maps], 1)


def z_of(maps: list[Tensor], size: int) -> Tensor:
    return averaged(maps, size).permute(0, 2, 3, 1).flatten(1)


def label_matrix(balanced: bool = False) -> Tensor:
    one_hot = F.one_hot(labels(), CLASSES).float()
    weight = 1 / one_hot.sum(0).clamp_min(1) if balanced else torch.ones(CLASSES)
    return one_hot @ torch.diag(weight) @ one_hot.T


def test_eq4_is_the_papers_formula_with_explicit_centring_matrices() -> None:
    z, x = draw(N, 9).double(), images().flatten(1).double()

    def gaussian(rows: Tensor) -> Tensor:
        return torch.exp(-(rows[:, None] - rows[None]).square().sum(2) / (2 * 25 * rows.shape[1]))

    h = torch.eye(N, dtype=torch.float64) - 1 / N
    kz, kx, ky = gaussian(z), gaussian(x), label_matrix().double()
    expected = torch.trace(kz @ h @ kx @ h) / (N - 1) - 100 * torch.trace(kz @ h @ ky @ h) / (N - 1)
    how = Bottleneck("eq4", kernel=Gaussian())
    to = LocalLoss(how, input_pool=0).targets(images().double(), labels(), CLASSES)
    torch.testing.assert_close(how(z, to), expected, rtol=1e-5, atol=1e-6)


def written_out_kernel(kernel: Kernel, rows: np.ndarray) -> np.ndarray:
    """Pair by pair, from the kernel's definition."""
    about_mean = rows - rows.mean(0)
    pairs = {
        "gaussian": lambda i, j: math.exp(-((rows[i] - rows[j]) ** 2).sum() / (2 * kernel.sigma**2 * rows.shape[1])),
        "linear": lambda i, j: rows[i] @ rows[j],
        "cosine": lambda i, j: about_mean[i] @ about_mean[j] / np.sqrt((about_mean[[i, j]] ** 2).sum(1)).prod(),
    }
    return np.array([[pairs[kernel.name](i, j) for j in range(len(rows))] for i in range(len(rows))])


def over_tuples(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741  (as in Song et al.)
    """HSIC as means over tuples of distinct indices (Song et al., JMLR 2012)."""
    i, j, q, r = np.array(list(itertools.permutations(range(len(k)), 4))).T
    return float((k[i, j] * l[i, j]).mean() - 2 * (k[i, j] * l[i, q]).mean() + (k[i, j] * l[q, r]).mean())


def written_out(estimator: str, k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The estimate from two kernel matrices with explicit centring, inverse or tuples."""
    n = len(k)
    h = np.eye(n) - 1 / n
    if estimator == "debiased_cka":
        return over_tuples(k, l) / math.sqrt(over_tuples(k, k) * over_tuples(l, l))
    if estimator == "normalised_hsic":
        tilde = [m @ h @ np.linalg.inv(m @ h + 1e-5 * n * np.eye(n)) for m in (k, l)]
        return float(np.trace(tilde[0] @ tilde[1]))
    if estimator == "cka":
        return float(np.trace(k @ h @ l @ h) / math.sqrt(np.trace(k @ h @ k @ h) * np.trace(l @ h @ l @ h)))
    return float(np.trace(k @ h @ l @ h) / (n - 1))


@every_measure
@pytest.mark.parametrize("balanced", [False, True])
def test_values_are_those_of_the_formulas_written_out(term: Bottleneck, balanced: bool) -> None:
    z, x = draw(N, 9).double(), images().double()
    to = LocalLoss(term, input_pool=4).targets(x, labels(), CLASSES)
    to = to._replace(y=term.prepare(label_matrix(balanced))) if balanced else to
    k, kx = (
        written_out_kernel(term.kernel, m.numpy())
        for m in (z, x.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(1))
    )
    expected = [written_out(term.estimator, k, other) for other in (kx, label_matrix(balanced).double().numpy())]
    assert [value.item() for value in term.values(z, to)] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@every_measure
@pytest.mark.parametrize("beta", [10.0, 1.0, 0.25])
def test_the_loss_weighs_the_two_values_as_stated(term: Bottleneck, beta: float) -> None:
    term = replace(term, beta=beta)
    to = targets(LocalLoss(term))
    zx, zy = term.values(draw(N, 9), to)
    expected = zx - beta * zy if term.estimator == "eq4" else zx / beta - zy
    torch.testing.assert_close(term(draw(N, 9), to), expected)


def test_similarity_matching_is_the_mean_squared_difference_of_similarities() -> None:
    z = draw(N, 9)
    to = targets(LocalLoss(SimilarityMatching()))
    rows = z - z.mean(0)
    similar = F.cosine_similarity(rows[:, None], rows[None], dim=2)
    expected = (similar - label_matrix()).square().mean()
    torch.testing.assert_close(SimilarityMatching()(z, to), expected)


@every_term
def test_a_local_loss_is_the_weighted_hsic_term_of_pooled_features_and_cross_entropy(term: Term) -> None:
    how, maps = small(hsic=term, hsic_weight=0.3, classifier_weight=0.7, grid=2), outputs()
    to, of = targets(how), head(how.head)
    ce = F.cross_entropy(of.classifier(of(averaged(maps, 4))), labels())
    expected = 0.3 * term(z_of(maps, 2), to) + 0.7 * ce
    torch.testing.assert_close(loss(how, maps), expected)


@every_term
def test_its_gradient_reaches_every_map_of_the_unit(term: Term) -> None:
    maps = outputs()
    loss(small(hsic=term, classifier_weight=0.0), maps).backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().sum() > 0 for x in maps)


@every_term
def test_without_cross_entropy_a_head_has_no_gradient(term: Term) -> None:
    of = head(Head(1, 5))
    loss(small(hsic=term, classifier_weight=0.0), outputs(), of).backward()
    assert all(p.grad is None for p in of.parameters())


def test_on_the_embedding_without_cross_entropy_only_the_classifier_has_no_gradient() -> None:
    of = head(Head(1, 5))
    loss(small(classifier_weight=0.0, z="embedding"), outputs(), of).backward()
    assert all(p.grad is None for p in of.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in of.trunk.parameters())


def test_on_the_embedding_z_is_what_the_head_makes_of_the_features() -> None:
    how, maps = small(classifier_weight=0.0, hsic_weight=1.0, z="embedding"), outputs()
    to = targets(how)
    expected = how.hsic(head(how.head)(averaged(maps, 4)), to)
    torch.testing.assert_close(loss(how, maps), expected)


def test_without_an_hsic_term_only_cross_entropy_is_left() -> None:
    how, maps = small(hsic_weight=0.0, classifier_weight=0.5), outputs()
    of = head(how.head)
    torch.testing.assert_close(loss(how, maps), 0.5 * F.cross_entropy(of.classifier(of(averaged(maps, 4))), labels()))


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hsic\.estimator: expected one of eq4, .*, found 'hsic'"):
        Bottleneck("hsic")


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_weighs_nothing_is_refused(beta: float) -> None:
    with pytest.raises(ValueError, match=r"hsic\.beta: expected more than 0"):
        Bottleneck(beta=beta)


@pytest.mark.parametrize("name", ["hsic_weight", "classifier_weight", "pool", "grid", "input_pool"])
def test_a_number_below_zero_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=rf"local_loss\.{name}: expected 0 or more, found -1"):
        LocalLoss(**{name: -1})


def test_an_unknown_z_is_refused() -> None:
    with pytest.raises(ValueError, match=r"local_loss\.z: expected features or embedding, found 'feature'"):
        LocalLoss(z="feature")


def test_a_local_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to minimise"):
        LocalLoss(hsic_weight=0.0, classifier_weight=0.0)


@pytest.mark.parametrize(
    ("fields", "classifies"),
    [({}, True), ({"classifier_weight": 0.0}, False), ({"classifier": ClassMeans()}, False)],
    ids=str,
)
def test_a_unit_classifies_where_it_trains_a_linear_classifier(fields: dict[str, object], classifies: bool) -> None:
    assert LocalLoss(**fields).classifies == classifies


def test_targets_know_the_number_of_classes_of_the_data() -> None:
    ten = torch.arange(N) % 10
    to = LocalLoss(SimilarityMatching()).targets(images(), ten, 10)
    assert torch.equal(to.y, (ten[:, None] == ten[None]).float())
    with pytest.raises(ValueError, match=r"0\.\.6"):
        LocalLoss().targets(images(), ten, 7)


def test_class_means_train_all_of_a_head_but_its_classifier() -> None:
    of = head(Head(1, 5))
    loss(small(classifier_weight=1.0, classifier=ClassMeans()), outputs(), of).backward()
    assert all(p.grad is None for p in of.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in of.trunk.parameters())


def test_targets_carry_no_gradient_and_keep_the_labels() -> None:
    to = LocalLoss().targets(images().requires_grad_(), labels(), CLASSES)
    assert not to.x.requires_grad
    assert torch.equal(to.labels, labels())


@every_term
def test_bfloat16_autocast_stays_close_to_float32(term: Term) -> None:
    """Kernels and estimators run in float32 whatever the features' precision, in the backward pass too."""
    how = small(hsic=term, classifier_weight=0.0, hsic_weight=1.0)
    maps = [x.detach().bfloat16() for x in outputs()]
    exact, low = ([x.to(kind, copy=True).requires_grad_() for x in maps] for kind in (torch.float32, torch.bfloat16))
    expected = loss(how, exact)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(how, low)
    found.backward()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
    for a, b in zip(low, exact, strict=True):
        assert (a.grad.float() - b.grad).norm() <= 0.03 * b.grad.norm() + 1e-5


@pytest.mark.parametrize("classifier", [LinearClassifier(), ClassMeans()], ids=lambda c: c.name)
def test_bfloat16_cross_entropy_stays_close_to_float32(classifier: LinearClassifier | ClassMeans) -> None:
    how = small(hsic_weight=0.0, classifier_weight=1.0, classifier=classifier)
    maps = outputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(how, maps)
    torch.testing.assert_close(found, loss(how, maps), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("pool", [0, 2, 4, 6])
@pytest.mark.parametrize("grid", [0, 1, 2, 4])
def test_features_are_averaged_to_pool_and_then_to_grid_as_far_as_they_are_larger(pool: int, grid: int) -> None:
    how, maps = small(classifier_weight=0.0, hsic_weight=1.0, pool=pool, grid=grid), outputs()
    side = min(pool or 4, 4)
    z = z_of([averaged(maps, side)], min(grid or side, side))
    expected = how.hsic(z, targets(how))
    torch.testing.assert_close(loss(how, maps), expected)


def test_without_an_hsic_term_no_kernel_is_made() -> None:
    to = targets(LocalLoss(hsic_weight=0.0))
    assert isinstance(to, Targets)
    assert to.x.numel() == to.y.numel() == 1


def test_class_means_are_added_up_in_float32_under_autocast() -> None:
    embedding, means = torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), ClassMeans()
    of = head(Head(hidden=1, width=8))
    with torch.autocast("cpu", torch.bfloat16):
        found = means(embedding, labels(), of)
    assert torch.equal(found, means(embedding, labels(), of))
