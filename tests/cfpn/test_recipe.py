"""The recipe: values that are refused, and optimisers against their formulas."""

import math

import pytest
import torch
from torch import Tensor, nn

from cfpn.recipe import Optimizer, Recipe


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"batch": 1}, {"batch": 3}], ids=str)
def test_a_recipe_that_cannot_train_is_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="train: expected"):
        Recipe(**bad)


@pytest.mark.parametrize("name", ["average", "label_smoothing"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_a_share_outside_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name}: expected 0 or more and less than 1, found {value}"):
        Recipe(**{name: value})


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.precision: expected float32 or bfloat16, found 'bf16'"):
        Recipe(precision="bf16")


def test_unknown_class_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.class_weights: expected none or balanced, found 'some'"):
        Recipe(class_weights="some")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"name": "rmsprop"}, r"optimizer\.name: expected adam or sgd, found 'rmsprop'"),
        ({"weight_decay": -1e-4}, r"optimizer\.weight_decay: expected 0 or more, found -0\.0001"),
        ({"weight_decay": math.inf}, r"optimizer\.weight_decay: expected 0 or more, found inf"),
        ({"weight_decay": math.nan}, r"optimizer\.weight_decay: expected 0 or more, found nan"),
    ],
)
def test_an_optimizer_that_is_none_is_refused_by_name(bad: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Optimizer(**bad)


def by_nesterov(w: Tensor, gradients: list[Tensor], rate: float, decay: float) -> Tensor:
    """As Sutskever et al. in the form of torch: v <- m v + g, then w <- w - rate (g + m v)."""
    velocity = torch.zeros_like(w)
    for g in gradients:
        g = g + decay * w
        velocity = 0.9 * velocity + g
        w = w - rate * (g + 0.9 * velocity)
    return w


def by_adam(w: Tensor, gradients: list[Tensor], rate: float, decay: float) -> Tensor:
    """Algorithm 1 of Kingma & Ba with their constants."""
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        g = g + decay * w
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        w = w - rate * (first / (1 - 0.9**t)) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "formula"), [("sgd", by_nesterov), ("adam", by_adam)])
def test_steps_are_those_of_the_formula(name: str, formula: object, decay: float) -> None:
    start, *gradients = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(start.clone())
    optimizer = Optimizer(name, decay).build([weight], 0.05)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), formula(start, gradients, 0.05, decay))
