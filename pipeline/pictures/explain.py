"""What a network looked at: occlusion (Zeiler & Fergus, ECCV 2014), by the face's own blurred pixels.

A patch of 8x8 pixels moves over the face in steps of 4 and is replaced by what it looks like when it is blurred. A
pixel's importance is the mean loss of the log probability over the patches that hold it. Of fifteen explanations that
were compared by deletion, this one and gradient times difference to the blurred face lowered the probability most;
the latter is a scatter of single pixels, in which people see nothing.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import anytime, faces, prediction
from cfpn.network import Network

PATCH, STEP = 8, 4  # pixels of a face of 48x48
BLUR = 11  # pixels, side of the window


def importance(network: Network, pixels: Tensor | np.ndarray, classes: Tensor, asked: Tensor | None = None) -> Tensor:
    """Importance (n, h, w), in nats, of pixels as `cfpn.predict` takes them for the probabilities of classes (n,).

    asked: how many units vote on each face, (n,) int64, where faces leave early.
    """
    whole = prediction.checked(pixels, network.channels)
    face, soft = whole.float(), blurred(whole)
    before = log_probability(network, face, classes, asked)
    total, count = torch.zeros_like(face[:, 0]), torch.zeros_like(face[0, 0])
    for rows, columns in patches(*whole.shape[-2:]):
        hidden = face.clone()
        hidden[:, :, rows, columns] = soft[:, :, rows, columns]
        lost = before - log_probability(network, hidden, classes, asked)
        total[:, rows, columns] += lost[:, None, None]
        count[rows, columns] += 1
    return total / count


def patches(height: int, width: int) -> list[tuple[slice, slice]]:
    """Where the patches stand; together they cover the face."""

    def along(side: int) -> list[slice]:
        starts = [*range(0, max(side - PATCH, 0), STEP), max(side - PATCH, 0)]
        return [slice(start, start + PATCH) for start in starts]

    return [(rows, columns) for rows in along(height) for columns in along(width)]


def blurred(pixels: Tensor) -> Tensor:
    """Each pixel (n, c, h, w) as the mean of the window around it; the border is the nearest pixel."""
    padded = F.pad(pixels.float(), [BLUR // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, BLUR, 1)


def deleted(pixels: Tensor, order: Tensor, share: float) -> Tensor:
    """Faces (n, c, h, w) float32 whose share of pixels with the largest order (n, h, w) is replaced by blurred ones."""
    count = round(share * order[0].numel())
    chosen = order.flatten(1).topk(count, 1).indices
    mask = torch.zeros_like(order).flatten(1).scatter_(1, chosen, 1.0).view_as(order)[:, None]
    return pixels * (1 - mask) + blurred(pixels) * mask


def log_probability(network: Network, face: Tensor, classes: Tensor, asked: Tensor | None = None) -> Tensor:
    """Log probabilities (n,) of classes (n,) for faces (n, c, h, w) with values in 0..255 that need not be whole."""
    network.eval()
    parts = []
    with torch.no_grad():
        for some in torch.split(torch.arange(len(face)), faces.per_pass(network.input_size)):
            logits = network(faces.images(face[some], network.input_size))
            units = {name: own.float().log_softmax(1) for name, own in logits.items()}
            vote = prediction.vote(units, network.vote) if asked is None else early(units, asked[some])
            parts.append(vote.log())
    return torch.cat(parts).gather(1, classes[:, None])[:, 0]


def early(units: Mapping[str, Tensor], asked: Tensor) -> Tensor:
    """Probabilities (n, classes) by the first `asked` (n,) of the units' log probabilities (n, classes) each."""
    logs = torch.stack([*units.values()], 1)
    later = torch.arange(len(units)) >= asked[:, None]
    return anytime.Opinions(tuple(units), logs.masked_fill(later[..., None], torch.nan), asked).vote()
