"""Layers against the paper's equations, written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfpn.layers import Activation, Classifier, Fusion3, SeparableConvolution, Stem, activation
from cfpn.separable import concatenate


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomised(module: nn.Module) -> nn.Module:
    for i, tensor in enumerate(module.parameters()):
        tensor.data = draw(*tensor.shape, seed=i)
    return module


@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_is_t_of_the_weighted_concatenation_as_in_eq_7(stride: int) -> None:
    maps = [draw(4, channels, 9, 9, seed=channels) for channels in (3, 2, 1)]
    layer = randomised(SeparableConvolution(6, 5, "relu", stride=stride))
    weights = layer.connection.split([3, 2, 1])
    weighted = torch.cat([w[:, None, None] * x for w, x in zip(weights, maps, strict=True)], 1)
    slices = [F.conv2d(weighted[:, i : i + 1], layer.depthwise[i : i + 1], None, stride, 1) for i in range(6)]
    mixed = torch.einsum("oi,nihw->nohw", layer.pointwise.weight[:, :, 0, 0], torch.cat(slices, 1))
    mean, variance = mixed.mean((0, 2, 3), keepdim=True), mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    gain, shift = layer.norm.weight[:, None, None], layer.norm.bias[:, None, None]
    expected = torch.relu((mixed - mean) / (variance + layer.norm.eps).sqrt() * gain + shift)
    torch.testing.assert_close(layer(*maps), expected, rtol=1e-4, atol=1e-5)


def test_the_connection_weights_get_the_gradient_of_scaled_feature_maps() -> None:
    x = draw(2, 3, 6, 6)
    layer = randomised(SeparableConvolution(3, 2, "tanh"))
    kernel = draw(2, 2, 6, 6, seed=9)
    (found,) = torch.autograd.grad((layer(x) * kernel).sum(), layer.connection)
    w = layer.connection.detach().clone().requires_grad_()
    reference = F.conv2d(x * w[:, None, None], layer.depthwise, padding=1, groups=3)
    reference = torch.tanh(layer.norm(layer.pointwise(reference)))
    (expected,) = torch.autograd.grad((reference * kernel).sum(), w)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_connection_weights_start_at_one() -> None:
    assert torch.equal(SeparableConvolution(6, 5, "relu").connection, torch.ones(6))


@pytest.mark.parametrize(("inputs", "outputs"), [(128, 16), (48, 16), (192, 64)])
def test_a_separable_convolution_has_the_parameters_of_eqs_9_to_11(inputs: int, outputs: int) -> None:
    layer = SeparableConvolution(inputs, outputs, "relu")
    spatial, pointwise = layer.depthwise.numel(), sum(p.numel() for p in layer.pointwise.parameters())
    assert (spatial, pointwise) == (3 * 3 * inputs, inputs * outputs)
    ordinary = nn.Conv2d(inputs, outputs, 3, bias=False).weight.numel()
    assert (spatial + pointwise) / ordinary == pytest.approx(1 / outputs + 1 / 3**2)
    rest = {name for name, _ in layer.named_parameters()} - {"depthwise", "pointwise.weight"}
    assert rest == {"connection", "norm.weight", "norm.bias"}


def test_fusion3_is_x_times_f2_of_f1_of_its_global_average_as_in_eq_15() -> None:
    maps = [draw(5, 4, 3, 3, seed=i) for i in range(3)]
    fusion = randomised(Fusion3(12, 6))
    x = torch.cat(maps, 1)

    def f(value: Tensor, norm: nn.Module, full: nn.Module) -> Tensor:
        centred = (value - value.mean(0)) / (value.var(0, unbiased=False) + norm.eps).sqrt()
        return torch.relu(centred * norm.weight + norm.bias) @ full.weight.T + full.bias

    attention = f(f(x.mean((2, 3)), fusion.f1[0], fusion.f1[2]), fusion.f2[0], fusion.f2[2])
    torch.testing.assert_close(fusion(*maps), x * attention[:, :, None, None], rtol=1e-4, atol=1e-5)


def test_fusion3_starts_as_the_identity_and_learns_from_there() -> None:
    fusion, x = Fusion3(8, 4), draw(5, 8, 3, 3)
    assert torch.equal(fusion(x), x)
    fusion(x).square().sum().backward()
    assert fusion.f2[2].weight.grad.abs().sum() > 0


def test_smaller_maps_are_upsampled_to_the_first_inputs_size() -> None:
    large, small = draw(2, 3, 7, 7), draw(2, 4, 4, 4, seed=1)
    found = concatenate((large, small))
    nearest = torch.arange(7) * 4 // 7
    assert torch.equal(found, torch.cat([large, small[:, :, nearest][:, :, :, nearest]], 1))


def test_a_size_upsamples_the_output_as_in_eq_13() -> None:
    plain, sized = SeparableConvolution(3, 2, "relu"), SeparableConvolution(3, 2, "relu", size=8)
    sized.load_state_dict(plain.state_dict())
    x = draw(2, 3, 4, 4)
    expected = plain(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(sized(x), expected)


@pytest.mark.parametrize(("name", "reference"), [("relu", F.relu), ("tanh", torch.tanh), ("elu", F.elu)])
def test_activations_are_the_papers(name: Activation, reference: nn.Module) -> None:
    x = draw(100)
    assert torch.equal(activation(name)(x.clone()), reference(x))


def test_the_first_layer_mixes_all_filters_over_the_one_channel_at_half_size() -> None:
    stem = Stem(1, 12, "relu")
    assert stem[0].weight.shape == (12, 1, 3, 3)
    assert stem(draw(2, 1, 9, 9)).shape == (2, 12, 5, 5)


def test_the_classifier_is_linear_in_the_global_average() -> None:
    x, classifier = draw(3, 6, 4, 4), Classifier(6, 7)
    expected = x.mean((2, 3)) @ classifier.full.weight.T + classifier.full.bias
    torch.testing.assert_close(classifier(x), expected)


@pytest.mark.parametrize("channels", [8, 16, 24])
@pytest.mark.parametrize("side", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_under_bfloat16_are_near_those_of_float32_on_the_smallest_maps(
    channels: int, side: int, stride: int
) -> None:
    """PyTorch's own bfloat16 depthwise gradient of 8 maps of one pixel at stride 2 was uninitialised memory."""
    layer = SeparableConvolution(channels, channels, "tanh", stride=stride).to(memory_format=torch.channels_last)
    x = torch.empty_strided((8, channels, side, side), (channels * side**2, 1, channels * side, channels))
    x.copy_(draw(*x.shape))
    gradients = []
    for low in (False, *[True] * 8):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = layer(x.bfloat16() if low else x)
        loss = (y.float() * draw(*y.shape, seed=1)).sum()
        litter = [torch.full((2**power * part,), torch.nan) for power in range(2, 13) for part in [2, 3, 9] * 8]
        del litter
        gradients.append(torch.autograd.grad(loss, layer.depthwise)[0])
    assert all((gradients[0] - found).norm() < 0.1 * gradients[0].norm() for found in gradients[1:])


def test_layers_keep_channels_last() -> None:
    x = draw(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    layer = SeparableConvolution(8, 8, "relu").to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
