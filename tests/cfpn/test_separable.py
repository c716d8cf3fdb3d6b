"""The separable convolution against the plain formula, in every form."""

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cfpn import separable as module
from cfpn.layers import SeparableConvolution
from cfpn.separable import FORMS, Form, Separable, form, separable

FORMS_OF_A_CPU = get_args(Form)
CASES = [  # channels and sides of the incoming maps, stride
    ([5], [7], 1),
    ([5], [7], 2),
    ([1, 3], [6, 6], 1),
    ([3, 2, 4], [8, 8, 8], 2),
    ([3, 2], [7, 4], 1),
    ([2, 3, 1], [5, 3, 1], 2),
    ([4, 3], [1, 1], 1),
    ([4, 3], [2, 1], 2),
]


@pytest.fixture(params=FORMS_OF_A_CPU)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Form:
    """One form for every size."""
    monkeypatch.setitem(FORMS, "cpu", ((math.inf, request.param),))
    return request.param


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    value = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value


def plain(maps: list[Tensor], kernel: Tensor, weight: Tensor, stride: int) -> Tensor:
    """What the layer is: concatenate the maps, convolve each channel, mix the channels."""
    size = maps[0].shape[-2:]
    x = torch.cat([F.interpolate(x, size=size) for x in maps], 1)
    x = F.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))
    return F.conv2d(x, weight)


def arguments(channels: list[int], sides: list[int], outputs: int = 4) -> tuple[list[Tensor], Tensor, Tensor]:
    maps = [draw(2, c, side, side, seed=i) for i, (c, side) in enumerate(zip(channels, sides, strict=True))]
    return maps, draw(sum(channels), 1, 3, 3, seed=8), draw(outputs, sum(channels), 1, 1, seed=9)


@pytest.mark.parametrize(("channels", "sides", "stride"), CASES)
def test_values_and_all_gradients_are_those_of_the_plain_formula(
    how: Form, channels: list[int], sides: list[int], stride: int
) -> None:
    maps, kernel, weight = arguments(channels, sides)
    inputs = [tensor.requires_grad_() for tensor in (kernel, weight, *maps)]
    expected, found = (f(maps, kernel, weight, stride) for f in (plain, separable))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradient = draw(*expected.shape, seed=10)
    pairs = zip(*(torch.autograd.grad(y, inputs, gradient) for y in (found, expected)), strict=True)
    for own, reference in pairs:
        torch.testing.assert_close(own, reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("channels", "sides", "stride"), CASES)
@pytest.mark.parametrize("how", ["map_by_map", "joined"], indirect=True)
def test_gradcheck(how: Form, channels: list[int], sides: list[int], stride: int) -> None:
    maps, kernel, weight = arguments(channels, sides, outputs=2)
    inputs = [tensor.requires_grad_() for tensor in (kernel, weight, *maps)]
    assert torch.autograd.gradcheck(lambda k, w, *maps: separable(maps, k, w, stride), inputs)


def work(device: str, wanted: list[bool], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The convolutions of a backward pass in which only some of kernel, weight and two maps want a gradient."""
    maps, kernel, weight = arguments([3, 2], [6, 6])
    for tensor, wants in zip((kernel, weight, *maps), wanted, strict=True):
        tensor.requires_grad_(wants)
    y = separable(maps, kernel, weight, 1)
    done: list[str] = []
    for name in ("_depthwise", "_of_kernel", "_of_input"):
        call = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, name=name, call=call: (done.append(name), call(*a))[1])
    y.sum().backward()
    monkeypatch.undo()
    assert [t.grad is not None for t in (kernel, weight, *maps)] == wanted
    return sorted(done)


def test_no_gradient_is_computed_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "form", lambda device, pixels: "map_by_map")
    assert work("cpu", [True, True, False, False], monkeypatch) == ["_depthwise"] * 2 + ["_of_kernel"] * 2
    monkeypatch.setattr(module, "form", lambda device, pixels: "map_by_map")
    assert work("cpu", [False, True, False, False], monkeypatch) == ["_depthwise"] * 2
    monkeypatch.setattr(module, "form", lambda device, pixels: "map_by_map")
    assert work("cpu", [False, False, False, True], monkeypatch) == ["_depthwise", "_of_input"]


@pytest.mark.parametrize("how", ["map_by_map", "joined"], indirect=True)
def test_only_the_incoming_maps_and_the_weights_are_kept(how: Form) -> None:
    maps, kernel, weight = arguments([3, 2, 2], [6, 6, 3])
    inputs = [tensor.requires_grad_() for tensor in (kernel, weight, *maps)]
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        separable(maps, kernel, weight, 1)
    assert {x.data_ptr() for x in kept} == {x.data_ptr() for x in inputs}


def test_values_and_gradients_stay_in_channels_last(how: Form) -> None:
    layer = SeparableConvolution(16, 8, "relu").to(memory_format=torch.channels_last)
    maps = [draw(2, 8, side, side, dtype=torch.float32).requires_grad_() for side in (6, 3)]
    y = layer(*maps)
    assert y.is_contiguous(memory_format=torch.channels_last)
    gradients = torch.autograd.grad(y, maps, torch.randn(2, 8, 6, 6))  # arrives in the other layout
    assert how not in ("map_by_map", "joined") or all(g.stride(1) == 1 for g in gradients)  # joined: a slice of one


def test_maps_in_the_other_layout_give_the_same(how: Form) -> None:
    maps, kernel, weight = arguments([3, 2], [6, 6])
    other = [x.contiguous() for x in maps]
    torch.testing.assert_close(separable(other, kernel, weight, 1), separable(maps, kernel, weight, 1))


def test_a_layer_used_twice_and_one_run_again_by_checkpoint_have_the_gradients_of_the_plain_formula(how: Form) -> None:
    maps, kernel, weight = arguments([3, 1], [6, 6])
    weight = weight[:3].contiguous()
    inputs = [tensor.requires_grad_() for tensor in (kernel, weight, *maps)]

    def twice(f: object) -> Tensor:
        first = f(maps, kernel, weight, 1)
        return f([torch.tanh(first), maps[1]], kernel, weight, 1).square().sum()

    expected = torch.autograd.grad(twice(plain), inputs)
    again = checkpoint(lambda: twice(separable), use_reentrant=False)
    for found in (torch.autograd.grad(twice(separable), inputs), torch.autograd.grad(again, inputs)):
        for own, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(own, reference, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_autocast_is_near_float32(how: Form, stride: int) -> None:
    maps = [draw(4, c, 6, 6, seed=c, dtype=torch.float32).requires_grad_() for c in (8, 3, 5)]
    kernel, weight = draw(16, 1, 3, 3, dtype=torch.float32), draw(8, 16, 1, 1, dtype=torch.float32)
    inputs = [*maps, kernel.requires_grad_(), weight.requires_grad_()]
    expected = separable(maps, kernel, weight, stride)
    gradient = draw(*expected.shape, seed=3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = separable([x.bfloat16() for x in maps], kernel, weight, stride)
    assert found.dtype == torch.bfloat16
    both = [torch.autograd.grad(y, inputs, gradient.to(y.dtype)) for y in (found, expected)]
    for own, reference in [(found.float(), expected), *zip(*both, strict=True)]:
        assert own.dtype == reference.dtype
        assert (own - reference).norm() < 0.03 * reference.norm()


def test_without_gradients_the_custom_function_is_not_used(how: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    maps, kernel, weight = arguments([3, 2], [6, 3])
    monkeypatch.setattr(Separable, "apply", None)
    with torch.no_grad():
        torch.testing.assert_close(separable(maps, kernel, weight, 2), plain(maps, kernel, weight, 2))


def test_the_form_is_a_function_of_device_and_size_alone() -> None:
    assert [form("cpu", pixels) for pixels in (1, 800, 801, 5001)] == ["autograd", "autograd", "joined", "map_by_map"]
    assert form("cuda", 10**6) == form("xpu", 1) == "autograd"


def test_names_shapes_and_first_weights_of_a_layer_are_what_they_were() -> None:
    torch.manual_seed(0)
    state = SeparableConvolution(6, 5, "relu").state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.startswith("norm.")}
    assert shapes == {"connection": (6,), "depthwise": (6, 1, 3, 3), "pointwise.weight": (5, 6, 1, 1)}
    torch.manual_seed(0)
    kernel = torch.nn.init.kaiming_uniform_(torch.empty(6, 1, 3, 3), nonlinearity="linear")
    assert torch.equal(state["depthwise"], kernel)
    assert torch.equal(state["pointwise.weight"], torch.nn.Conv2d(6, 5, 1, bias=False).weight)


@pytest.mark.filterwarnings("ignore")
def test_a_layer_can_be_exported() -> None:
    layer, maps = SeparableConvolution(5, 4, "relu").eval(), (draw(2, 3, 6, 6).float(), draw(2, 2, 3, 3).float())
    exported = torch.export.export(layer, maps).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(*maps), layer(*maps))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_layer_can_be_compiled() -> None:
    layer, maps = SeparableConvolution(5, 4, "relu"), (draw(2, 3, 6, 6).float(), draw(2, 2, 3, 3).float())
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(*maps), layer(*maps), rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(f(*maps).square().sum(), layer.depthwise)[0] for f in (compiled, layer)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
