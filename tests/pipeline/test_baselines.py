"""The comparison networks against the sizes that their papers and libraries publish."""

import sys

import pytest
import torch
from torch import Tensor

from cfpn.graph import IMAGE, run
from pipeline.baselines import Baseline, build

# Parameters for 3 channels and 1,000 classes as published, filters and area of the first convolution, features that
# the last layer takes.
PUBLISHED = {
    "alexnet": (62_378_344, 96 * 11 * 11, 4096),
    "inception_v2": (11_295_240, 64 * 7 * 7, 1024),
    "resnet50": (25_557_032, 64 * 7 * 7, 2048),
    "densenet121": (7_978_856, 64 * 7 * 7, 1024),
}
every_network = pytest.mark.parametrize("name", PUBLISHED)


@every_network
def test_a_network_has_its_published_size_but_for_one_channel_and_seven_classes(name: str) -> None:
    total, first, features = PUBLISHED[name]
    with torch.device("meta"):
        found = sum(p.numel() for node in build(Baseline(name), 0) for p in node.module.parameters())
    assert found == total - 2 * first - (1000 - 7) * (features + 1)


@every_network
@pytest.mark.parametrize("classes", [7, 3])
def test_a_network_is_one_node_from_image_to_logits(name: str, classes: int) -> None:
    with torch.device("meta"):
        nodes = build(Baseline(name, classes=classes), 0)
        (node,) = nodes
        features = run(nodes, {IMAGE: torch.empty(2, 1, 224, 224)}, [name])
    assert (node.name, node.inputs) == (name, (IMAGE,))
    assert features[name].shape == (2, classes)


def first(seed: int) -> Tensor:
    return next(build(Baseline("densenet121", input_size=32), seed)[0].module.parameters())


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
