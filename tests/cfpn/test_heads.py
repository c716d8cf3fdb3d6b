"""The auxiliary network of a unit, its pooling and what turns its embedding into a loss, against formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn.heads import ClassMeans, Head, LinearClassifier, UnitHead, balanced_weights, cross_entropy, pooled, rows

N, CLASSES = 12, 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 6, 0, 1, 2, 0, 0, 1])


def head(how: Head, seed: int = 0) -> UnitHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        result = UnitHead(how, 10, 4, CLASSES)
        torch.nn.init.normal_(result.classifier.weight)
    return result


def naive_class_means(z: Tensor, of: list[int], temperature: float, weights: Tensor | None = None) -> float:
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
            term = math.log(sum(math.exp(v) for v in logits.values())) - logits[own]
            found.append(term if weights is None else term * weights[own].item())
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


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature: expected more than 0"):
        ClassMeans(temperature=temperature)


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


def test_rows_of_channels_last_maps_and_their_gradients_are_never_copied() -> None:
    maps = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = rows(maps)
    assert found.data_ptr() == maps.data_ptr()
    (gradient,) = torch.autograd.grad(found.square().sum(), maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.stack([maps[:, :, i, j] for i in range(3) for j in range(3)], 1).flatten(1))


def test_logits_are_the_classifier_of_the_embedding_of_outputs_pooled_to_the_heads_size() -> None:
    of, maps = head(Head(1, 5)), [draw(N, 6, 8, 8), draw(N, 4, 4, 4, seed=1)]
    small = torch.cat([F.adaptive_avg_pool2d(x, 4) for x in maps], 1)
    torch.testing.assert_close(of.logits(maps), of.classifier(of(small)))
    assert of.logits(maps).shape == (N, CLASSES)


def test_the_linear_classifiers_loss_is_the_cross_entropy_of_the_heads_own_logits() -> None:
    of, embedding = head(Head(1, 5)), draw(N, 20)
    expected = F.cross_entropy(of.classifier(embedding), labels())
    torch.testing.assert_close(LinearClassifier()(embedding, labels(), of), expected)


@pytest.mark.parametrize(
    ("given", "found"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_cross_entropy_is_computed_in_float32_at_least(given: torch.dtype, found: torch.dtype) -> None:
    logits = draw(N, CLASSES).to(given)
    expected = F.cross_entropy(logits.double(), labels())
    assert cross_entropy(logits, labels()).dtype == found
    torch.testing.assert_close(cross_entropy(logits, labels()).double(), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_label_smoothing_mixes_the_label_with_all_classes(weighted: bool) -> None:
    logits, weights = draw(N, CLASSES), balanced_weights(labels(), CLASSES) if weighted else None
    targets = 0.8 * F.one_hot(labels(), CLASSES).double() + 0.2 / CLASSES
    terms = -targets * F.log_softmax(logits.double(), 1)
    if weights is not None:
        assert weights.max() >= 4 * weights[weights > 0].min()
        terms = terms * weights.double()[labels()][:, None]
    assert cross_entropy(logits, labels(), weights, 0.2).item() == pytest.approx(terms.sum().item() / N, rel=1e-5)
    embedding, of = draw(N, 8), head(Head(1, 2))
    expected = cross_entropy(of.classifier(embedding), labels(), weights, 0.2)
    assert torch.equal(LinearClassifier()(embedding, labels(), of, weights, 0.2), expected)


def test_label_smoothing_changes_no_loss_of_class_means() -> None:
    embedding, of = draw(N, 8), head(Head(1, 2))
    assert torch.equal(ClassMeans()(embedding, labels(), of, None, 0.3), ClassMeans()(embedding, labels(), of))


def test_a_head_has_as_many_classes_as_the_data() -> None:
    of, z, ten = UnitHead(Head(1, 5), 10, 4, 10), draw(20, 9), torch.arange(20) % 10
    assert of(draw(N, 10, 4, 4)).shape == (N, 20)
    assert of.logits([draw(N, 10, 4, 4)]).shape == (N, 10)
    assert ClassMeans()(z, ten, of).isfinite()


def test_weighted_cross_entropy_is_torchs_sum_over_the_number_of_faces() -> None:
    logits, weights = draw(N, CLASSES), draw(CLASSES, seed=1).abs()
    mean = F.cross_entropy(logits, labels(), weights)  # torch divides by the weights of the batch
    torch.testing.assert_close(cross_entropy(logits, labels(), weights), mean * weights[labels()].sum() / N)
    of, embedding = head(Head(1, 5)), draw(N, 20)
    nn.init.normal_(of.classifier.weight)
    expected = F.cross_entropy(of.classifier(embedding), labels(), weights, reduction="sum") / N
    torch.testing.assert_close(LinearClassifier()(embedding, labels(), of, weights), expected)


def test_weights_of_one_change_no_classifiers_loss() -> None:
    of, embedding, ones = head(Head(1, 5)), draw(N, 20), torch.ones(CLASSES)
    for classifier in (LinearClassifier(), ClassMeans()):
        found = classifier(embedding, labels(), of, ones)
        torch.testing.assert_close(found, classifier(embedding, labels(), of))
        torch.testing.assert_close(classifier(embedding, labels(), of, 2 * ones), 2 * found)


@pytest.mark.parametrize("of", [labels().tolist(), [0, 0, 1, 2, 2, 2]], ids=str)
def test_the_terms_of_class_means_are_multiplied_by_the_weights_of_their_classes(of: list[int]) -> None:
    z, weights = draw(len(of), 9), draw(CLASSES, seed=1).abs()
    found = ClassMeans(temperature=0.5)(z, torch.tensor(of), head(Head(1, 5)), weights)
    assert found.item() == pytest.approx(naive_class_means(z, of, 0.5, weights), rel=1e-4)


def test_balanced_weights_let_every_class_count_the_same_and_their_mean_over_the_faces_is_one() -> None:
    some = torch.tensor([0] * 6 + [1] * 3 + [3])  # none of class 2
    weights = balanced_weights(some, 4)
    sums = torch.zeros(4).index_add(0, some, weights[some])
    torch.testing.assert_close(sums, torch.tensor([10 / 3, 10 / 3, 0, 10 / 3]))
    torch.testing.assert_close(weights[some].mean(), torch.tensor(1.0))
    assert weights.isfinite().all()


@pytest.mark.parametrize(("name", "least"), [("hidden", 0), ("width", 1)])
def test_a_head_of_nothing_is_refused_by_name(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=rf"head\.{name}: expected {least} or more, found {least - 1}"):
        Head(**{name: least - 1})
