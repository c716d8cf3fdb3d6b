"""One trainer over units: equality with plain loops, averages, records, divergence, validation."""

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn import prediction, schema, training
from cfpn.checkpoint import tensors
from cfpn.diagnostics import diagnose
from cfpn.faces import Augmentation, Faces, augment, batches, generator, images, load
from cfpn.graph import IMAGE, Cuts, Node
from cfpn.heads import ClassMeans, balanced_weights
from cfpn.hsic import Gaussian
from cfpn.learner import Losses, unit_loss
from cfpn.network import build
from cfpn.objectives import Bottleneck, LocalLoss
from cfpn.prediction import predict, validate
from cfpn.recipe import Optimizer, Recipe
from cfpn.schedule import Schedule
from cfpn.training import SEED_AUGMENTATION, DivergedError, Method, State, start, train, train_step
from tests.cfpn.small import (
    ALONE,
    BATCH,
    BP,
    CPU,
    LOSS,
    MODEL,
    ONE_CYCLE,
    RATE,
    RECIPE,
    SIZE,
    VOTING,
    begin,
    data,
    differing,
    epochs,
    faces,
    local,
    method,
    nodes_of,
    one_step,
    own,
    partition,
    plain,
    snapshot,
    steps,
    trained,
    weights,
)


def test_network_is_a_plain_back_propagation_loop_bit_for_bit() -> None:
    how = method("network")
    state = begin(how)
    nodes = copy.deepcopy(nodes_of(state.network))
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
    assert [found["train/loss"] for found in steps(state, how, 4)] == losses
    assert not differing(weights(nodes_of(state.network)), weights(nodes))
    assert differing(weights(nodes_of(state.network)), weights(build(MODEL, 0)))


@local
def test_without_detaching_training_is_deep_supervision_bit_for_bit(cuts: Cuts) -> None:
    how = method(cuts, gradients="pass")
    state = begin(how)
    learners = copy.deepcopy([(learner.unit, learner.head) for learner in state.learners])
    nodes = [node for unit, _ in learners for node in unit.nodes]
    modules = nn.ModuleList([node.module for node in nodes] + [head for _, head in learners if head]).train()
    optimizer = torch.optim.Adam(modules.parameters(), lr=RATE, fused=True)
    for step in range(3):
        x, labels = data(step)
        features, to = {IMAGE: x}, LOSS.targets(x, labels, 7)
        loss = torch.zeros(())
        for unit, head in learners[:-1]:
            features = plain(unit.nodes, features)
            loss = loss + LOSS([features[name] for name in unit.outputs], to, head)
        features = plain(learners[-1][0].nodes, features)
        loss = loss + F.cross_entropy(features["classifier"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    steps(state, how)
    assert not differing(weights(nodes_of(state.network)), weights(nodes))


def test_a_unit_that_has_ended_stays_as_it_is_and_the_others_go_on() -> None:
    how, recipe = method(["block1"], schedule=Schedule(first_unit_stops_at=0.5)), Recipe(epochs=4, batch=BATCH)
    state = begin(how)
    names = [list(mine) for mine in own(state)]
    found = []
    for record in train(state, how, recipe, faces(2 * BATCH), faces(9), 0):
        if record.complete:
            found.append([[p.detach().clone() for p in mine] for mine in names])
    hidden, last = ([epoch[place] for epoch in found] for place in (0, 1))
    assert [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(hidden)] == [False, True, True]
    assert not any(all(map(torch.equal, a, b)) for a, b in itertools.pairwise(last))


def averages(state: State) -> dict[str, Tensor]:
    found = tensors(state)
    return {name: tensor for name, tensor in found.items() if name.startswith("averaged/")}


def test_the_average_is_that_of_its_recursion_in_float64() -> None:
    """Heads and running statistics included; the first steps weigh more, as Adam's warm-up needs."""
    how, recipe = method(["block1"]), Recipe(epochs=3, batch=BATCH, average=0.7)
    state = begin(how, average=0.7)
    expected = {name: tensor.double() for name, tensor in averages(state).items()}
    for step, _ in enumerate(r for r in train(state, how, recipe, faces(20), faces(9), 0) if not r.complete):
        decay, current = min(0.7, (1 + step) / (10 + step)), tensors(state)
        for name, mean in expected.items():
            own = current[name.replace("averaged/", "network/")]
            expected[name] = decay * mean + (1 - decay) * own.double()
    found = averages(state)
    assert any(name.startswith("averaged/heads.block1.trunk") for name in found)
    for name in found:
        if found[name].is_floating_point():
            torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)


def test_averaging_does_not_change_the_training() -> None:
    how, results = method(["block1"], schedule=ONE_CYCLE), []
    for average in (0.0, 0.9):
        state = begin(how, average=average)
        epochs(state, how, replace(RECIPE, average=average))
        results.append(snapshot(weights(nodes_of(state.network))))
        assert bool(differing(weights(nodes_of(state.averaged)), weights(nodes_of(state.network)))) == bool(average)
    assert not differing(*results)


def test_validation_sees_the_average() -> None:
    how, recipe = method(["block1"], schedule=ONE_CYCLE), replace(RECIPE, average=0.9)
    state = begin(how, average=0.9)
    last = epochs(state, how, recipe)[-1].scalars
    assert {name: last[name] for name in validate(state.averaged, faces(9, seed=1))} == validate(
        state.averaged, faces(9, seed=1)
    )
    plain = start(copy.deepcopy(nodes_of(state.averaged)), BP, Recipe(), SIZE, 0, CPU)
    assert validate(plain.averaged, faces(9, seed=1))["val/loss"] == pytest.approx(last["val/loss"], rel=1e-5)


def with_dropout() -> list[Node]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 7))
    return [Node("alexnet", network, (IMAGE,))]


def test_dropout_too_hangs_on_seed_epoch_and_step_alone() -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        how = method("network", schedule=ONE_CYCLE)
        state = begin(how, nodes=with_dropout())
        results.append([record.scalars for record in epochs(state, how, RECIPE)])
    assert results[0] == results[1]


def watched(seed: int, recipe: Recipe, layer: type[nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """What a layer of `with_dropout` takes and gives in every training step; all faces are the same one."""
    seen: list[tuple[Tensor, Tensor]] = []
    nodes, one = with_dropout(), faces(2 * BATCH)
    one = replace(one, pixels=one.pixels[:1].expand_as(one.pixels).contiguous())
    how = method("network", schedule=ONE_CYCLE)
    state = start(nodes, how, recipe, SIZE, seed, CPU)
    (watch,) = (module for module in nodes_of(state.network)[0].module.modules() if isinstance(module, layer))
    watch.register_forward_hook(lambda module, x, y: seen.append((x[0].clone(), y)) if module.training else None)
    list(train(state, how, recipe, one, faces(9), seed))
    return seen


def test_dropout_is_another_in_every_step_epoch_and_seed() -> None:
    recipe = Recipe(epochs=2, batch=BATCH)
    masks = [y == 0 for seed in (0, 1) for _, y in watched(seed, recipe, nn.Dropout)]
    assert len(masks) == 8
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(masks, 2))


def test_augmentation_is_another_in_every_step_epoch_and_seed() -> None:
    recipe = Recipe(epochs=2, batch=BATCH, augmentation=Augmentation(flip=True, shift=4))
    given = [x for seed in (0, 1) for x, _ in watched(seed, recipe, nn.AvgPool2d)]
    assert len(given) == 8
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(given, 2))
    plain_ones = [x for x, _ in watched(0, Recipe(epochs=2, batch=BATCH), nn.AvgPool2d)]
    assert all(torch.equal(x, plain_ones[0]) for x in plain_ones)


@pytest.mark.parametrize("cuts", ["network", "block"])
def test_training_leaves_the_global_generator_alone(cuts: Cuts) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    epochs(begin(method(cuts)), method(cuts, schedule=ONE_CYCLE), RECIPE, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_are_drawn_from_the_seed_and_leave_the_networks_weights_as_they_are() -> None:
    heads = [[learner.head for learner in begin(method("block"), seed).learners[:-1]] for seed in (0, 0, 1)]
    first, again, other = (nn.ModuleList(found).state_dict() for found in heads)
    assert not differing(first, again)
    assert any("trunk" in name for name in differing(first, other))
    assert not differing(weights(nodes_of(begin(method("block")).network)), weights(build(MODEL, 0)))


def test_all_methods_see_the_same_images_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Tensor]] = {}

    def spy(state: State, how: Method, x: Tensor, labels: Tensor, rates: list[float]) -> tuple[Losses, Tensor]:
        numbers = torch.cat([x.flatten(), labels, torch.tensor(rates[-1:])])
        seen.setdefault(f"{how.units} {state.learners[-1].precision}", []).append(numbers)
        return [("block1", x.new_zeros(()))], x.new_zeros(())

    monkeypatch.setattr(training, "launch", spy)
    for cuts in ("network", "block", "layer"):
        epochs(begin(method(cuts)), method(cuts, schedule=ONE_CYCLE), RECIPE)
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
    how, state = method("block"), begin(method("block"))
    name, state.epoch = poison(state, unit, value), 41  # of one step each
    with pytest.raises(DivergedError, match=rf"^step 42: the loss of unit {name} is nan$"):
        next(train(state, how, Recipe(epochs=99, batch=BATCH), faces(BATCH), faces(9), 0))


def test_divergence_in_train_names_the_step_counted_over_all_epochs() -> None:
    how = method("network")
    state = begin(how)
    records = train(state, how, RECIPE, faces(20), faces(9), 0)
    for _ in range(3):
        next(records)
    poison(state, -1, math.nan)
    with pytest.raises(DivergedError, match="step 3: the loss of unit network is nan"):
        next(records)


@pytest.mark.parametrize("every", [2, 3, 99])
def test_losses_that_are_read_together_change_no_number(monkeypatch: pytest.MonkeyPatch, every: int) -> None:
    how = method("block", schedule=ONE_CYCLE)
    one_by_one, together = begin(how), begin(how)
    expected = epochs(one_by_one, how, RECIPE)
    monkeypatch.setattr(training, "READ_EVERY", {"cpu": every})
    assert [record.scalars for record in epochs(together, how, RECIPE)] == [record.scalars for record in expected]
    assert not differing(together.network.state_dict(), one_by_one.network.state_dict())


def test_a_divergence_that_is_read_late_names_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "READ_EVERY", {"cpu": 5})
    state = begin(BP)
    records = train(state, BP, RECIPE, faces(20 * BATCH), faces(9), 0)
    assert [next(records).scalars for _ in range(2)] == [{}, {}]
    poison(state, -1, math.nan)
    assert [next(records).scalars for _ in range(2)] == [{}, {}]
    with pytest.raises(DivergedError, match="step 3: the loss of unit network is nan"):
        next(records)


def test_a_kernel_matrix_that_cannot_be_inverted_is_a_divergence_of_its_unit() -> None:
    how = method("block", local_loss=replace(LOSS, hsic=Bottleneck("normalised_hsic", kernel=Gaussian())))
    state = begin(how)
    poison(state, 0, math.nan)
    with pytest.raises(DivergedError, match=r"step 1: the loss of unit block1 (has no value|is nan)"):
        epochs(state, how, RECIPE, 1)


def test_a_factorisation_that_fails_is_a_divergence_of_its_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Tensor) -> Tensor:
        raise torch.linalg.LinAlgError("not positive-definite")

    how = method("block", local_loss=replace(LOSS, hsic=Bottleneck("normalised_hsic", kernel=Gaussian())))
    state = begin(how)
    images, labels = data()
    targets = how.local_loss.targets(images, labels, 7)
    monkeypatch.setattr(torch.linalg, "cholesky", fails)
    with pytest.raises(DivergedError, match="the loss of unit block1 has no value: not positive-definite"):
        unit_loss(state.learners[0], {IMAGE: images}, targets)


def test_a_validation_loss_that_is_not_finite_is_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    how = method("network")
    monkeypatch.setattr(prediction, "validate", lambda *_, **__: {"val/loss": math.nan, "val/accuracy": 0.1})
    with pytest.raises(DivergedError, match="epoch 1: the validation loss is nan"):
        list(train(begin(how), how, RECIPE, faces(20), faces(9), 0))


def test_the_loss_of_an_epoch_is_the_mean_over_the_steps_in_which_the_unit_learnt() -> None:
    how = method("block", schedule=Schedule(update_every=2))
    *within, last = train(begin(how), how, Recipe(epochs=1, batch=BATCH), faces(5 * BATCH), faces(9), 0)
    for name in ("unit/block1/loss", "unit/block2/loss", "train/loss"):
        found = [record.scalars[name] for record in within if name in record.scalars]
        assert last.scalars[name] == pytest.approx(sum(found) / len(found))


def test_records_tell_every_step_and_then_the_epoch_with_its_validation() -> None:
    how = method(["block1"])
    records = list(train(begin(how), how, RECIPE, faces(20), faces(9), 0))
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
    how = method(cuts, schedule=Schedule(learning_rate=0.03))
    state = begin(how)
    state.network.train()
    losses = [one_step(state, how, data(0), step) for step in range(15)]
    assert losses[-1]["train/loss"] < 0.8 * losses[0]["train/loss"]


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch: 64 is more than the 20 training faces"):
        epochs(begin(method("network")), method("network"), Recipe(epochs=1, batch=64))


@pytest.mark.parametrize("rest", [Schedule(update_every=2), Schedule(first_unit_stops_at=0.5)], ids=str)
def test_where_gradients_pass_no_unit_can_rest(rest: Schedule) -> None:
    with pytest.raises(ValueError, match="schedule: expected update_every 1 and first_unit_stops_at 1"):
        Method(gradients="pass", schedule=rest)


def test_only_the_last_unit_has_no_head() -> None:
    assert [learner.head is None for learner in begin(method("block")).learners] == [False] * 5 + [True]


@pytest.mark.parametrize("vote", [True, False])
def test_validation_tells_the_accuracy_of_every_unit_and_of_their_vote(vote: bool) -> None:
    state, some = trained(replace(VOTING, vote=vote)), faces(60, seed=5)
    found = validate(state.averaged, some)
    single = [found[f"unit/{learner.unit.name}/accuracy"] for learner in state.learners]
    state.averaged.vote = False
    assert single[-1] == pytest.approx(
        (predict(state.averaged, some.pixels).argmax(1) == some.labels).double().mean().item()
    )
    state.averaged.vote = True
    voted = (predict(state.averaged, some.pixels).argmax(1) == some.labels).double().mean().item()
    assert found["val/vote_accuracy"] == pytest.approx(voted)
    assert found["val/accuracy"] == pytest.approx(voted if vote else single[-1])


@pytest.mark.parametrize("loss", [ALONE, replace(LOSS, classifier=ClassMeans())], ids=["none", "class means"])
def test_units_without_a_trained_classifier_cannot_vote(loss: LocalLoss) -> None:
    with pytest.raises(ValueError, match="vote: expected"):
        method(["block1"], local_loss=loss, vote=True)


def test_validation_counts_every_face_once() -> None:
    state, some = trained(), faces(300, seed=5)
    probabilities = torch.cat([predict(state.averaged, some.pixels[i : i + 50]) for i in range(0, 300, 50)])
    right = (probabilities.argmax(1) == some.labels).double().mean().item()
    loss = -probabilities[torch.arange(300), some.labels].double().log().mean().item()
    expected = {"val/loss": pytest.approx(loss, rel=1e-4), "val/accuracy": pytest.approx(right)}
    assert validate(state.averaged, some) == expected


def test_local_losses_differ_in_what_they_teach() -> None:
    """The HSIC term alone moves hidden units, and another way than their classifiers do."""
    results = []
    for fields in ({"classifier_weight": 0.0}, {"hsic_weight": 0.0}, {"hsic": Bottleneck("debiased_cka", beta=1.0)}):
        how = method(["block1"], local_loss=LocalLoss(**{"head": LOSS.head} | fields))
        state = begin(how)
        steps(state, how, 2)
        results.append(snapshot(weights(nodes_of(state.network))))
    for a, b in itertools.combinations([*results, weights(build(MODEL, 0))], 2):
        assert "block1/0.0.weight" in differing(a, b)


def test_an_unknown_way_of_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match="gradients: expected stop or pass, found 'detach'"):
        Method(gradients="detach")


@partition
def test_the_average_is_a_network_of_its_own_with_the_same_units(cuts: Cuts) -> None:
    state = begin(method(cuts), average=0.9)
    mine, average = (dict(network.named_parameters()) for network in (state.network, state.averaged))
    assert list(mine) == list(average)
    assert not {id(p) for p in mine.values()} & {id(p) for p in average.values()}
    for network in (state.network, state.averaged):
        held = {id(p) for node in nodes_of(network) for p in node.module.parameters()}
        assert held == {id(p) for p in network.nodes.parameters()}


def test_without_an_average_validation_sees_the_network_itself() -> None:
    state = begin(BP)
    assert state.averaged is state.network


@partition
@pytest.mark.parametrize("gradients", ["stop", "pass"])
def test_colour_faces_of_another_side_with_ten_classes_train(
    cuts: Cuts, gradients: Literal["stop", "pass"], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (20, 3, 32, 32), np.uint8), np.arange(20) % 10
    description = schema.Description(side=32, channels=3, classes=tuple("abcdefghij"))
    schema.write(tmp_path / "x.parquet", pixels, labels, np.arange(20), description)
    some = load(tmp_path / "x.parquet")
    model = replace(MODEL, channels=3, classes=len(some.classes))
    how, recipe = method(cuts, gradients=gradients, vote=True), replace(RECIPE, epochs=1)
    state = start(build(model, 0), how, recipe, SIZE, 0, CPU, channels=3, classes=10)
    before = snapshot(tensors(state))
    records = list(train(state, how, recipe, some, some, 0))
    assert [record.complete for record in records] == [False, False, True]
    assert all(math.isfinite(value) for record in records for value in record.scalars.values())
    changed = differing(before, {name: value for name, value in tensors(state).items() if name in before})
    assert len(changed) > len(before) / 2
    found = predict(state.averaged, some.pixels)
    assert found.shape == (20, 10)
    torch.testing.assert_close(found.sum(1), torch.ones(20))


def drawn(state: State) -> State:
    """The state with classifiers that are not 0, where neither weights nor smoothing change a loss."""
    for name, weight in state.network.named_parameters():
        if "classifier" in name:
            nn.init.normal_(weight, generator=generator(0))
    return state


@partition
@pytest.mark.parametrize("gradients", ["stop", "pass"])
def test_balanced_classes_weigh_every_units_cross_entropy(cuts: Cuts, gradients: Literal["stop", "pass"]) -> None:
    how = method(cuts, gradients=gradients, local_loss=replace(LOSS, hsic_weight=0.0))
    some = faces(BATCH)
    recipe = replace(RECIPE, epochs=1, batch=len(some), class_weights="balanced")
    state, by_hand, plain_one = (drawn(begin(how)) for _ in range(3))
    record, _ = train(state, how, recipe, some, some, 0)
    x, labels = next(iter(batches(some, len(some), 0, 0)))
    for learner in by_hand.learners:
        learner.class_weights = balanced_weights(some.labels, 7)
    by_hand.network.train()
    random = generator(0, SEED_AUGMENTATION, 0, 0)
    x = augment(images(x, SIZE), recipe.augmentation, random, some.side)
    expected = train_step(by_hand, how, x, labels, how.schedule.rates(0, 1, len(state.learners)))
    assert record.scalars == expected
    unweighted = next(train(plain_one, how, replace(recipe, class_weights="none"), some, some, 0)).scalars
    assert unweighted["train/accuracy"] == record.scalars["train/accuracy"]
    assert unweighted["train/loss"] != expected["train/loss"]
    assert all(unweighted[name] != expected[name] for name in expected if name.endswith("loss"))


@pytest.mark.parametrize(
    "other", [{"class_weights": "balanced"}, {"label_smoothing": 0.3}, {"precision": "bfloat16"}], ids=str
)
def test_the_loss_of_back_propagation_is_that_which_diagnostics_compare_with(other: dict[str, Any]) -> None:
    some, recipe = faces(3 * BATCH), replace(RECIPE, epochs=1, **other)
    state = begin(BP, recipe=recipe)
    list(train(state, BP, recipe, some, some, 0))
    found = diagnose(state, BP, some, some)
    assert all(value == pytest.approx(1.0) for name, value in found.items() if name.endswith("bp_cosine"))


@partition
@pytest.mark.parametrize("gradients", ["stop", "pass"])
def test_label_smoothing_reaches_every_units_cross_entropy(cuts: Cuts, gradients: Literal["stop", "pass"]) -> None:
    how = method(cuts, gradients=gradients, local_loss=replace(LOSS, hsic_weight=0.0))
    hard, soft = (drawn(begin(how, recipe=Recipe(batch=BATCH, label_smoothing=share))) for share in (0.0, 0.3))
    images, labels = data()
    found = steps(soft, how, 1)[0]
    every = [steps(copy.deepcopy(hard), how, 1)[0]]
    for label in range(7):
        state = copy.deepcopy(hard)
        state.network.train()
        every.append(one_step(state, how, (images, torch.full_like(labels, label)), 0))
    for name in found.keys() - {"train/accuracy"}:
        uniform = sum(one[name] for one in every[1:]) / 7
        assert found[name] == pytest.approx(0.7 * every[0][name] + 0.3 * uniform, rel=1e-4)
        assert found[name] != every[0][name]


@partition
def test_every_unit_steps_by_the_optimizer_that_is_asked_for(cuts: Cuts) -> None:
    state = begin(method(cuts), recipe=Recipe(batch=BATCH, optimizer=Optimizer("sgd", 0.01)))
    assert {type(learner.optimizer) for learner in state.learners} == {torch.optim.SGD}
    assert {group["weight_decay"] for one in state.learners for group in one.optimizer.param_groups} == {0.01}


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_step_by_hand_keeps_statistics_as_one_of_train_does(average: float) -> None:
    state = begin(VOTING, average=average)
    before = snapshot(state.network.state_dict())
    train_step(state, VOTING, *data(), [RATE] * len(state.learners))
    changed = [name for name in differing(before, state.network.state_dict()) if "running_mean" in name]
    assert len(changed) == sum("running_mean" in name for name in before) > 0


def three(*modules: nn.Module) -> list[Node]:
    """Nodes one after the other."""
    names = ["one", "two", "three"]
    return [
        Node(name, module, (before,)) for name, module, before in zip(names, modules, [IMAGE, *names], strict=False)
    ]


END = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("last", "how", "named"),
    [
        (nn.Linear(8, 7), method("layer", local_loss=ALONE), "two"),
        (nn.Linear(8, 7), method("layer", local_loss=ALONE), "two, frozen"),
        (nn.Identity(), method("layer"), "three"),
        (nn.Identity(), method("layer", gradients="pass"), "three"),
    ],
)
def test_a_unit_without_a_weight_that_its_loss_trains_is_refused_by_name(
    last: nn.Module, how: Method, named: str
) -> None:
    two = nn.Conv2d(8, 8, 3).requires_grad_(False) if "frozen" in named else nn.ReLU()
    nodes = three(nn.Conv2d(1, 8 if isinstance(last, nn.Linear) else 7, 3), two, nn.Sequential(*END, last))
    with pytest.raises(ValueError, match=f"unit '{named.split(',')[0]}': expected a weight that its loss can train"):
        begin(how, nodes=nodes)


def test_a_unit_without_weights_of_its_own_learns_by_its_head() -> None:
    how = method("layer")
    state = begin(how, nodes=three(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Sequential(*END, nn.Linear(8, 7))))
    assert set(steps(state, how, 1)[0]) >= {"unit/one/loss", "unit/two/loss"}


def test_the_seconds_of_a_record_are_those_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.time, "perf_counter", itertools.count().__next__)
    found = [record.seconds for record in epochs(begin(BP), BP, RECIPE)]
    assert len(found) == RECIPE.epochs and len(set(found)) == 1


def test_faces_are_moved_to_where_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = []
    monkeypatch.setattr(Faces, "to", lambda own, device: moved.append((len(own), device)) or own)
    epochs(begin(BP), BP, RECIPE, 1)
    assert moved == [(20, CPU), (9, CPU)]
