"""A unit's step: what a gradient reaches, what is kept in memory, resting, recomputing, precision."""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn import learner as learning
from cfpn.checkpoint import tensors
from cfpn.graph import IMAGE, Cuts, Node, run, units
from cfpn.layers import Classifier, SeparableConvolution
from cfpn.learner import DivergedError, Learner, Precision, scalars, unit_loss, unit_step, update
from cfpn.network import build
from cfpn.objectives import Targets
from cfpn.recipe import Recipe
from cfpn.schedule import Schedule
from cfpn.training import Method
from tests.cfpn.small import (
    BATCH,
    LOSS,
    MODEL,
    RATE,
    begin,
    chain,
    data,
    differing,
    epochs,
    local,
    method,
    nodes_of,
    one_step,
    own,
    partition,
    snapshot,
    steps,
    weights,
)


def leaves(loss: Tensor) -> set[Tensor]:
    """Every tensor that a gradient of the loss can reach."""
    found, seen, open_nodes = set(), set(), [loss.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        open_nodes.extend(following for following, _ in node.next_functions)
    return found


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[set[Tensor]]:
    """What each call of backward could reach, in order."""
    calls: list[set[Tensor]] = []
    backward = Tensor.backward

    def spy(loss: Tensor) -> None:
        calls.append(leaves(loss))
        backward(loss)

    monkeypatch.setattr(Tensor, "backward", spy)
    return calls


@partition
def test_no_gradient_path_leads_from_one_unit_to_another(cuts: Cuts, reached: list[set[Tensor]]) -> None:
    how = method(cuts)
    state = begin(how)
    steps(state, how, 1)
    assert len(reached) == len(state.learners)
    assert all(found and found <= mine for found, mine in zip(reached, own(state), strict=True))


@local
def test_without_detaching_a_gradient_does_cross(cuts: Cuts, reached: list[set[Tensor]]) -> None:
    how = method(cuts, gradients="pass")
    state = begin(how)
    steps(state, how, 1)
    (found,) = reached
    assert all(found & mine for mine in own(state))
    images, labels = data()
    targets = how.local_loss.targets(images, labels, 7)
    losses, _ = learning.joint_step(state.learners, {IMAGE: images}, targets, [0.0] * len(state.learners))
    assert leaves(losses[-1][1]) & own(state)[0]  # the last unit's loss reaches the first unit


@local
def test_a_units_loss_moves_only_its_own_parameters(cuts: Cuts, monkeypatch: pytest.MonkeyPatch) -> None:
    how = method(cuts)
    backward = Tensor.backward
    for k in range(len(units(build(MODEL, 0), cuts))):
        state, calls = begin(how), itertools.count()

        def only_k(loss: Tensor, calls: Iterator[int] = calls, k: int = k) -> None:
            if next(calls) == k:
                backward(loss)

        monkeypatch.setattr(Tensor, "backward", only_k)
        before = [[p.detach().clone() for p in mine] for mine in map(list, own(state))]
        steps(state, how, 1)
        after = [list(mine) for mine in own(state)]
        moved = [any(map(lambda a, b: not torch.equal(a, b), *pair)) for pair in zip(before, after, strict=True)]
        assert moved == [i == k for i in range(len(moved))]


@local
@pytest.mark.parametrize("detach", [True, False])
def test_a_unit_learns_the_same_whatever_the_later_ones_are(cuts: Cuts, detach: bool) -> None:
    how = method(cuts, gradients="stop" if detach else "pass")
    first, second = begin(how), begin(how)
    for node in second.learners[-1].unit.nodes:
        for parameter in node.module.parameters():
            parameter.data.mul_(-0.5)
    for state in (first, second):
        steps(state, how)
    early = [
        {f"{n.name}.{key}" for n in learner.unit.nodes for key in n.module.state_dict()} for learner in first.learners
    ]
    changed = set(differing(weights(nodes_of(first.network)), weights(nodes_of(second.network))))
    assert bool(changed & set().union(*early[:-1])) != detach


def peak_saved(blocks: int, how: Method) -> int:
    """Most bytes that lie saved for the backward pass at any moment of a step."""
    live, peak = 0, 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal live, peak
            self.tensor = tensor
            live += tensor.nbytes
            peak = max(peak, live)

        def __del__(self) -> None:
            nonlocal live
            live -= self.tensor.nbytes

    state = begin(how, nodes=chain(blocks))
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        steps(state, how, 2)
    assert live == 0
    return peak


@pytest.mark.parametrize("update_every", [1, 2])
@pytest.mark.parametrize("cuts", ["block", "layer"])
def test_memory_saved_for_backward_does_not_grow_with_depth(cuts: Cuts, update_every: int) -> None:
    found = [peak_saved(blocks, method(cuts, schedule=Schedule(update_every=update_every))) for blocks in (3, 6, 12)]
    assert found[0] == found[1] == found[2] > 0


@pytest.mark.parametrize("cuts", ["block", "layer"])
def test_a_unit_is_given_only_features_that_it_or_a_later_one_takes(
    cuts: Cuts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies between units is freed after its last consumer, so that it does not grow with depth either."""
    given: list[set[str]] = []

    def spy(
        nodes: tuple[Node, ...], features: dict[str, Tensor], keep: tuple[str, ...], recompute: bool
    ) -> dict[str, Tensor]:
        given.append(set(features))
        return run(nodes, features, keep, recompute)

    for nodes in (chain(6), build(MODEL, 0)):
        how = method(cuts)
        state = begin(how, nodes=nodes)
        given.clear()
        with monkeypatch.context() as patch:
            patch.setattr(learning, "run", spy)
            steps(state, how, 1)
        takes = [{name for node in learner.unit.nodes for name in node.inputs} for learner in state.learners]
        dead = {node.name for node in nodes} - set().union(*takes)
        for i, names in enumerate(given):
            assert names - dead <= set().union(*takes[i:])


@pytest.mark.parametrize(
    "how", [method("network"), method("block", gradients="pass")], ids=["network", "deep supervision"]
)
def test_memory_saved_for_backward_grows_with_depth_where_gradients_cross(how: Method) -> None:
    three, six, twelve = (peak_saved(blocks, how) for blocks in (3, 6, 12))
    assert 1.6 * three < six
    assert 1.7 * six < twelve


def test_a_layer_saves_less_than_a_block_and_a_block_less_than_the_network() -> None:
    layer, block, network = (peak_saved(4, method(cuts)) for cuts in ("layer", "block", "network"))
    assert layer < block < network


class Dropped(nn.Sequential):
    """A node whose random choice must be the same when it runs again."""

    def __init__(self) -> None:
        super().__init__(SeparableConvolution(1, 8, "relu", stride=2), nn.Dropout(0.5))


@partition
def test_recomputing_changes_no_bit_of_weights_statistics_or_optimiser(cuts: Cuts) -> None:
    def trained(recompute: bool) -> dict[str, Tensor]:
        how = method(cuts, recompute=recompute)
        state = begin(how)
        steps(state, how, 3)
        return tensors(state)

    assert differing(trained(recompute=False), trained(recompute=True)) == []


def test_recomputing_repeats_the_dropout_of_the_first_pass() -> None:
    def trained(recompute: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        nodes = [Node("drop", Dropped(), (IMAGE,)), Node("classifier", Classifier(8, 7), ("drop",))]
        how = method("network", recompute=recompute)
        state = begin(how, nodes=nodes)
        steps(state, how, 3)
        return tensors(state)

    assert differing(trained(recompute=False), trained(recompute=True)) == []


@pytest.mark.parametrize("update_every", [2, 3, 4])
def test_units_that_rest_are_left_untouched(update_every: int) -> None:
    how = method("block", schedule=Schedule(update_every=update_every))
    state = begin(how)
    state.network.train()
    hidden = len(state.learners) - 1
    for step in range(4):
        before = [[p.detach().clone() for p in mine] for mine in map(list, own(state))]
        found = one_step(state, how, data(step), step)
        after = [list(mine) for mine in own(state)]
        moved = [any(map(lambda a, b: not torch.equal(a, b), *pair)) for pair in zip(before, after, strict=True)]
        assert moved == [rate > 0 for rate in how.schedule.rates(step, 10**6, hidden + 1)]
        reported = [f"unit/{state.learners[i].unit.name}/loss" in found for i in range(hidden)]
        assert reported == moved[:-1]


def test_in_bfloat16_the_backward_pass_runs_outside_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the products in the backward pass of float32 kernels are rounded to bfloat16."""
    backward, enabled = Tensor.backward, []

    def spy(loss: Tensor) -> None:
        enabled.append(torch.is_autocast_enabled("cpu"))
        backward(loss)

    monkeypatch.setattr(Tensor, "backward", spy)
    recipe = Recipe(epochs=1, batch=BATCH, precision="bfloat16")
    epochs(begin(method("block"), recipe=recipe), method("block"), recipe)
    assert enabled
    assert not any(enabled)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradients", ["stop", "pass"])
@pytest.mark.parametrize("cuts", ["network", ["block1"]], ids=str)
def test_bfloat16_is_that_of_every_nodes_forward_pass_and_float32_of_none(
    cuts: Cuts, gradients: Literal["stop", "pass"], precision: Precision
) -> None:
    how, seen = method(cuts, gradients=gradients), {}
    state = begin(how, recipe=Recipe(batch=BATCH, precision=precision))
    for node in nodes_of(state.network):
        note = lambda *_, name=node.name: seen.update({name: torch.is_autocast_enabled("cpu")})  # noqa: E731
        node.module.register_forward_hook(note)
    one_step(state, how, data(), 0)
    assert seen == {node.name: precision == "bfloat16" for node in nodes_of(state.network)}


@pytest.mark.parametrize("cuts", ["network", ["block1"]], ids=str)
def test_bfloat16_trains_close_to_float32(cuts: Cuts) -> None:
    how, losses = method(cuts, schedule=Schedule(learning_rate=1e-3)), []
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(epochs=2, batch=BATCH, precision=precision)
        losses.append(epochs(begin(how, recipe=recipe), how, recipe)[-1].scalars["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def hidden_and_last(how: Method) -> tuple[Learner, Learner, dict[str, Tensor], Targets]:
    """The two learners of a method that cuts after block1, the image, and the targets of a batch."""
    state, (x, labels) = begin(how), data()
    state.network.train()
    hidden, last = state.learners
    return hidden, last, {IMAGE: x}, how.local_loss.targets(x, labels, 7)


HALVES = method(["block1"])


def test_a_unit_at_rate_0_runs_forward_without_loss_gradient_or_update() -> None:
    hidden, _, image, to = hidden_and_last(HALVES)
    other = hidden_and_last(HALVES)[0]
    before = snapshot(dict(nn.ModuleList([n.module for n in hidden.unit.nodes]).named_parameters()))
    found, loss = unit_step(hidden, image, to, 0.0)
    expected, _ = unit_loss(other, image, to)
    assert loss is None
    assert list(found) == list(hidden.unit.outputs)
    assert not differing(found, expected)
    assert not any(feature.requires_grad for feature in found.values())
    assert not differing(dict(nn.ModuleList([n.module for n in hidden.unit.nodes]).named_parameters()), before)
    assert not hidden.optimizer.state
    assert all(p.grad is None for node in hidden.unit.nodes for p in node.module.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resting_unit_hands_on_features_of_the_precision_of_a_learning_one(precision: Precision) -> None:
    hidden, _, image, to = hidden_and_last(HALVES)
    hidden.precision = precision
    (rests, _), (learns, _) = (unit_step(hidden, image, to, rate) for rate in (0.0, RATE))
    assert not differing(rests, learns)
    assert [feature.dtype for feature in rests.values()] == [feature.dtype for feature in learns.values()]


def test_a_step_is_the_loss_and_the_update_with_everything_detached() -> None:
    hidden, _, image, to = hidden_and_last(HALVES)
    other = hidden_and_last(HALVES)[0]
    outputs, loss = unit_step(hidden, image, to, RATE)
    expected, scalar = unit_loss(other, image, to)
    assert all(feature.requires_grad for feature in expected.values())
    update([other], scalar, [RATE])
    assert not differing(outputs, expected)
    assert torch.equal(loss, scalar)
    assert not any(tensor.requires_grad for tensor in (loss, *outputs.values()))
    mine, others = (
        nn.ModuleList([n.module for n in learner.unit.nodes] + [learner.head]) for learner in (hidden, other)
    )
    assert not differing(mine.state_dict(), others.state_dict())


def test_the_last_unit_minimises_the_cross_entropy_of_its_logits() -> None:
    hidden, last, image, to = hidden_and_last(HALVES)
    features, _ = unit_step(hidden, image, to, RATE)
    outputs, loss = unit_loss(last, {name: features[name] for name in last.unit.inputs}, to)
    (logits,) = outputs.values()
    torch.testing.assert_close(loss, F.cross_entropy(logits, to.labels))


def test_an_update_gives_every_learner_its_own_rate_and_leaves_no_gradient() -> None:
    state, (x, labels) = begin(method("block")), data()
    state.network.train()
    to = LOSS.targets(x, labels, 7)
    rates = [0.001 * (i + 1) for i in range(len(state.learners))]
    losses, features = [], {IMAGE: x}
    for learner in state.learners:
        outputs, loss = unit_loss(learner, {name: features[name] for name in learner.unit.inputs}, to)
        features |= outputs
        losses.append(loss)
    update(state.learners, sum(losses), rates)
    assert [learner.optimizer.param_groups[0]["lr"] for learner in state.learners] == rates
    assert all(p.grad is None for mine in own(state) for p in mine)


def test_an_update_without_an_optimiser_is_refused_by_the_units_name() -> None:
    hidden, _, image, to = hidden_and_last(HALVES)
    hidden.optimizer = None
    with pytest.raises(ValueError, match="unit block1 has no optimiser"):
        unit_step(hidden, image, to, RATE)


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_a_loss_that_is_not_finite_is_a_divergence_of_its_unit(value: float, shown: str) -> None:
    losses = [("block1", torch.tensor(1.0)), ("block2", torch.tensor(value)), ("last", torch.tensor(1.0))]
    with pytest.raises(DivergedError, match=f"^the loss of unit block2 is {shown}$"):
        scalars(losses, torch.tensor(0.5))


def test_scalars_name_the_loss_of_hidden_units_and_of_the_last_one() -> None:
    losses = [("block1", torch.tensor(1.0)), ("last", torch.tensor(2.0))]
    expected = {"unit/block1/loss": 1.0, "train/loss": 2.0, "train/accuracy": 0.5}
    assert scalars(losses, torch.tensor(0.5)) == expected
