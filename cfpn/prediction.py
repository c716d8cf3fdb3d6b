"""What a trained network says of faces: the logits of every unit, their vote, probabilities."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cfpn import anytime, faces
from cfpn.anytime import Opinions
from cfpn.faces import Faces
from cfpn.graph import IMAGE, run
from cfpn.network import Network


def predict(
    network: Network, pixels: Tensor | np.ndarray, batch: int | None = None, exit: float | None = None
) -> Tensor:
    """Probabilities (n, classes) float32 for pixels (n, h, w) or (n, c, h, w) uint8, in their order.

    batch: faces of a forward pass; None: as many as `faces.per_pass` says. exit: a face leaves once the vote of the
    units so far gives a class this probability; None: all units vote.
    Raises ValueError for pixels of another shape or type, and for an exit where units do not vote.
    """
    if exit is not None:
        return opinions(network, pixels, exit, batch).vote()
    return vote(unit_log_probabilities(network, pixels, batch), network.vote)


def opinions(network: Network, pixels: Tensor | np.ndarray, exit: float, batch: int | None = None) -> Opinions:
    """What each unit says of faces that leave early, and how many units were asked; as `predict` with an exit."""
    anytime.check(network, exit)
    network.eval()
    device = next(network.parameters()).device
    with torch.no_grad():
        chunks = [
            anytime.opinions(network, faces.images(chunk.to(device), network.input_size), exit)
            for chunk in _chunks(network, pixels, batch)
        ]
    logs, asked = torch.cat([part.logs for part in chunks]), torch.cat([part.asked for part in chunks])
    return Opinions(chunks[0].units, logs, asked)


def unit_log_probabilities(
    network: Network, pixels: Tensor | np.ndarray, batch: int | None = None
) -> dict[str, Tensor]:
    """Log probabilities (n, classes) float32 of every unit with a trained classifier, by its name; the last one's last.

    pixels: (n, h, w) or (n, c, h, w) uint8. The network is left in evaluation mode.
    """
    network.eval()
    device = next(network.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for chunk in _chunks(network, pixels, batch):
            for name, logits in network(faces.images(chunk.to(device), network.input_size)).items():
                parts.setdefault(name, []).append(logits.float().log_softmax(1))
    return {name: torch.cat(chunks) for name, chunks in parts.items()}


def features(network: Network, pixels: Tensor | np.ndarray, unit: str, batch: int | None = None) -> dict[str, Tensor]:
    """What a unit hands on: maps (n, c, h, w) by the name of their node; of the last unit, the logits (n, classes).

    pixels and batch as for `predict`. unit: a name of `network.units`; ValueError for another.
    The network is left in evaluation mode.
    """
    if unit not in (names := [own.name for own in network.units]):
        raise ValueError(f"unit: expected one of {', '.join(names)}, found {unit!r}")
    network.eval()
    device = next(network.parameters()).device
    own = network.units[names.index(unit)]
    nodes = [node for each in network.units[: names.index(unit) + 1] for node in each.nodes]
    with torch.no_grad():
        parts = [
            run(nodes, {IMAGE: faces.images(chunk.to(device), network.input_size)}, own.outputs)
            for chunk in _chunks(network, pixels, batch)
        ]
    return {name: torch.cat([part[name] for part in parts]) for name in own.outputs}


def vote(units: dict[str, Tensor], together: bool) -> Tensor:
    """Probabilities (n, classes) from log probabilities of units (n, classes) each.

    together: in proportion to the geometric mean of all units; else those of the last unit alone.
    """
    logs = torch.stack(list(units.values()))
    return (logs.mean(0) if together else logs[-1]).softmax(1)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of rows of scores (n, classes) whose largest stands at the label."""
    return (scores.argmax(1) == labels).double().mean().item()


def validate(network: Network, validation: Faces) -> dict[str, float]:
    """Loss and accuracy over all faces, each counted once; also of each unit's classifier and of their vote."""
    found = unit_log_probabilities(network, validation.pixels)
    probabilities = vote(found, network.vote)
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), validation.labels)
    result = {"val/loss": loss.item(), "val/accuracy": accuracy(probabilities, validation.labels)}
    if len(found) > 1:
        together = vote(found, together=True)
        result["val/vote_accuracy"] = accuracy(together, validation.labels)
        result |= {f"unit/{name}/accuracy": accuracy(own, validation.labels) for name, own in found.items()}
    return result


def _chunks(network: Network, pixels: Tensor | np.ndarray, batch: int | None) -> Sequence[Tensor]:
    size = faces.per_pass(network.input_size) if batch is None else batch
    return torch.split(checked(pixels, network.channels), size)


def checked(pixels: Tensor | np.ndarray, channels: int) -> Tensor:
    """Pixels (n, h, w) or (n, c, h, w) uint8 as a tensor (n, c, h, w); raises ValueError for others."""
    if not isinstance(pixels, Tensor | np.ndarray):
        raise ValueError(f"pixels: expected an array or a tensor, found {type(pixels).__name__}")
    grey = pixels.ndim == 3 and channels == 1
    fits = grey or (pixels.ndim == 4 and pixels.shape[1] == channels)
    if not fits or pixels.dtype not in (torch.uint8, np.uint8):
        found = f"{pixels.dtype} of shape {tuple(pixels.shape)}"
        raise ValueError(f"pixels: expected uint8 of shape (n, {channels}, h, w), found {found}")
    # A copy, because torch takes neither read-only arrays nor mirrored views.
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return tensor[:, None] if grey else tensor
