"""What an explanation calls important is what the answer hangs on."""

import pytest
import torch
from torch import Tensor

from cfpn import load, prediction
from cfpn.network import Network
from cfpn.prediction import opinions, predict
from pipeline.pictures.answers import Model
from pipeline.pictures.answers import answers as model_answers
from pipeline.pictures.explain import blurred, deleted, importance, log_probability, patches
from tests.pipeline.pictures.made import face

COUNT = 24
SHARE = 0.2


@pytest.fixture(scope="module")
def network() -> Network:
    return load()


def drawn(count: int) -> Tensor:
    return torch.stack([torch.from_numpy(face(number)) for number in range(count)])[:, None]


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return drawn(COUNT)


@pytest.fixture(scope="module")
def answers(network: Network, pixels: Tensor) -> Tensor:
    return predict(network, pixels).argmax(1)


def lost(network: Network, pixels: Tensor, answers: Tensor, order: Tensor) -> float:
    """How much of the probability goes when the pixels that come first are deleted, in the mean."""
    before = log_probability(network, pixels.float(), answers).exp()
    return (before - log_probability(network, deleted(pixels, order, SHARE), answers).exp()).mean().item()


@pytest.mark.parametrize("count", [COUNT, pytest.param(200, marks=pytest.mark.slow)])
def test_deleting_the_most_important_pixels_costs_more_than_deleting_random_ones_or_patches(
    network: Network, count: int
) -> None:
    pixels = drawn(count)
    answers = predict(network, pixels).argmax(1)
    found = lost(network, pixels, answers, importance(network, pixels, answers))
    random = torch.rand(count, 48, 48, generator=torch.Generator().manual_seed(0))
    blocks = random[:, ::8, ::8].repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert found > lost(network, pixels, answers, random) + 0.1
    assert found > lost(network, pixels, answers, blocks) + 0.1


def test_deleting_the_least_important_pixels_costs_least(network: Network, pixels: Tensor, answers: Tensor) -> None:
    assert lost(network, pixels, answers, -importance(network, pixels, answers)) < 0


def test_a_face_that_leaves_early_is_explained_by_the_units_that_were_asked(
    network: Network, pixels: Tensor, answers: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, chosen, places = pixels[:4], answers[:4], len(network.units)
    together = importance(network, few, chosen)
    mixed = importance(network, few, chosen, torch.tensor([1, places, 1, places]))
    monkeypatch.setattr(prediction, "vote", lambda units, together: next(iter(units.values())).softmax(1))
    first = importance(network, few, chosen)
    assert not torch.allclose(first, together, atol=1e-3)
    torch.testing.assert_close(mixed, torch.stack([first[0], together[1], first[2], together[3]]), atol=1e-5, rtol=0)


def test_an_early_answer_comes_with_its_own_explanation(network: Network, pixels: Tensor) -> None:
    model = Model(network, "it", "", [1] * len(network.units))
    sure = (
        opinions(network, pixels[:6], 1.0).logs[:, 0].exp().amax(1).median().item()
    )  # half of the faces leave at once
    found = opinions(network, pixels[:6], sure)
    assert len(set(found.asked.tolist())) > 1
    expected = importance(network, pixels[:6], found.vote().argmax(1), found.asked)
    told = [answer.importance for answer in model_answers(model, pixels[:6], sure, True)]
    torch.testing.assert_close(torch.stack(told), expected)


def test_a_constant_face_has_no_important_pixel(network: Network) -> None:
    flat = torch.full((1, 1, 48, 48), 90, dtype=torch.uint8)
    torch.testing.assert_close(importance(network, flat, torch.tensor([3])), torch.zeros(1, 48, 48), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(48, 48), (50, 61), (8, 8)])
def test_patches_cover_the_face(sides: tuple[int, int]) -> None:
    seen = torch.zeros(sides)
    for rows, columns in patches(*sides):
        assert seen[rows, columns].shape == (8, 8)
        seen[rows, columns] += 1
    assert seen.min() >= 1


def test_the_share_of_pixels_that_is_asked_for_is_deleted() -> None:
    pixels = torch.randint(0, 256, (2, 1, 48, 48), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    order = torch.rand(2, 48, 48, generator=torch.Generator().manual_seed(1))
    changed = deleted(pixels, order, SHARE) != pixels
    assert changed.flatten(1).sum(1).tolist() == pytest.approx([461, 461], abs=6)  # a few are as their blurred ones
    assert order[changed[:, 0]].min() > order[~changed[:, 0]].median()
    assert blurred(pixels).shape == pixels.shape


def test_an_array_without_channels_is_explained_as_the_tensor_is(network: Network, pixels: Tensor) -> None:
    expected = importance(network, pixels[:1], torch.tensor([3]))
    assert torch.equal(importance(network, pixels[:1, 0].numpy(), torch.tensor([3])), expected)
