"""The separable convolution of several feature maps, with as little as possible kept for the backward pass."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Form = Literal["map_by_map", "joined", "autograd", "composed"]

# Rows (most output pixels, form) by device.
# CPU: processor time on one core of an Intel Xeon (AVX-512), float32. A layer of a dense block, both passes, in that of
# "autograd": "map_by_map" 0.75 at 50,000 pixels, 1.3 at 12,500, 1.9 at 200; "joined" 1.1, 1.3 and 1.4. Both keep no
# depthwise output and no concatenation. A step of BP at 224x224, 4 faces, takes 0.92 of the time and 97 of 355 MiB;
# under bfloat16 autocast, at 48x48 and 128 faces, 1.16 of the time and 81 of 284 MiB.
# CUDA: not measured yet, so that autograd stays; "composed" is one dense convolution, made for matrix units.
FORMS: dict[str, tuple[tuple[float, Form], ...]] = {
    "cpu": ((800, "autograd"), (5000, "joined"), (math.inf, "map_by_map")),
    "cuda": ((math.inf, "autograd"),),
}


def concatenate(inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate feature maps along channels; smaller ones are upsampled (nearest) to the first input's size."""
    size = inputs[0].shape[-2:]
    return torch.cat([x if x.shape[-2:] == size else F.interpolate(x, size=size) for x in inputs], 1)


def depthwise(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """Each of c maps (n, c, h, w) under a 3x3 kernel of its own (c, 1, 3, 3); on a CPU never in bfloat16."""
    if x.device.type != "cpu":
        return F.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))
    # There bfloat16 is slower, and its backward pass at stride 2 on maps of one pixel reads foreign memory (2.13).
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(x.to(kernel.dtype), kernel, stride=stride, padding=1, groups=len(kernel))


def form(device: str, pixels: int) -> Form:
    """How a separable convolution of `pixels` output pixels, faces x height x width, is computed."""
    return next(name for limit, name in FORMS.get(device, FORMS["cuda"]) if pixels <= limit)


def separable(maps: Sequence[Tensor], kernel: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Pointwise convolution (o, c, 1, 1) of the depthwise one (c, 1, 3, 3) of maps that have c channels in all.

    Smaller maps are upsampled (nearest) to the first one's size. All forms give the same but for rounding.
    """
    device, (n, _, height, width) = maps[0].device.type, maps[0].shape
    # A compiler fuses the plain formula itself.
    how = "autograd" if torch.compiler.is_compiling() else form(device, n * -(-height // stride) * -(-width // stride))
    if how == "autograd":
        return F.conv2d(depthwise(concatenate(maps), kernel, stride), weight)
    if how == "composed":
        return F.conv2d(concatenate(maps), kernel.transpose(0, 1) * weight, stride=stride, padding=1)
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    if device != "cpu":  # as in `depthwise`
        kernel = kernel.to(low)
    with torch.autocast(device, enabled=False):
        points, joined = weight[:, :, 0, 0].to(low), how == "joined"
        if not torch.is_grad_enabled():
            return _products(kernel, points, stride, joined, *maps)
        result: Tensor = Separable.apply(kernel, points, stride, joined, *maps)  # type: ignore[no-untyped-call]
        return result


class Context(Protocol):
    """What a `Separable` keeps from forward to backward, and what torch tells it; torch's own class lacks the names."""

    stride: int
    joined: bool
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors as `saved_tensors`."""


class Separable(torch.autograd.Function):
    """A separable convolution that keeps its incoming maps, which exist anyway, and makes depthwise outputs again.

    Autograd would keep the concatenated maps and the depthwise outputs as well, in a dense block fourteen times the
    result. No gradient is computed that nobody asked for.
    """

    @staticmethod
    def forward(ctx: Context, kernel: Tensor, weight: Tensor, stride: int, joined: bool, *maps: Tensor) -> Tensor:
        """Of kernels (c, 1, 3, 3), a weight (o, c) and maps (n, c_j, h_j, w_j) with sum c_j = c."""
        ctx.save_for_backward(kernel, weight, *maps)
        ctx.stride, ctx.joined = stride, joined
        return _products(kernel, weight, stride, joined, *maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the order of forward's arguments, None where none is needed."""
        kernel, weight, *maps = ctx.saved_tensors
        of_kernel, of_weight, _, _, *of_maps = ctx.needs_input_grad
        wanted = [any(of_maps)] if ctx.joined else of_maps
        kernels: list[Tensor] = []
        weights: list[Tensor] = []
        inputs: list[Tensor | None] = []
        for (x, k, w), of_x in zip(_parts(maps, kernel, weight, ctx.joined), wanted, strict=True):
            weights += [_rows(gradient).t() @ _rows(_depthwise(x, k, ctx.stride)).to(w.dtype)] if of_weight else []
            below = _maps((_rows(gradient) @ w).to(k.dtype), gradient.shape) if of_kernel or of_x else None
            kernels += [_of_kernel(below, x, k, ctx.stride)] if of_kernel and below is not None else []
            inputs.append(_of_input(below, x, k, ctx.stride) if of_x and below is not None else None)
        if ctx.joined:
            whole = inputs[0]
            inputs = [None] * len(maps) if whole is None else [*torch.split(whole, [x.shape[1] for x in maps], 1)]
        found = [
            _returned(g, x) if need and g is not None else None
            for g, x, need in zip(inputs, maps, of_maps, strict=True)
        ]
        of_parameters = torch.cat(kernels) if of_kernel else None, torch.cat(weights, 1) if of_weight else None
        return *of_parameters, None, None, *found


def _products(kernel: Tensor, weight: Tensor, stride: int, joined: bool, *maps: Tensor) -> Tensor:
    """The sum of the pointwise products of all maps' depthwise outputs."""
    total: Tensor | None = None
    for x, k, w in _parts(maps, kernel, weight, joined):
        spatial = _depthwise(x, k, stride)
        rows = _rows(spatial).to(w.dtype)
        total = rows @ w.t() if total is None else total.addmm_(rows, w.t())
    if total is None:
        raise ValueError("expected at least one feature map")
    return _maps(total, spatial.shape)


def _parts(
    maps: Sequence[Tensor], kernel: Tensor, weight: Tensor, joined: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Every map at the first one's size with its kernels and its columns of the weight; or, joined, all in one."""
    if joined:
        yield concatenate(maps).to(kernel.dtype, memory_format=torch.channels_last), kernel, weight
        return
    channels = [x.shape[1] for x in maps]
    for x, k, w in zip(maps, torch.split(kernel, channels), torch.split(weight, channels, 1), strict=True):
        x = x if x.shape[2:] == maps[0].shape[2:] else F.interpolate(x, size=maps[0].shape[2:])
        yield x.to(kernel.dtype, memory_format=torch.channels_last), k, w


def _rows(maps: Tensor) -> Tensor:
    """Maps (n, c, h, w) as (n h w, c): a view where they are channels_last."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """Rows (n h w, c) as maps (n, c, h, w) in channels_last, a view; n, h and w are those of `shape`."""
    return rows.view(shape[0], *shape[2:], -1).permute(0, 3, 1, 2)


def _depthwise(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return F.conv2d(x, kernel, stride=stride, padding=1, groups=len(kernel))


def _of_kernel(gradient: Tensor, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    return _convolution_backward(gradient, x, kernel, stride, [False, True, False])[1]


def _of_input(gradient: Tensor, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    if stride == 1:  # a convolution with the kernel turned about, which is up to three times as fast
        return _depthwise(gradient, kernel.flip(2, 3), 1)
    return _convolution_backward(gradient, x, kernel, stride, [True, False, False])[0]


def _convolution_backward(gradient: Tensor, x: Tensor, kernel: Tensor, stride: int, wanted: list[bool]) -> list[Tensor]:
    found: list[Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, [stride, stride], [1, 1], [1, 1], False, [0, 0], len(kernel), wanted
    )
    return found


def _returned(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of map x from that of x upsampled; never in the contiguous layout."""
    if gradient.shape != x.shape:
        gradient = torch.ops.aten.upsample_nearest2d_backward(gradient, gradient.shape[2:], x.shape)
    return gradient.to(x.dtype, memory_format=torch.channels_last)
