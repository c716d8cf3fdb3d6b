"""A face leaves when the vote so far is sure enough, and nothing else about its answer changes."""

import copy
import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cfpn import anytime, separable
from cfpn.graph import IMAGE, Node
from cfpn.heads import Head
from cfpn.layers import Classifier, SeparableConvolution
from cfpn.network import Network
from cfpn.prediction import opinions, predict, unit_log_probabilities
from tests.cfpn.small import BP, VOTING, faces, trained

COUNT = 23


@cache
def voting() -> Network:
    """A network whose units have opinions."""
    network = trained(VOTING).averaged
    for number, head in enumerate(network.heads.values()):
        nn.init.normal_(head.classifier.weight, 0, 1.5, generator=torch.Generator().manual_seed(number))
    return network.eval()


@cache
def pixels() -> Tensor:
    return faces(COUNT, seed=5).pixels


def leaving_by_hand(sure: float) -> tuple[Tensor, Tensor]:
    """Probabilities and units asked, from what all units say of each face."""
    logs = torch.stack(list(unit_log_probabilities(voting(), pixels()).values()), 1)
    answers, asked = [], []
    for face in logs:
        for count in range(1, len(face) + 1):
            vote = face[:count].mean(0).softmax(0)
            if vote.max() >= sure:
                break
        answers.append(vote)
        asked.append(count)
    return torch.stack(answers), torch.tensor(asked)


@pytest.mark.parametrize("sure", [0.2, 0.3, 0.4, 0.6])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_a_face_leaves_with_the_vote_of_the_units_that_were_asked(sure: float, batch: int) -> None:
    expected, asked = leaving_by_hand(sure)
    found = opinions(voting(), pixels(), sure, batch)
    assert torch.equal(found.asked, asked)
    torch.testing.assert_close(found.vote(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(predict(voting(), pixels(), batch, exit=sure), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sure", [0.2, 0.4, 0.6, 1.0])
def test_leaving_after_all_have_answered_gives_the_same_votes_and_counts(sure: float) -> None:
    expected = opinions(voting(), pixels(), sure)
    votes, asked = anytime.leave(unit_log_probabilities(voting(), pixels()), sure)
    assert torch.equal(asked, expected.asked)
    torch.testing.assert_close(votes, expected.vote(), rtol=1e-4, atol=1e-6)


def test_some_faces_leave_early_and_some_do_not_in_these_tests() -> None:
    assert set(leaving_by_hand(0.4)[1].tolist()) == {1, 2, 3}


def test_with_an_exit_that_is_never_reached_the_answer_is_that_of_the_full_vote() -> None:
    torch.testing.assert_close(predict(voting(), pixels(), exit=1.0), predict(voting(), pixels()), rtol=1e-4, atol=1e-6)


def test_units_that_were_not_asked_have_no_opinion() -> None:
    found = opinions(voting(), pixels(), 0.4)
    silent = found.logs.isnan().all(2)
    assert torch.equal(silent, torch.arange(3) >= found.asked[:, None])
    assert torch.equal(silent, found.logs.isnan().any(2))


def test_later_units_see_the_faces_that_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    run = anytime.run
    monkeypatch.setattr(
        anytime, "run", lambda nodes, x, keep: sizes.append(len(next(iter(x.values())))) or run(nodes, x, keep)
    )
    asked = opinions(voting(), pixels(), 0.4).asked
    assert sizes == [int((asked >= unit).sum()) for unit in (1, 2, 3)]


def test_multiply_adds_grow_from_unit_to_unit_and_end_with_the_whole_networks() -> None:
    costs = anytime.multiply_adds(voting())
    assert costs == sorted(set(costs))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        voting()(torch.zeros(1, 1, 16, 16))
    assert costs[-1] == counter.get_total_flops() // 2


@pytest.mark.parametrize("form", ["joined", "map_by_map"])
def test_multiply_adds_are_those_of_a_hand_count_in_every_form_of_the_layer(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(separable.FORMS, "cpu", ((math.inf, form),))
    layer = Node("layer", SeparableConvolution(4, 5, "relu"), (IMAGE, IMAGE))
    nodes = [layer, Node("end", Classifier(5, 3), ("layer",))]
    network = Network(nodes, "network", input_size=8, channels=2, classes=3, head=Head())
    depthwise, pointwise = 4 * 9 * 8 * 8, 4 * 5 * 8 * 8
    assert anytime.multiply_adds(network) == [depthwise + pointwise + 5 * 3]


def test_multiply_adds_of_a_unit_are_those_up_to_its_own_classifier() -> None:
    layer = Node("layer", SeparableConvolution(4, 5, "relu"), (IMAGE, IMAGE))
    nodes = [layer, Node("end", Classifier(5, 3), ("layer",))]
    how = {"input_size": 8, "channels": 2, "classes": 3, "vote": True, "pool": 0}
    network = Network(nodes, "layer", head=Head(1, 3), **how)
    unit = 4 * 9 * 8 * 8 + 4 * 5 * 8 * 8
    opinion = 5 * 3 * 8 * 8 + 3 * 2 * 2 * 3  # a 1x1 convolution to three maps, a classifier of their 2x2 means
    assert anytime.multiply_adds(network) == [unit + opinion, unit + opinion + 5 * 3]


def test_opinions_do_not_hang_on_the_mode_before_and_leave_evaluation_mode() -> None:
    expected = opinions(voting(), pixels(), 0.4)
    own = copy.deepcopy(voting()).train()
    found = opinions(own, pixels(), 0.4)
    assert torch.equal(found.logs.nan_to_num(), expected.logs.nan_to_num())
    assert not own.training


@pytest.mark.parametrize("sure", [0.0, -1.0, 1.1, float("nan")])
def test_an_exit_that_is_no_probability_is_refused(sure: float) -> None:
    with pytest.raises(ValueError, match="exit: expected a probability"):
        predict(voting(), pixels(), exit=sure)


def test_an_exit_is_refused_where_units_do_not_vote() -> None:
    with pytest.raises(ValueError, match="do not vote"):
        predict(trained(BP).averaged, pixels(), exit=0.5)


def test_no_face_is_no_answer() -> None:
    assert opinions(voting(), pixels()[:0], 0.5).vote().shape == (0, 7)


def test_predicting_leaves_the_network_as_it_was() -> None:
    before = {name: value.clone() for name, value in voting().state_dict().items()}
    predict(voting(), pixels(), exit=0.4)
    assert all(torch.equal(before[name], value) for name, value in voting().state_dict().items())
