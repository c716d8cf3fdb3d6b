"""Claims about bench/naive.py: the naive network is the same graph in another order."""

import io
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from bench import naive
from cfpn import network as networks
from cfpn.graph import IMAGE, run
from cfpn.layers import SeparableConvolution
from cfpn.network import CFPN
from cfpn.recipe import Recipe
from cfpn.training import State
from pipeline.process import InputError

SMALL = CFPN(input_size=16, width=16, layers=1, pyramids=1)


def test_the_naive_network_has_the_same_feature_sizes() -> None:
    nodes = networks.build(SMALL, 0)
    names = [node.name for node in nodes]
    with torch.no_grad():
        shapes = {name: f.shape for name, f in run(nodes, {IMAGE: torch.zeros(2, 1, 16, 16)}, names).items()}
        other = run(naive.naive(networks.build(SMALL, 0), "relu"), {IMAGE: torch.zeros(2, 1, 16, 16)}, names)
    assert {name: f.shape for name, f in other.items()} == shapes


def test_means_ratio_and_quartiles_are_of_the_steps_after_the_warm_up_which_alternate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = {"cfpn": iter([9, 9, 0.1, 0.2, 0.3, 0.4]), "naive": iter([9, 9, 0.2, 0.2, 0.2, 0.2])}
    asked: list[str] = []

    def start(command: list[str]) -> SimpleNamespace:
        assert command[:-1] == ["the command", "--variant"]
        return SimpleNamespace(stdin=command[-1], stdout=seconds[command[-1]], communicate=lambda: None)

    def ask(variant: str, answer: Iterator[float]) -> float:
        asked.append(variant)
        return next(answer)

    monkeypatch.setattr(naive, "_start", start)
    monkeypatch.setattr(naive, "_ask", ask)
    result = naive.measure(["the command"], 4)
    assert asked == ["cfpn", "naive"] * 6
    expected = {"cfpn_ms": 250, "naive_ms": 200, "ratio": 1.25}  # pairs: 0.5, 1, 1.5 and 2 times
    assert {name: result[name] for name in expected} == pytest.approx(expected)
    assert result["quartiles"] == pytest.approx([0.625, 1.875])


@pytest.mark.parametrize("variant", ["cfpn", "naive"])
def test_every_line_is_a_training_step_of_the_variant(
    variant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, told, step = [], [], naive.train_step

    def spy(state: State, *arguments: object) -> None:
        step(state, *arguments)
        module = state.network.nodes["block2/0"]
        weights.append(module.pointwise.weight.detach().clone())
        assert isinstance(module, SeparableConvolution if variant == "cfpn" else naive.NaiveSeparableConvolution)

    monkeypatch.setattr(naive, "train_step", spy)
    monkeypatch.setattr(naive, "keep_freed_memory", lambda: told.append("keep"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n\n"))
    naive.step_when_asked(SMALL, Recipe(batch=8), 1, variant)
    assert len(list(map(float, capsys.readouterr().out.split()))) == len(weights) == 3
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(weights))
    assert told == (["keep"] if variant == "cfpn" else [])


def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(InputError, match="a measured process has ended before its time"):
        naive.measure([sys.executable, "-c", "raise SystemExit(3)"], 2)


def test_the_command_starts_processes_that_answer_until_they_are_told_to_end() -> None:
    small = ["model.input_size=16", "model.width=16", "model.layers=1", "model.pyramids=1", "train.batch=8"]
    result = naive.measure([sys.executable, "-m", "bench.naive", "--set", *small], 2)
    assert min(result["cfpn_ms"], result["naive_ms"]) > 0
