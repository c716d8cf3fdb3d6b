"""Training gives the numbers that were recorded before the library had its present form.

tests/golden/steps.json: five steps in float64 of commit 6abfb10; another order of summation changes them by 1e-10.
tests/golden/methods.json: three steps of each method of each profile in float32, compared bit for bit. They were those
of commit 6abfb10 until the separable convolution added its products map by map; since then they are its own.
Numbers in float32 hold on the machine and the torch of the recording alone: Adam turns rounding into whole steps, so
that another order of summation moves a loss by 1e-2 after five. Elsewhere only the losses of the first step count.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cfpn.faces import Augmentation, Faces
from cfpn.heads import ClassMeans
from cfpn.hsic import Gaussian
from cfpn.network import CFPN, Network, build
from cfpn.objectives import Bottleneck, LocalLoss, SimilarityMatching
from cfpn.schedule import Schedule
from cfpn.training import Method, Recipe, State, start, train

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
STEPS, METHODS = (json.loads((GOLDEN / f"{name}.json").read_text()) for name in ("steps", "methods"))
Scalars = dict[str, float]
OTHER_MACHINE = 1e-3  # relative, of the losses of a first step in float32; 3e-4 was seen

BLOCKS = ["block1", "block2", "block3"]
FLIPPED = Augmentation(flip=True, shift=2)
RECIPES = {
    "sample": Recipe(augmentation=FLIPPED, average=0.995),
    "fer2013-cpu": Recipe(augmentation=FLIPPED, average=0.99),
    "paper": Recipe(),
}
SAMPLE, FER, PAPER = (
    Schedule(0.01, "one_cycle", first_unit_stops_at=0.65),
    Schedule(0.016, "one_cycle", first_unit_stops_at=0.65),
    Schedule(0.005),
)
SCALED = Gaussian(sigma=5.0, bandwidth="scaled")
BOTH = LocalLoss(hsic=Bottleneck("debiased_cka", beta=100.0), hsic_weight=0.1, classifier_weight=1.0)
EMBEDDED = replace(BOTH, z="embedding")


def alone(hsic: Bottleneck | SimilarityMatching) -> LocalLoss:
    """The term alone, on the features, without a classifier."""
    return LocalLoss(hsic=hsic, hsic_weight=1.0, classifier_weight=0.0)


def fer(loss: LocalLoss, **fields: Any) -> Method:  # noqa: ANN401
    return Method(**{"units": BLOCKS, "local_loss": loss, "schedule": FER} | fields)


NBP = fer(BOTH, vote=True)
DEEP = fer(BOTH, gradients="pass", vote=True, schedule=Schedule(0.008, "one_cycle"))
LAYERS = fer(alone(Bottleneck("debiased_cka")), units="layer", schedule=replace(FER, update_every=4))
ONE = Method(units="network", schedule=PAPER)
FROZEN = replace(PAPER, first_unit_stops_at=0.65)
PRINTED = replace(alone(Bottleneck("eq4", kernel=SCALED)), pool=0, grid=0, input_pool=0)
RECORDED = {  # the methods of commit 6abfb10, by profile and name
    "sample/nbp": replace(NBP, schedule=SAMPLE),
    "sample/bp": Method(units="network", schedule=Schedule(0.01, "one_cycle")),
    "fer2013-cpu/nbp": NBP,
    "fer2013-cpu/bp": Method(units="network", schedule=Schedule(0.008, "one_cycle")),
    "fer2013-cpu/hsic_only": fer(replace(EMBEDDED, hsic_weight=1.0, classifier_weight=0.0)),
    "fer2013-cpu/hsic_class_means": fer(replace(EMBEDDED, classifier=ClassMeans(temperature=0.2))),
    "fer2013-cpu/local_ce": fer(LocalLoss(hsic_weight=0.0, classifier_weight=1.0), vote=True),
    "fer2013-cpu/deep_supervision": DEEP,
    "fer2013-cpu/eq4": fer(alone(Bottleneck("eq4", kernel=SCALED))),
    "fer2013-cpu/normalised_hsic": fer(alone(Bottleneck("normalised_hsic", kernel=SCALED))),
    "fer2013-cpu/cka": fer(alone(Bottleneck("cka"))),
    "fer2013-cpu/debiased_cka": fer(alone(Bottleneck("debiased_cka"))),
    "fer2013-cpu/layers": LAYERS,
    "fer2013-cpu/similarity_matching": fer(alone(SimilarityMatching())),
    "paper/nbp": fer(PRINTED, units="layer", schedule=PAPER),
    "paper/bp": ONE,
    "paper/bp_recompute": replace(ONE, recompute=True),
    "paper/blocks": replace(NBP, schedule=FROZEN),
    "paper/blocks_recompute": replace(NBP, schedule=FROZEN, recompute=True),
    "paper/layers": replace(LAYERS, schedule=replace(PAPER, update_every=4)),
}
FIVE_STEPS = {"nbp": NBP, "bp": Method(units="network"), "deep_supervision": DEEP, "layers": LAYERS}


def faces(number: int, seed: int) -> Faces:
    """Noise, brighter for higher labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 7, number)
    pixels = random.integers(0, 100, (number, 48, 48)) + 20 * labels[:, None, None]
    return Faces(torch.from_numpy(pixels.astype(np.uint8))[:, None], torch.from_numpy(labels), torch.arange(number))


def begin(method: Method, recipe: Recipe, size: int = 48) -> State:
    return start(build(CFPN(input_size=size, width=16), 0), method, recipe, size, 0, torch.device("cpu"))


def trained(state: State, method: Method, recipe: Recipe, count: int) -> tuple[list[Scalars], Scalars]:
    """What an epoch of `count` faces says: after each step, and at the end."""
    *steps, last = [record.scalars for record in train(state, method, recipe, faces(count, 0), faces(16, 1), 0)]
    return steps, last


def five_steps(name: str, double: bool) -> tuple[State, list[Scalars], Scalars]:
    about = STEPS["recipe"]
    method = replace(FIVE_STEPS[name], schedule=Schedule(about["learning_rate"], about["shape"]))
    recipe = Recipe(epochs=1, batch=about["batch"])
    state = begin(method, recipe)
    if double:
        state.network.double()
    return state, *trained(state, method, recipe, about["batch"] * about["steps"])


def losses(scalars: Scalars) -> Scalars:
    return {name: value for name, value in scalars.items() if name.endswith("loss")}


def recorded_names(network: Network, heads: bool = True) -> dict[str, Tensor]:
    """All weights and buffers under the names of the recording."""
    modules = dict(network.nodes.items())
    modules |= {f"head/{name}": head for name, head in network.heads.items()} if heads else {}
    return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}


def machine() -> dict[str, str]:
    """What decides the bits: the build of torch, the processor and what it can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = hashlib.sha256(found.get("flags", "").encode()).hexdigest()[:16]
    return {"torch": torch.__version__, "cpu": found.get("model name", ""), "cpu_flags": flags}


def recorded_on(golden: dict[str, Any]) -> dict[str, str]:
    return {key: golden[key] for key in machine()}


@pytest.mark.parametrize("name", FIVE_STEPS)
def test_five_steps_in_float64_give_the_recorded_losses_and_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # nothing on the way is rounded to float32
    golden = STEPS["methods"][name]["float64"]
    state, steps, last = five_steps(name, double=True)
    found = recorded_names(state.network)
    assert [losses(step) for step in steps] == [pytest.approx(step, rel=1e-9) for step in golden["steps"]]
    assert {key: last[key] for key in golden["validation"]} == pytest.approx(golden["validation"], rel=1e-9)
    for key, (total, squares) in golden["tensors"].items():
        assert found[key].dtype == torch.float64
        assert found[key].sum().item() == pytest.approx(total, rel=1e-9, abs=1e-9), key
        assert found[key].square().sum().item() == pytest.approx(squares, rel=1e-9, abs=1e-9), key
    expected = recorded_names(state.network, heads=name != "layers")  # whose heads no loss takes
    assert set(golden["tensors"]) == {key for key in expected if "running_" not in key and "num_batches" not in key}


@pytest.mark.parametrize("name", FIVE_STEPS)
def test_five_steps_in_float32_give_the_recorded_losses(name: str) -> None:
    _, steps, _ = five_steps(name, double=False)
    golden = STEPS["methods"][name]["float32"]["steps"]
    if machine() != recorded_on(STEPS):
        assert losses(steps[0]) == pytest.approx(golden[0], rel=OTHER_MACHINE)
        return
    assert [losses(step) for step in steps] == [pytest.approx(step, rel=1e-4) for step in golden]


def digest(tensors: dict[str, Tensor]) -> str:
    content = hashlib.sha256()
    for name in sorted(tensors):
        content.update(tensors[name].detach().contiguous().numpy().tobytes())
    return content.hexdigest()


def test_every_recorded_method_is_trained_again() -> None:
    assert list(RECORDED) == list(METHODS["methods"])
    assert len(RECORDED) == 20


@pytest.mark.parametrize("name", RECORDED)
def test_three_steps_of_a_method_give_the_recorded_bits(name: str) -> None:
    golden, method = METHODS["methods"][name], RECORDED[name]
    recipe = replace(RECIPES[name.split("/")[0]], epochs=1, batch=METHODS["batch"])
    state = begin(method, recipe, golden["input_size"])
    found, last = trained(state, method, recipe, 3 * METHODS["batch"])
    found = [*found, {key: last[key] for key in golden["validation"]}]
    expected = [{k: float.fromhex(v) for k, v in step.items()} for step in [*golden["steps"], golden["validation"]]]
    if machine() != recorded_on(METHODS):
        assert losses(found[0]) == pytest.approx(losses(expected[0]), rel=OTHER_MACHINE)
        return
    assert found == expected
    assert digest(recorded_names(state.network)) == golden["weights"]
    assert digest(recorded_names(state.averaged, heads=method.local_loss.classifies)) == golden["kept"]
