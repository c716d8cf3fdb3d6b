"""The comparison networks against the sizes that their papers publish, and against pytorchcv's own networks."""

import sys
from dataclasses import asdict, dataclass
from typing import Literal

import pytest
import torch
from pytorchcv.models.resnet import resnet18, resnet50
from torch import Tensor, nn

from cfpn import training
from cfpn.faces import Faces
from cfpn.graph import IMAGE, Node, run, units
from cfpn.network import CFPN
from cfpn.recipe import Recipe
from cfpn.training import Method
from pipeline import networks
from pipeline.networks import Baseline, build, described

# Parameters for 3 channels and 1,000 classes as published, filters and area of the first convolution, features that
# the last layer takes.
PUBLISHED = {
    "alexnet": (62_378_344, 96 * 11 * 11, 4096),
    "inception_v2": (11_295_240, 64 * 7 * 7, 1024),
    "resnet18": (11_689_512, 64 * 7 * 7, 512),
    "resnet50": (25_557_032, 64 * 7 * 7, 2048),
    "densenet121": (7_978_856, 64 * 7 * 7, 1024),
}
RESNETS = {"resnet18": (resnet18, (2, 2, 2, 2)), "resnet50": (resnet50, (3, 4, 6, 3))}
every_network = pytest.mark.parametrize("name", PUBLISHED)
every_resnet = pytest.mark.parametrize("name", RESNETS)


@dataclass(frozen=True)
class Shallow:
    """A network of the user's own."""

    name: Literal["shallow"] = "shallow"
    width: int = 8


def test_an_image_that_a_network_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.input_size: expected 64 or more for alexnet, found 48"):
        Baseline("alexnet", input_size=48)


@every_network
def test_a_network_has_its_published_size_but_for_one_channel_and_seven_classes(name: str) -> None:
    total, first, features = PUBLISHED[name]
    with torch.device("meta"):
        found = sum(p.numel() for node in build(Baseline(name), 0) for p in node.module.parameters())
    assert found == total - 2 * first - (1000 - 7) * (features + 1)


@every_network
@pytest.mark.parametrize(("classes", "channels"), [(7, 1), (3, 3)])
def test_a_network_leads_from_image_to_logits(name: str, classes: int, channels: int) -> None:
    with torch.device("meta"):
        nodes = build(Baseline(name, classes=classes, channels=channels), 0)
        last = nodes[-1].name
        features = run(nodes, {IMAGE: torch.empty(2, channels, 224, 224)}, [last])
    assert nodes[0].inputs == (IMAGE,)
    assert features[last].shape == (2, classes)


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - RESNETS.keys()))
def test_a_network_that_is_no_resnet_is_one_node(name: str) -> None:
    with torch.device("meta"):
        assert [node.name for node in build(Baseline(name), 0)] == [name]


@every_resnet
def test_a_resnet_has_a_node_per_residual_block(name: str) -> None:
    with torch.device("meta"):
        nodes = build(Baseline(name), 0)
    blocks = [f"stage{i}/{j}" for i, count in enumerate(RESNETS[name][1], 1) for j in range(1, count + 1)]
    assert [node.name for node in nodes] == ["stem", *blocks, "classifier"]
    found = [unit.name for unit in units(nodes, ["stage1", "stage3"])]
    assert found == ["stem-stage1", "stage2-stage3", "stage4-classifier"]


def whole(name: str) -> nn.Module:
    """pytorchcv's network as it comes, its last pooling made to fit 64x64, weights of seed 3."""
    torch.manual_seed(3)
    network = RESNETS[name][0](in_channels=1, num_classes=7)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return network.to(memory_format=torch.channels_last)


@every_resnet
def test_a_cut_resnet_gives_the_bits_of_the_whole_one(name: str) -> None:
    """Logits, gradients of all weights and running statistics, after a backward pass in training mode."""
    network, nodes = whole(name), build(Baseline(name, input_size=64), 3)
    images = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3])
    expected = network(images)
    nn.functional.cross_entropy(expected, labels).backward()
    (found,) = run(nodes, {IMAGE: images}, ["classifier"]).values()
    nn.functional.cross_entropy(found, labels).backward()
    assert torch.equal(found, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(parameters(nodes), network.parameters(), strict=True))
    buffers = (buffer for node in nodes for buffer in node.module.buffers())
    assert all(torch.equal(a, b) for a, b in zip(buffers, network.buffers(), strict=True))


def parameters(nodes: list[Node]) -> list[nn.Parameter]:
    return [p for node in nodes for p in node.module.parameters()]


def first(seed: int) -> Tensor:
    return parameters(build(Baseline("densenet121", input_size=64), seed))[0]


def test_a_case_of_build_that_draws_without_a_seed_gets_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_from_the_zoo", lambda _: [Node("own", nn.Linear(3, 2), (IMAGE,))])
    model, before = Baseline("alexnet", input_size=64), torch.get_rng_state()
    one, same, other = (build(model, seed)[0].module.weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_hang_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one = first(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(one, first(0))
    assert not torch.equal(one, first(1))


def test_the_model_zoo_is_not_imported_as_a_whole() -> None:
    """Its provider imports torchvision, which need not be there."""
    for name in PUBLISHED:
        with torch.device("meta"):
            build(Baseline(name), 0)
    assert not {"pytorchcv.model_provider", "torchvision"} & set(sys.modules)


@pytest.mark.parametrize("cuts", ["block", ["stage1", "stage2/1"]])
def test_resnet18_trains_a_step_without_back_propagation_through_it(cuts: str | list[str]) -> None:
    nodes = build(Baseline("resnet18", input_size=64), 0)
    before = [p.detach().clone() for p in parameters(nodes)]
    method, recipe = Method(units=cuts), Recipe(epochs=1, batch=8)
    pixels = torch.randint(0, 256, (8, 1, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    faces = Faces(pixels, torch.arange(8) % 7, torch.arange(8))
    state = training.start(nodes, method, recipe, 64, 0, torch.device("cpu"))
    step, _ = training.train(state, method, recipe, faces, faces, 0)
    hidden = [unit.name for unit in units(nodes, cuts)][:-1]
    assert [name for name in step.scalars if name.startswith("unit/")] == [f"unit/{name}/loss" for name in hidden]
    assert all(not torch.equal(a, b) for a, b in zip(before, parameters(nodes), strict=True))


@pytest.mark.parametrize("model", [CFPN(width=16, layers=1, pyramids=1), Baseline("resnet18"), Baseline("alexnet")])
def test_a_weights_file_describes_every_network_that_can_be_built(model: CFPN | Baseline) -> None:
    assert [node.name for node in described(asdict(model))] == [node.name for node in build(model, 0)]


def test_a_network_that_is_added_to_the_union_is_described_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "Model", CFPN | Baseline | Shallow)
    monkeypatch.setattr(networks, "build", lambda model, seed: [model, seed])
    assert described({"name": "shallow", "width": 3}) == [Shallow(width=3), 0]


@pytest.mark.parametrize("model", [{}, {"name": "vgg"}, {"name": ["cfpn"]}])
def test_a_network_of_another_version_is_refused_by_its_name(model: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^model\.name: no network of this version, found "):
        described(model)
