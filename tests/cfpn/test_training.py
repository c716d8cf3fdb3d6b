"""One trainer over units: what a gradient reaches, equality with plain loops, resuming, predicting."""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn import training
from cfpn.data import SIDE, Augmentation, Faces, images
from cfpn.graph import IMAGE, Cuts, Node, run, units
from cfpn.layers import Classifier, SeparableConvolution
from cfpn.model import CFPN, build
from cfpn.objectives import ClassMeans, DebiasedCKA, Head, NoDependence, NormalisedHSIC, Objective
from cfpn.training import (
    DivergedError,
    Method,
    Recipe,
    Record,
    State,
    accuracy,
    factor,
    load_weights,
    parameters,
    predict,
    rates,
    start,
    train,
    train_step,
    validate,
    weights,
)

SIZE, BATCH, RATE = 16, 8, 0.005
CPU = torch.device("cpu")
MODEL = CFPN(input_size=SIZE, width=16, blocks=2, layers=2, pyramids=1)
OBJECTIVE = Objective(pool=4, grid=2, head=Head(hidden=1, width=8))
ALONE = replace(OBJECTIVE, cross_entropy=0.0)
LOCAL: list[Cuts] = ["block", "layer", ["block1"], ["block1/1", "block2"]]
local = pytest.mark.parametrize("cuts", LOCAL, ids=str)
partition = pytest.mark.parametrize("cuts", ["network", *LOCAL], ids=str)


def faces(number: int, seed: int = 0) -> Faces:
    """Noise, brighter for higher labels."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 7, (number,), generator=random)
    pixels = torch.randint(0, 100, (number, SIDE, SIDE), generator=random) + 20 * labels[:, None, None]
    return Faces(pixels.to(torch.uint8), labels, torch.arange(1, number + 1))


def method(cuts: Cuts, **fields: object) -> Method:
    return Method(**{"units": cuts, "objective": OBJECTIVE} | fields)


BP = method("network")


def begin(how: Method, seed: int = 0, nodes: list[Node] | None = None, average: float = 0.0) -> State:
    return start(nodes or build(MODEL, seed), how, Recipe(batch=BATCH, average=average), SIZE, seed, CPU)


def training_mode(state: State) -> State:
    for node in state.nodes:
        node.module.train()
    return state


def data(step: int = 0) -> tuple[Tensor, Tensor]:
    chosen = faces(BATCH, seed=step)
    return images(chosen.pixels, SIZE), chosen.labels


def steps(state: State, how: Method, number: int = 3) -> list[dict[str, float]]:
    training_mode(state)
    return [one_step(state, how, data(step), step) for step in range(number)]


def one_step(
    state: State, how: Method, batch: tuple[Tensor, Tensor], step: int, rate: float = RATE
) -> dict[str, float]:
    due = rates(how, Recipe(learning_rate=rate), len(state.learners), step, 10**6)
    return train_step(state.learners, how, *batch, step, due)


def snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert set(a) == set(b)
    return [name for name in a if not torch.equal(a[name], b[name])]


def own(state: State) -> list[set[Tensor]]:
    return [{p for group in learner.optimizer.param_groups for p in group["params"]} for learner in state.learners]


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
    how = method(cuts, detach=False)
    state = begin(how)
    steps(state, how, 1)
    (found,) = reached
    assert all(found & mine for mine in own(state))


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
    how = method(cuts, detach=detach)
    first, second = begin(how), begin(how)
    for node in second.learners[-1].unit.nodes:
        for parameter in node.module.parameters():
            parameter.data.mul_(-0.5)
    for state in (first, second):
        steps(state, how)
    early = [
        {f"{n.name}.{key}" for n in learner.unit.nodes for key in n.module.state_dict()} for learner in first.learners
    ]
    changed = set(differing(weights(first.nodes), weights(second.nodes)))
    assert bool(changed & set().union(*early[:-1])) != detach


def plain(nodes: Iterable[Node], features: dict[str, Tensor]) -> dict[str, Tensor]:
    for node in nodes:
        features[node.name] = node.module(*[features[name] for name in node.inputs])
    return features


def test_network_is_a_plain_back_propagation_loop_bit_for_bit() -> None:
    how = method("network")
    state = begin(how)
    nodes = copy.deepcopy(state.nodes)
    modules = nn.ModuleList([node.module for node in nodes]).train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=RATE, fused=True)
    losses = []
    for step in range(4):
        x, labels = data(step)
        loss = F.cross_entropy(plain(nodes, {IMAGE: x})["classifier"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [scalars["train/loss"] for scalars in steps(state, how, 4)] == losses
    assert not differing(weights(state.nodes), weights(nodes))
    assert differing(weights(state.nodes), weights(build(MODEL, 0)))


@local
def test_without_detaching_training_is_deep_supervision_bit_for_bit(cuts: Cuts) -> None:
    how = method(cuts, detach=False)
    state = begin(how)
    learners = copy.deepcopy([(learner.unit, learner.head, learner.depth) for learner in state.learners])
    nodes = [node for unit, _, _ in learners for node in unit.nodes]
    modules = nn.ModuleList([node.module for node in nodes] + [head for _, head, _ in learners if head]).train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=RATE, fused=True)
    for step in range(3):
        x, labels = data(step)
        features, references = {IMAGE: x}, OBJECTIVE.references(x, labels)
        loss = torch.zeros(())
        for unit, head, depth in learners[:-1]:
            features = plain(unit.nodes, features)
            loss = loss + OBJECTIVE([features[name] for name in unit.outputs], references, head, depth)
        features = plain(learners[-1][0].nodes, features)
        loss = loss + F.cross_entropy(features["classifier"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    steps(state, how)
    assert not differing(weights(state.nodes), weights(nodes))


def chain(blocks: int, per_block: int = 2, width: int = 8) -> list[Node]:
    """Blocks of equal separable convolutions at full size, and a classifier."""
    nodes, before = [], IMAGE
    for block, layer in itertools.product(range(blocks), range(per_block)):
        module = SeparableConvolution(width if nodes else 1, width, "relu")
        nodes.append(Node(f"block{block}/{layer}", module, (before,)))
        before = nodes[-1].name
    return [*nodes, Node("classifier", Classifier(width, 7), (before,))]


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


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("cuts", ["block", "layer"])
def test_memory_saved_for_backward_does_not_grow_with_depth(cuts: Cuts, share: float) -> None:
    found = [peak_saved(blocks, method(cuts, share=share)) for blocks in (3, 6, 12)]
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
            patch.setattr(training, "run", spy)
            steps(state, how, 1)
        takes = [{name for node in learner.unit.nodes for name in node.inputs} for learner in state.learners]
        dead = {node.name for node in nodes} - set().union(*takes)
        for i, names in enumerate(given):
            assert names - dead <= set().union(*takes[i:])


@pytest.mark.parametrize("how", [method("network"), method("block", detach=False)], ids=["network", "deep supervision"])
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
        return state.tensors()

    assert differing(trained(recompute=False), trained(recompute=True)) == []


def test_recomputing_repeats_the_dropout_of_the_first_pass() -> None:
    def trained(recompute: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        nodes = [Node("drop", Dropped(), (IMAGE,)), Node("classifier", Classifier(8, 7), ("drop",))]
        how = method("network", recompute=recompute)
        state = begin(how, nodes=nodes)
        steps(state, how, 3)
        return state.tensors()

    assert differing(trained(recompute=False), trained(recompute=True)) == []


@pytest.mark.parametrize("share", [0.5, 0.75, 1 / 3])
def test_units_that_rest_are_left_untouched(share: float) -> None:
    how = method("block", share=share)
    state = training_mode(begin(how))
    hidden = len(state.learners) - 1
    for step in range(4):
        before = [[p.detach().clone() for p in mine] for mine in map(list, own(state))]
        scalars = one_step(state, how, data(step), step)
        after = [list(mine) for mine in own(state)]
        moved = [any(map(lambda a, b: not torch.equal(a, b), *pair)) for pair in zip(before, after, strict=True)]
        assert moved == [how.due(i, step) for i in range(hidden)] + [True]
        reported = [f"unit/{state.learners[i].unit.name}/loss" in scalars for i in range(hidden)]
        assert reported == moved[:-1]


@pytest.mark.parametrize("share", [1.0, 0.75, 0.67, 0.5, 0.25])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_a_unit_learns_in_its_share_of_the_steps_evenly_spread(share: float, place: int) -> None:
    learns = [Method(share=share).due(place, step) for step in range(1200)]
    assert sum(learns) == pytest.approx(1200 * share, abs=1)
    gaps = np.diff(np.flatnonzero(learns))
    assert set(gaps) <= {math.floor(1 / share), math.ceil(1 / share)}


def test_at_half_the_steps_neighbours_alternate() -> None:
    how = Method(share=0.5)
    assert all(how.due(0, step) != how.due(1, step) for step in range(10))


@pytest.mark.parametrize("freeze", [1.0, 0.5, 0.65])
@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_units_end_one_after_the_other_each_with_a_schedule_of_its_own(freeze: float, schedule: str) -> None:
    recipe = Recipe(learning_rate=0.01, schedule=schedule, warm_up=0.2)
    table = np.array([rates(Method(freeze=freeze), recipe, 4, step, 1200) for step in range(1200)])
    for place, found in enumerate(table.T):
        end = round(1200 * (freeze + (1 - freeze) * place / 3))
        expected = [0.01 * factor(schedule, step, end, 0.2) for step in range(end - 1)]
        assert found[: end - 1] == pytest.approx(expected)
        assert not found[end + 1 :].any()


def test_the_only_unit_of_back_propagation_learns_in_every_step() -> None:
    recipe = Recipe(schedule="one_cycle", warm_up=0.2)
    found = [rates(Method("network", freeze=0.5, share=0.5), recipe, 1, step, 10) for step in range(10)]
    assert found == [[0.005 * factor("one_cycle", step, 10, 0.2)] for step in range(10)]


def test_a_method_may_have_a_learning_rate_of_its_own() -> None:
    recipe = Recipe(learning_rate=0.01, schedule="one_cycle")
    plain, own = (rates(Method(learning_rate=rate), recipe, 3, 5, 100) for rate in (None, 0.002))
    assert own == pytest.approx([rate / 5 for rate in plain])
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="learning_rate: expected more than 0"):
            Method(learning_rate=bad)


def test_a_unit_that_has_ended_stays_as_it_is_and_the_others_go_on() -> None:
    how, recipe = method(["block1"], freeze=0.5), Recipe(epochs=4, batch=BATCH)
    state = begin(how)
    names = [list(mine) for mine in own(state)]
    found = []
    for record in train(state, how, recipe, faces(2 * BATCH), faces(9), SIZE, 0):
        if record.complete:
            found.append([[p.detach().clone() for p in mine] for mine in names])
    hidden, last = ([epoch[place] for epoch in found] for place in (0, 1))
    assert [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(hidden)] == [False, True, True]
    assert not any(all(map(torch.equal, a, b)) for a, b in itertools.pairwise(last))


def averages(state: State) -> dict[str, Tensor]:
    found = state.tensors()
    return {name: tensor for name, tensor in found.items() if name.startswith("average")}


def test_the_average_is_that_of_its_recursion_in_float64() -> None:
    """Heads and running statistics included; the first steps weigh more, as Adam's warm-up needs."""
    how, recipe = method(["block1"]), Recipe(epochs=3, batch=BATCH, average=0.7)
    state = begin(how, average=0.7)
    expected = {name: tensor.double() for name, tensor in averages(state).items()}
    for step, _ in enumerate(r for r in train(state, how, recipe, faces(20), faces(9), SIZE, 0) if not r.complete):
        decay, current = min(0.7, (1 + step) / (10 + step)), state.tensors()
        for name, mean in expected.items():
            own = current[name.replace("average_head/", "head/").replace("average/", "model/")]
            expected[name] = decay * mean + (1 - decay) * own.double()
    found = averages(state)
    assert any(name.startswith("average_head/block1.trunk") for name in found)
    for name in found:
        if found[name].is_floating_point():
            torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_averaging_does_not_change_the_training() -> None:
    how, results = method(["block1"]), []
    for average in (0.0, 0.9):
        state = begin(how, average=average)
        epochs(state, how, replace(RECIPE, average=average))
        results.append(snapshot(weights(state.nodes)))
        assert bool(differing(weights(state.network), weights(state.nodes))) == bool(average)
    assert not differing(*results)


def test_validation_sees_the_average() -> None:
    how, recipe = method(["block1"]), replace(RECIPE, average=0.9)
    state = begin(how, average=0.9)
    last = epochs(state, how, recipe)[-1].scalars
    assert {name: last[name] for name in validate(state, faces(9, seed=1), SIZE)} == validate(
        state, faces(9, seed=1), SIZE
    )
    plain = start(copy.deepcopy(state.network), BP, Recipe(), SIZE, 0, CPU)
    assert validate(plain, faces(9, seed=1), SIZE)["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)


@pytest.mark.parametrize("missing", ["average/", "average_head/"])
def test_a_state_without_its_averages_is_refused(missing: str) -> None:
    how = method(["block1"])
    state = begin(how, average=0.9)
    kept = {name: tensor for name, tensor in saved(state).items() if not name.startswith(missing)}
    with pytest.raises((KeyError, RuntimeError)):
        begin(how, average=0.9).load(kept, 0)


def saved(state: State) -> dict[str, Tensor]:
    """As a file gives it back: the values in the plain layout, shared with nobody."""
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.tensors().items()
    }


def epochs(state: State, how: Method, recipe: Recipe, number: int = 99, seed: int = 0) -> list[Record]:
    records = train(state, how, recipe, faces(20), faces(9, seed=1), SIZE, seed)
    return list(itertools.islice((record for record in records if record.complete), number))


RECIPE = Recipe(
    epochs=3, batch=BATCH, schedule="one_cycle", augmentation=Augmentation(flip=True, shift=2, rotation=10, scale=0.1)
)


@partition
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_two_epochs_and_one_more_after_resuming_are_three_bit_for_bit(cuts: Cuts, average: float) -> None:
    how, recipe = method(cuts, freeze=0.5), replace(RECIPE, average=average)
    straight, first, second = (begin(how, seed, average=average) for seed in (0, 0, 7))
    records = epochs(straight, how, recipe)
    epochs(first, how, recipe, 2)
    second.load(saved(first), 2)
    torch.manual_seed(123)
    last = epochs(second, how, recipe)
    assert [record.scalars for record in last] == [records[2].scalars]
    assert not differing(straight.tensors(), second.tensors())
    assert second.epoch == 3


def test_resumed_moments_lie_in_memory_as_their_parameters_do() -> None:
    how = method(["block1"])
    first, second = begin(how), begin(how)
    steps(first, how, 1)
    second.load(saved(first), 1)
    for learner in second.learners:
        for parameter, moments in learner.optimizer.state.items():
            assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
            assert moments["step"] == 1


def test_a_loaded_state_shares_nothing_with_what_it_was_loaded_from() -> None:
    how = method(["block1"])
    first, second = begin(how), begin(how)
    steps(first, how, 1)
    given = first.tensors()
    kept = snapshot(given)
    second.load(given, 1)
    steps(second, how, 2)
    assert not differing(given, kept)


@pytest.mark.parametrize(("written", "read"), [("block", "network"), ("network", "block"), ("layer", "block")])
def test_the_state_of_another_partition_is_refused(written: Cuts, read: Cuts) -> None:
    first = begin(method(written))
    steps(first, method(written), 1)
    with pytest.raises((KeyError, RuntimeError)):
        begin(method(read)).load(saved(first), 1)


def test_every_tensor_of_the_state_has_a_name_of_its_own() -> None:
    how = method(["block1/0", "block1/1", "block2"])
    state = begin(how)
    steps(state, how, 1)
    moments = sum(len(values) for learner in state.learners for values in learner.optimizer.state.values())
    heads = sum(len(learner.head.state_dict()) for learner in state.learners if learner.head)
    assert len(state.tensors()) == len(weights(state.nodes)) + heads + moments


def with_dropout() -> list[Node]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 7))
    return [Node("alexnet", network, (IMAGE,))]


def test_dropout_too_hangs_on_seed_epoch_and_step_alone() -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        state = begin(method("network"), nodes=with_dropout())
        results.append([record.scalars for record in epochs(state, method("network"), RECIPE)])
    assert results[0] == results[1]


@pytest.mark.parametrize("cuts", ["network", "block"])
def test_training_leaves_the_global_generator_alone(cuts: Cuts) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    epochs(begin(method(cuts)), method(cuts), RECIPE, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_are_drawn_from_the_seed_and_leave_the_networks_weights_as_they_are() -> None:
    heads = [[learner.head for learner in begin(method("block"), seed).learners[:-1]] for seed in (0, 0, 1)]
    first, again, other = (nn.ModuleList(found).state_dict() for found in heads)
    assert not differing(first, again)
    assert any("trunk" in name for name in differing(first, other))
    assert not differing(weights(begin(method("block")).nodes), weights(build(MODEL, 0)))


def test_all_methods_see_the_same_images_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}

    def spy(
        learners: object, how: Method, x: Tensor, labels: Tensor, step: int, due: list[float], precision: str
    ) -> dict[str, float]:
        numbers = torch.cat([x.flatten(), labels, torch.tensor([step, due[-1]])])
        seen.setdefault(f"{how.units} {precision}", []).append(numbers)
        return {}

    monkeypatch.setattr(training, "train_step", spy)
    for cuts in ("network", "block", "layer"):
        epochs(begin(method(cuts)), method(cuts), RECIPE)
    first, *others = seen.values()
    assert len(first) == 6
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert len({tensor.sum().item() for tensor in first}) == 6


def poison(state: State, unit: int, value: float) -> str:
    learner = state.learners[unit]
    target = learner.head.classifier if learner.head else learner.unit.nodes[-1].module.full
    target.bias.data.fill_(value)
    return learner.unit.name


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("unit", [0, 1, -1])
def test_a_loss_that_is_not_finite_ends_training_naming_step_unit_and_value(unit: int, value: float) -> None:
    state = training_mode(begin(method("block")))
    name = poison(state, unit, value)
    with pytest.raises(DivergedError, match=rf"^step 42: the loss of unit {name} is nan$"):
        one_step(state, method("block"), data(), 41)


def test_divergence_in_train_names_the_step_counted_over_all_epochs() -> None:
    how = method("network")
    state = begin(how)
    records = train(state, how, RECIPE, faces(20), faces(9), SIZE, 0)
    for _ in range(3):
        next(records)
    poison(state, -1, math.nan)
    with pytest.raises(DivergedError, match="step 3: the loss of unit network is nan"):
        next(records)


def test_a_kernel_matrix_that_cannot_be_inverted_is_a_divergence_of_its_unit() -> None:
    how = method("block", objective=replace(OBJECTIVE, dependence=NormalisedHSIC()))
    state = begin(how)
    poison(state, 0, math.nan)
    with pytest.raises(DivergedError, match=r"step 1: the loss of unit block1 (has no value|is nan)"):
        steps(state, how, 1)


def test_a_validation_loss_that_is_not_finite_is_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    how = method("network")
    monkeypatch.setattr(training, "validate", lambda *_, **__: {"val/loss": math.nan, "val/accuracy": 0.1})
    with pytest.raises(DivergedError, match="epoch 1: the validation loss is nan"):
        list(train(begin(how), how, RECIPE, faces(20), faces(9), SIZE, 0))


def test_the_loss_of_an_epoch_is_the_mean_over_the_steps_in_which_the_unit_learnt() -> None:
    how = method("block", share=0.5)
    *within, last = train(begin(how), how, Recipe(epochs=1, batch=BATCH), faces(5 * BATCH), faces(9), SIZE, 0)
    for name in ("unit/block1/loss", "unit/block2/loss", "train/loss"):
        found = [record.scalars[name] for record in within if name in record.scalars]
        assert last.scalars[name] == pytest.approx(sum(found) / len(found))


def test_records_tell_every_step_and_then_the_epoch_with_its_validation() -> None:
    how = method(["block1"])
    records = list(train(begin(how), how, RECIPE, faces(20), faces(9), SIZE, 0))
    assert [record.complete for record in records] == [False, False, True] * 3
    assert [record.step for record in records] == [1, 2, 2, 3, 4, 4, 5, 6, 6]
    assert [record.epoch for record in records if record.complete] == [1, 2, 3]
    known = {"unit/block1/loss", "train/loss", "train/accuracy"}
    assert all(set(record.scalars) == known for record in records if not record.complete)
    judged = {
        "val/loss",
        "val/accuracy",
        "val/vote_accuracy",
        "unit/block1/accuracy",
        "unit/block2-classifier/accuracy",
    }
    assert all(set(record.scalars) == known | judged for record in records if record.complete)
    first, second, epoch = (record.scalars for record in records[:3])
    assert all(epoch[name] == pytest.approx((first[name] + second[name]) / 2) for name in known)


@partition
def test_training_lowers_the_loss(cuts: Cuts) -> None:
    how = method(cuts)
    state = training_mode(begin(how))
    losses = [one_step(state, how, data(0), step, 0.03) for step in range(15)]
    assert losses[-1]["train/loss"] < 0.8 * losses[0]["train/loss"]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch: 64 is more than the 20 training faces"):
        epochs(begin(method("network")), method("network"), Recipe(epochs=1, batch=64))


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"batch": 1}, {"learning_rate": 0.0}, {"learning_rate": math.inf}, {"learning_rate": -1.0}],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="train: expected"):
        Recipe(**bad)


@pytest.mark.parametrize("name", ["share", "freeze"])
@pytest.mark.parametrize("value", [0, -0.5, 1.5, math.nan])
def test_a_share_of_no_or_more_than_all_steps_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected more than 0 and at most 1, found {value}"):
        Method(**{name: value})


@pytest.mark.parametrize("name", ["share", "freeze"])
def test_where_gradients_pass_no_unit_can_rest(name: str) -> None:
    with pytest.raises(ValueError, match="share, freeze: expected 1"):
        Method(**{"detach": False, name: 0.5})


@pytest.mark.parametrize("name", ["average", "warm_up"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
def test_an_average_or_a_warm_up_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name}: expected 0 or more and less than 1"):
        Recipe(**{name: value})


@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.3, 0.99])
@pytest.mark.parametrize("total", [1, 2, 10, 1000])
def test_schedules_stay_between_zero_and_the_full_rate(total: int, warm_up: float) -> None:
    assert [factor("constant", step, total, warm_up) for step in range(total)] == [1.0] * total
    assert all(0 < factor("one_cycle", step, total, warm_up) <= 1 for step in range(total))


@pytest.mark.parametrize("warm_up", [0.1, 0.3, 0.6])
def test_one_cycle_rises_linearly_over_the_warm_up_and_falls_as_a_cosine(warm_up: float) -> None:
    rates, peak = [factor("one_cycle", step, 1000, warm_up) for step in range(1000)], round(1000 * warm_up)
    assert max(rates) == rates[peak] == 1.0
    assert rates[peak // 2 - 1] == pytest.approx(0.5, abs=0.01)
    assert rates[(1000 + peak) // 2] == pytest.approx(0.5, abs=0.01)
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 1e-4


def test_the_schedule_reaches_every_units_optimiser() -> None:
    state = begin(method("block"))
    epochs(state, method("block"), RECIPE)
    expected = RECIPE.learning_rate * factor("one_cycle", 5, 6, RECIPE.warm_up)
    assert {group["lr"] for learner in state.learners for group in learner.optimizer.param_groups} == {expected}


def test_depth_goes_from_zero_at_the_first_to_one_at_the_last_hidden_unit() -> None:
    depths = [learner.depth for learner in begin(method("block")).learners[:-1]]
    assert depths == pytest.approx([i / (len(depths) - 1) for i in range(len(depths))])


def test_only_the_last_unit_has_no_head() -> None:
    assert [learner.head is None for learner in begin(method("block")).learners] == [False] * 5 + [True]


def test_in_bfloat16_the_backward_pass_runs_outside_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the products in the backward pass of float32 kernels are rounded to bfloat16."""
    backward, enabled = Tensor.backward, []

    def spy(loss: Tensor) -> None:
        enabled.append(torch.is_autocast_enabled("cpu"))
        backward(loss)

    monkeypatch.setattr(Tensor, "backward", spy)
    recipe = Recipe(epochs=1, batch=BATCH, precision="bfloat16")
    epochs(begin(method("block")), method("block"), recipe)
    assert enabled
    assert not any(enabled)


@pytest.mark.parametrize("cuts", ["network", ["block1"]], ids=str)
def test_bfloat16_trains_close_to_float32(cuts: Cuts) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        recipe = Recipe(epochs=2, batch=BATCH, learning_rate=1e-3, precision=precision)
        losses.append(epochs(begin(method(cuts)), method(cuts), recipe)[-1].scalars["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def trained(how: Method = BP, seed: int = 0) -> State:
    state = begin(how, seed)
    steps(state, how)
    return state


@pytest.mark.parametrize("batch", [1, 3, 4, 256])
def test_predictions_do_not_hang_on_the_batch_size(batch: int) -> None:
    state, some = trained(), faces(11, seed=5)
    found = predict(state, some, SIZE, batch)
    assert found.shape == (11, 7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, predict(state, some, SIZE, 11), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(11))


VOTING = method(["block1/1", "block1"], vote=True)


def test_a_vote_is_the_geometric_mean_of_the_units_own_classifiers() -> None:
    state, some = trained(VOTING), faces(11, seed=5)
    for learner in state.learners[:-1]:
        nn.init.normal_(learner.head.classifier.weight, generator=torch.Generator().manual_seed(1))
        learner.head.eval()
    found, product = predict(state, some, SIZE), torch.ones(11, 7).double()
    features = {IMAGE: images(some.pixels, SIZE)}
    with torch.no_grad():
        for unit, head, *_ in state.learners:
            features |= plain(unit.nodes, features)
            maps = torch.cat([features[name] for name in unit.outputs], 1)
            logits = maps if head is None else head.classifier(head(F.avg_pool2d(maps, 2)))  # 8x8 to 4x4
            product *= logits.double().softmax(1)
    expected = product ** (1 / 3)
    torch.testing.assert_close(found.double(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_without_a_vote_the_network_alone_predicts() -> None:
    state, some = trained(method(["block1"])), faces(11, seed=5)
    alone = start(copy.deepcopy(state.nodes), BP, Recipe(), SIZE, 0, CPU)
    torch.testing.assert_close(predict(state, some, SIZE), predict(alone, some, SIZE))


@pytest.mark.parametrize("vote", [True, False])
def test_validation_tells_the_accuracy_of_every_unit_and_of_their_vote(vote: bool) -> None:
    state, some = trained(replace(VOTING, vote=vote)), faces(60, seed=5)
    found = validate(state, some, SIZE)
    single = [found[f"unit/{learner.unit.name}/accuracy"] for learner in state.learners]
    state.vote = False
    assert single[-1] == pytest.approx((predict(state, some, SIZE).argmax(1) == some.labels).double().mean().item())
    state.vote = True
    voted = (predict(state, some, SIZE).argmax(1) == some.labels).double().mean().item()
    assert found["val/vote_accuracy"] == pytest.approx(voted)
    assert found["val/accuracy"] == pytest.approx(voted if vote else single[-1])


@pytest.mark.parametrize(("right", "count"), [(379, 400), (1, 3), (0, 7)])
def test_an_accuracy_is_the_exact_ratio_so_that_all_tables_round_it_alike(right: int, count: int) -> None:
    labels = torch.tensor([1] * right + [0] * (count - right))
    assert accuracy(F.one_hot(torch.ones(count, dtype=torch.int64), 7).float(), labels) == right / count


@pytest.mark.parametrize("how", [VOTING, method("block"), BP, method("block", objective=ALONE)], ids=str)
def test_loaded_weights_predict_as_those_they_were_taken_from(how: Method) -> None:
    source, some = trained(how), faces(11, seed=5)
    target = begin(how, seed=9)
    target.load_weights({name: tensor.clone() for name, tensor in source.weights().items()})
    assert torch.equal(predict(source, some, SIZE), predict(target, some, SIZE))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: {name: tensor for name, tensor in t.items() if not name.startswith("head/block1/0")},
        lambda t: t | {"head/block9.trunk.0.weight": torch.zeros(1)},
        lambda t: t | {"head/block1/0-block1/1.classifier.bias": torch.zeros(8)},
    ],
    ids=["missing", "unknown", "misshaped"],
)
def test_weights_with_other_heads_are_refused_naming_the_unit(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    with pytest.raises((KeyError, RuntimeError), match=r"head.*block"):
        begin(VOTING).load_weights(spoil(trained(VOTING).weights()))


@pytest.mark.parametrize("objective", [ALONE, replace(OBJECTIVE, classifier=ClassMeans())], ids=["none", "class means"])
def test_units_without_a_trained_classifier_cannot_vote(objective: Objective) -> None:
    with pytest.raises(ValueError, match="vote: expected"):
        method(["block1"], objective=objective, vote=True)


def test_predictions_keep_the_order_of_the_faces() -> None:
    state, some = trained(), faces(11, seed=5)
    backwards = Faces(*(tensor.flip(0) for tensor in some))
    torch.testing.assert_close(predict(state, some, SIZE, 4), predict(state, backwards, SIZE, 4).flip(0))


def test_predictions_do_not_hang_on_the_mode_before_and_change_no_weight() -> None:
    state, some = trained(), faces(11, seed=5)
    before, found = snapshot(weights(state.nodes)), []
    for mode in (True, False):
        for node in state.nodes:
            node.module.train(mode)
        found.append(predict(state, some, SIZE))
    assert torch.equal(*found)
    assert not differing(weights(state.nodes), before)


def test_validation_counts_every_face_once() -> None:
    state, some = trained(), faces(300, seed=5)
    probabilities = torch.cat([predict(state, Faces(*(t[i : i + 50] for t in some)), SIZE) for i in range(0, 300, 50)])
    right = (probabilities.argmax(1) == some.labels).double().mean().item()
    loss = -probabilities[torch.arange(300), some.labels].double().log().mean().item()
    expected = {"val/loss": pytest.approx(loss, rel=1e-4), "val/accuracy": pytest.approx(right)}
    assert validate(state, some, SIZE) == expected


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_of_wrapped_networks_load(prefix: str) -> None:
    source, target = trained().nodes, build(MODEL, 9)
    load_weights(target, {prefix + name: tensor for name, tensor in weights(source).items()})
    assert not differing(weights(source), weights(target))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_module_inside_a_name_is_no_prefix(prefix: str) -> None:
    def network() -> list[Node]:
        return [Node("a_module.b", nn.ModuleDict({"module": nn.Linear(2, 2)}), (IMAGE,))]

    source, target = network(), network()
    load_weights(target, {prefix + name: tensor for name, tensor in weights(source).items()})
    assert not differing(weights(source), weights(target))


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("block1/1", "block1/9"): tensor for name, tensor in tensors.items()}


def short(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name != "fusion3.f1.2.bias"}


def extra(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"block9/0.weight": torch.zeros(1)}


def reshaped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"classifier.full.bias": torch.zeros(8)}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(renamed, "block1/1"), (short, "fusion3.f1.2.bias"), (extra, "block9/0.weight"), (reshaped, "full.bias")],
)
def test_weights_of_another_network_are_refused_by_name(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str
) -> None:
    with pytest.raises((KeyError, RuntimeError), match=named):
        load_weights(build(MODEL, 0), spoil(weights(build(MODEL, 0))))


def test_parameters_are_counted_once_and_buffers_not() -> None:
    network = (1 + 9 + 8 + 16) + (8 + 72 + 64 + 16) + (8 * 7 + 7)
    assert parameters(begin(BP, nodes=chain(2, 1, 8), average=0.9)) == network


def test_the_parameters_of_heads_count_where_they_vote() -> None:
    network, head = (1 + 9 + 8 + 16) + (8 + 72 + 64 + 16) + (8 * 7 + 7), (8 * 8 + 16) + (8 * 4 * 7 + 7)
    for vote in (True, False):
        state = begin(method(["block0"], vote=vote), nodes=chain(2, 1, 8))
        assert parameters(state) == network + vote * head


def test_objectives_differ_in_what_they_teach() -> None:
    """The dependence alone moves hidden units, and another way than their classifiers do."""
    results = []
    for fields in ({"cross_entropy": 0.0}, {"dependence": NoDependence()}, {"dependence": DebiasedCKA(beta=1.0)}):
        how = method(["block1"], objective=Objective(**{"head": OBJECTIVE.head} | fields))
        state = begin(how)
        steps(state, how, 2)
        results.append(snapshot(weights(state.nodes)))
    for a, b in itertools.combinations([*results, weights(build(MODEL, 0))], 2):
        assert "block1/0.0.weight" in differing(a, b)
